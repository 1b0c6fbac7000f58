"""One pass over the training split: batches to steps, readings to the log, checkpoints on the way.

The host only hands out work; it looks at the device every `log_every` steps, before every checkpoint, and at the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import TrainingConfig
from ..loading.batches import Share, epoch_batches
from ..loading.resident import ResidentSplit
from .checkpoint import Standing
from .parallel import World
from .schedules import learning_rate
from .step import Part, Reading, Step


@dataclass(frozen=True)
class Progress:
    """Where training stands; what `train` reports at every look."""

    epoch: int
    epochs: int
    step: int
    """Of the epoch."""
    steps: int
    """Of every epoch."""
    losses: dict[str, float]
    """Means over the steps since the last look."""
    gradient_norm: float
    """Likewise."""
    lr: float
    queries_per_s: float
    """Of all processes together, since the last look."""
    data_share: float
    """The part of the host's time that went into making batches."""


class Order:
    """The batches of epoch after epoch, the same in every process."""

    def __init__(self, lengths: Tensor, training: TrainingConfig, world: World) -> None:
        """lengths: int64 [queries], the clips of each."""
        self._lengths, self._training, self._world = lengths, training, world
        self._generator = torch.Generator().manual_seed(training.seed)
        self._before = self._generator.get_state()
        self.steps = math.ceil(math.ceil(len(lengths) / training.batch) / training.accumulate)
        """Of an epoch."""

    def state(self, within_epoch: bool) -> Tensor:
        """What `restore` needs for the next `epoch` to be the one that is under way, or the one after it."""
        return self._before if within_epoch else self._generator.get_state()

    def restore(self, state: Tensor) -> None:
        self._generator.set_state(state)

    def epoch(self) -> list[list[Share]]:
        """This process's share of the batches of each step."""
        self._before = self._generator.get_state()
        return self._draw(self._generator, self._world)

    def rows(self, step: int) -> Tensor:
        """All queries of step 1, 2, ... of the epoch that is under way, those of other processes too."""
        alone = World(self._world.device)
        return torch.cat([share.rows for share in self._draw(_generator(self._before), alone)[step - 1]])

    def _draw(self, generator: torch.Generator, world: World) -> list[list[Share]]:
        size, every = self._training.batch, self._training.accumulate
        if self._training.bucket:
            shares = epoch_batches(self._lengths, size, generator, rank=world.rank, world=world.size)
        else:
            rows = torch.randperm(len(self._lengths), generator=generator)
            shares = [world.share(batch) for batch in rows.split(size)]
        return [shares[i : i + every] for i in range(0, len(shares), every)]


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator


class Diverged(ValueError):
    """Losses or gradients that are not finite."""


def train_epoch(
    step: Step,
    split: ResidentSplit,
    order: Order,
    training: TrainingConfig,
    at: Standing,
    *,
    on_look: Callable[[Progress], None],
    on_checkpoint: Callable[[int], None],
    on_diverged: Callable[[int, Reading], str],
) -> dict[str, float]:
    """Train the epoch that is next, from where it was left; the mean of every loss term.

    on_checkpoint gets the number of steps that the epoch has done. on_diverged gets the first bad step of the epoch and
    gives the sentence that is raised as Diverged.
    """
    epoch, batches = at.epoch + 1, order.epoch()
    if not at.step:
        step.begin_epoch()
    began, in_data, queries = time.perf_counter(), 0.0, 0
    for number, shares in enumerate(batches[at.step :], at.step + 1):
        fetching = time.perf_counter()
        parts = [Part(split.batch(share.rows), float(share.weight > 0)) for share in shares]
        in_data += time.perf_counter() - fetching
        queries += sum(round(len(share.rows) / share.weight) if share.weight else 1 for share in shares)
        of_run = (epoch - 1) * len(batches) + number
        lr = learning_rate(training, of_run, len(batches))
        step(parts, of_run, lr)
        saves = training.checkpoint_steps and number % training.checkpoint_steps == 0 and number < len(batches)
        if saves or number % training.log_every == 0 or number == len(batches):
            reading = step.read()
            if reading.first_bad:
                raise Diverged(on_diverged(reading.first_bad - (epoch - 1) * len(batches), reading))
            seconds = time.perf_counter() - began
            on_look(
                Progress(
                    epoch, training.epochs, number, len(batches), reading.losses, reading.gradient_norm, lr,
                    queries / seconds, in_data / seconds,
                )
            )  # fmt: skip
            began, in_data, queries = time.perf_counter(), 0.0, 0
        if saves:
            on_checkpoint(number)
    return reading.epoch_losses
