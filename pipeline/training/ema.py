"""A running mean of the weights (Polyak averaging): what is validated, saved, and read by evaluate and predict alike.

    mean <- mean + (1 - d_n) (weights - mean),    d_n = min(decay, (1 + n) / (10 + n)) after step n

The early d_n let the mean forget where training began; a constant 0.999 would hold on to it for thousands of steps.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class RunningMean(Generic[Model]):
    """The mean of a model's weights over training; with decay 0, the model itself."""

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model: Model = copy.deepcopy(model).requires_grad_(False) if decay else model
        """The one to validate and to save."""
        self._mean = [p.detach() for p in self.model.parameters()]
        self._weights = [p.detach() for p in model.parameters()]
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimisation step 1, 2, ..."""
        if not self.decay:
            return
        torch._foreach_lerp_(self._mean, self._weights, 1 - decay_at(self.decay, step))
        for mean, buffer in self._buffers:
            mean.copy_(buffer)


def decay_at(decay: float, step: int) -> float:
    """d_n."""
    return min(decay, (1 + step) / (10 + step))
