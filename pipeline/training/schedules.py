"""The learning rate of every step, as a pure function: a resumed run needs to remember nothing but its step.

lr(step) = lr * min(1, step / warm-up) * f,    steps counted from 1 over the whole run

constant  f = 1
cosine    f = (1 + cos(pi step / all steps)) / 2, 0 at the last step
step      f = step_factor ^ (whole spans of `step_epochs` epochs that have passed)
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..config import TrainingConfig


def _cosine(training: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, step / (steps_per_epoch * training.epochs))))


def _step(training: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    epochs_passed = (step - 1) // steps_per_epoch
    return float(training.step_factor ** (epochs_passed // training.step_epochs))


SCHEDULES: dict[str, Callable[[TrainingConfig, int, int], float]] = {
    "constant": lambda training, step, steps_per_epoch: 1.0,
    "cosine": _cosine,
    "step": _step,
}


def learning_rate(training: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Of step 1, 2, ... of a run whose epochs have `steps_per_epoch` steps."""
    warm = min(1.0, step / training.warmup_steps) if training.warmup_steps else 1.0
    return training.lr * (warm * SCHEDULES[training.schedule](training, step, steps_per_epoch))
