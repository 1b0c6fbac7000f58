"""fp16 gradients below 6e-8 vanish, so the loss is scaled up, as far as the gradient stays finite.

The arithmetic of torch.amp.GradScaler, on the device and with its state as two tensors: a step that overflows is left
out and halves the scale, 2,000 steps without one double it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

START, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000


class LossScale:
    """The scale, and how many good steps it has seen."""

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(START, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self.scale

    @torch.no_grad()
    def unscale(self, gradients: Sequence[Tensor]) -> None:
        torch._foreach_mul_(list(gradients), 1 / self.scale)

    def update(self, overflow: Tensor) -> None:
        """overflow: 1.0 where the gradient was not finite, 0.0 where it was."""
        torch._amp_update_scale_(self.scale, self.good_steps, overflow, GROWTH, BACKOFF, INTERVAL)

    @property
    def exhausted(self) -> Tensor:
        """Whether gradients overflow with no scale at all: they are not finite of themselves."""
        return self.scale < 1

    def state(self) -> dict[str, Tensor]:
        return {"scale.scale": self.scale, "scale.good_steps": self.good_steps}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.scale.copy_(state["scale"])
        self.good_steps.copy_(state["good_steps"])
