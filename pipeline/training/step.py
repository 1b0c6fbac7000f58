"""One step of optimisation: forward, losses, backward, clip, AdamW, running mean. Nothing in it waits for the device.

A step takes a batch in parts (accumulated ones, those of other processes). The terms of every part are divided by the
counts of the whole, so the parts' losses and gradients add up to it. Losses are summed up on the device and read now
and then, in one transfer.

A step whose loss or gradient is not finite changes nothing, nor does any after it. So when the flag is read, the
weights still are those before the first bad step, and its number and its terms are there to be named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...heads.losses import LossWeights, batch_counts
from ..config import Config
from ..loading.dataset import Batch
from ..model import RDMF
from .ema import RunningMean
from .loss_scale import LossScale
from .objective import loss_of, targets_of
from .parallel import World

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Part:
    """Queries of one step that go through the model together."""

    batch: Batch
    weight: float = 1.0
    """0 for a stand-in, which is there for the steps' sake."""


@dataclass(frozen=True)
class Reading:
    """What the device says of the steps since the last reading."""

    losses: dict[str, float]
    """Means over these steps."""
    gradient_norm: float
    """Likewise, before clipping."""
    epoch_losses: dict[str, float]
    """Means over the epoch so far."""
    first_bad: int
    """The first step of the run at which something was not finite; 0: none."""
    bad_terms: tuple[str, ...]
    """What was not finite in it."""


def compiles(config: Config, device: torch.device) -> bool:
    wanted = config.training.compile
    return device.type == "cuda" if wanted == "auto" else wanted


class Step:
    """A model in training, and all that changes with it."""

    def __init__(self, model: RDMF, config: Config, world: World) -> None:
        training, device = config.training, world.device
        self.model, self._world = model, world
        self._queries, self._clip = config.model.moment.queries, training.gradient_clip
        self._loss_weights = LossWeights(**config.loss.model_dump())
        self._autocast = AUTOCAST.get(training.precision)
        self._loss_of: Callable[..., dict[str, Tensor]] = (
            torch.compile(loss_of) if compiles(config, device) else loss_of
        )
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=training.lr, weight_decay=training.weight_decay, fused=True
        )
        self._mean = RunningMean(model, training.ema)
        self._scale = LossScale(device) if training.precision == "fp16" else None

        self._names: tuple[str, ...] = ()  # of the terms; behind them comes the gradient
        self._sums = torch.zeros(1, dtype=torch.float64, device=device)  # of each, over the epoch
        self._first_bad = torch.zeros((), dtype=torch.int64, device=device)
        self._bad_terms = torch.zeros(1, dtype=torch.bool, device=device)  # which of them were bad then
        self._done = self._read = 0  # steps of the epoch, and those of them that were read
        self._sums_read: list[float] = []

    @property
    def averaged(self) -> RDMF:
        """The model to validate and to save."""
        return self._mean.model

    def begin_epoch(self) -> None:
        self._sums.zero_()
        self._done = self._read = 0
        self._sums_read = []

    def __call__(self, parts: Sequence[Part], number: int, lr: float) -> None:
        """Step `number` of the run, counted from 1."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        terms = self._gradient(parts)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)
        skip = self._judge(torch.cat([terms, norm[None]]), number)
        self._optimizer.found_inf = skip  # type: ignore[attr-defined]  # 1.0: the fused kernel leaves all as it is
        self._optimizer.step()
        self._mean.update(number)
        self._done += 1

    def _gradient(self, parts: Sequence[Part]) -> Tensor:
        """Add up the gradients of all parts, and their loss terms [terms]."""
        counts: Tensor | None = None  # a batch in one part counts itself
        if len(parts) > 1 or self._world.size > 1:
            counts = torch.stack([batch_counts(targets_of(p.batch), self._queries) * p.weight for p in parts]).sum(0)
            self._world.add(counts)
        terms: Tensor | None = None
        for part in parts:
            with torch.autocast(self._world.device.type, self._autocast, enabled=self._autocast is not None):
                losses = self._loss_of(self.model, part.batch, self._loss_weights, counts)
            total = losses["total"] * part.weight
            (total if self._scale is None else self._scale.scaled(total)).backward()
            own = torch.stack([value.detach() for value in losses.values()]) * part.weight
            terms = own if terms is None else terms + own
            self._names = tuple(losses)
        assert terms is not None
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._world.add(*gradients, terms)
        if self._scale is not None:
            self._scale.unscale(gradients)
        return terms

    def _judge(self, values: Tensor, number: int) -> Tensor:
        """Add a step's terms and norm to the sums; 1.0 where it, or one before it, must not count."""
        bad = ~values.isfinite()
        skip = torch.zeros_like(values[0])
        if self._scale is not None:  # a gradient that overflows is fp16's everyday
            skip = bad[-1].float()
            values = torch.cat([values[:-1], values[-1:].nan_to_num(0, 0, 0)])
            bad = torch.cat([bad[:-1], bad[-1:] & self._scale.exhausted])
            self._scale.update(skip)
        first = bad.any() & (self._first_bad == 0)
        self._bad_terms = torch.where(first, bad, self._bad_terms)
        self._first_bad = torch.where(first, number, self._first_bad)
        self._sums = self._sums + values
        return torch.maximum(skip, (self._first_bad > 0).float())

    def read(self) -> Reading:
        """The means since the last reading, and the flag: one transfer, the only one."""
        flags = torch.cat([self._first_bad[None], self._bad_terms])
        first_bad, *rest = torch.cat([flags.double(), self._sums]).tolist()
        bad, sums = rest[: -len(self._sums)], rest[-len(self._sums) :]
        before = self._sums_read or [0.0] * len(sums)
        *terms, norm = [(now - then) / (self._done - self._read) for now, then in zip(sums, before, strict=True)]
        self._sums_read, self._read = sums, self._done
        named = (*self._names, "the gradient")
        return Reading(
            dict(zip(self._names, terms, strict=True)), norm,
            {name: value / self._done for name, value in zip(self._names, sums, strict=False)},
            int(first_bad), tuple(name for name, flag in zip(named, bad, strict=False) if flag),
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """All of it that the next step depends on, as named tensors; to be taken right after a reading."""
        assert self._read == self._done, "a state that was not judged"
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self._mean.decay:
            state |= {f"mean.{name}": value for name, value in self.averaged.state_dict().items()}
        for index, entry in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in entry.items()}
        return state | ({} if self._scale is None else self._scale.state()) | {"sums": self._sums}

    def restore(self, state: Mapping[str, Tensor], done: int) -> None:
        """The inverse of `state`, with `done` steps of the epoch behind it."""
        self.model.load_state_dict(_named("model.", state))
        if self._mean.decay:
            self.averaged.load_state_dict(_named("mean.", state))
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in _named("optimizer.", state).items():
            index, key = name.split(".")
            entries.setdefault(int(index), {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})
        if self._scale is not None:
            self._scale.restore(_named("scale.", state))
        self._sums = state["sums"].to(self._sums.device)
        self._sums_read = self._sums.tolist()
        self._done = self._read = done


def _named(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
