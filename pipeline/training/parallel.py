"""Several processes that train one model (data parallel), started by torchrun: what they tell each other.

Every process has the whole model and a share of every batch. Losses are sums over what is in the share, divided by the
counts of the whole batch, so the gradients of the shares add up to the gradient of the batch: one sum, no averaging.
They cross in one flat tensor, with the losses behind them. Process 0 alone writes and validates. No pickle crosses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...extract.encoders import usable_device
from ..loading.batches import Share

PATIENCE = timedelta(hours=6)  # with process 0, which validates while the others wait


@dataclass(frozen=True)
class World:
    """The processes that train together; one alone needs nobody."""

    device: torch.device
    rank: int = 0
    size: int = 1
    here: int = 1
    """How many of them are on this machine."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, validates and talks."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Share:
        """This process's rows of a batch; where there are none, a row that does not count, for the steps' sake."""
        mine = batch[self.rank :: self.size]
        return Share(mine, len(mine) / len(batch)) if len(mine) else Share(batch[:1], 0.0)

    def add(self, *tensors: Tensor) -> None:
        """Make each tensor (of one type) the sum over all processes, in place and in one exchange."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [p.view(t.shape) for p, t in zip(parts, tensors, strict=True)])

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, of one shape, on the host: [size, ...]."""
        if self.size == 1:
            return tensor.cpu()[None]
        parts = [torch.empty_like(tensor, device=self.device) for _ in range(self.size)]
        dist.all_gather(parts, tensor.to(self.device))
        return torch.stack(parts).cpu()

    def told(self, tree: Any) -> Any:
        """What process 0 has, anything that JSON can hold; the others' argument does not count. All wait for it."""
        if self.size == 1:
            return tree
        said = list(json.dumps(tree).encode()) if self.first else []
        length = torch.tensor([len(said)], device=self.device)
        dist.broadcast(length, 0)
        text = torch.tensor(said or [0] * int(length), dtype=torch.uint8, device=self.device)
        dist.broadcast(text, 0)
        return json.loads(bytes(text.tolist()))


@contextmanager
def together(device: str) -> Iterator[World]:
    """The processes that torchrun started, or this one alone. Raises ValueError where they cannot use the device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(usable_device(device))
        return
    if device.startswith("cuda"):
        if device != "cuda":
            raise ValueError(f"expected --device cuda or cpu with several processes (each takes its own), got {device}")
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    place = usable_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(place, dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    finally:
        dist.destroy_process_group()
