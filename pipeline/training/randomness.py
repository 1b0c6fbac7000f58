"""What is random in training, and what must not be: the same seed on the same machine gives the same bits.

The draws are those of torch's own generators (weights, dropout) and of one for the order of queries. Their states are
part of a checkpoint, so that a resumed run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .parallel import World


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On CUDA, ask for algorithms whose sums have a fixed order; on a CPU they have."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # nothing is read before it is written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


def own_draws(world: World, seed: int) -> None:
    """From here on each process draws its own dropout; process 0 goes on as if it were alone."""
    if world.rank:
        torch.manual_seed(seed + world.rank)


def random_state(world: World) -> dict[str, Tensor]:
    """The generators of all processes, [processes, bytes] each. Every process must call it."""
    state = {"rng.cpu": world.gather(torch.get_rng_state())}
    if world.device.type == "cuda":
        state["rng.cuda"] = world.gather(torch.cuda.get_rng_state(world.device))
    return state


def restore_random_state(state: Mapping[str, Tensor], world: World) -> None:
    """The inverse, where the processes and their kind of device are the same as then; else what can be restored."""
    if world.rank < len(state["rng.cpu"]):
        torch.set_rng_state(state["rng.cpu"][world.rank].clone())  # it misreads views
    if world.device.type == "cuda" and world.rank < len(state.get("rng.cuda", ())):
        torch.cuda.set_rng_state(state["rng.cuda"][world.rank].clone(), world.device)
