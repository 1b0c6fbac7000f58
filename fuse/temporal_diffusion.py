"""Equations (1) to (3): video features diffuse along time before they meet the sentence.

    X^{n+1} = X^n + dt d Lap X^n,    N steps, d > 0 learned.    N = 0 is the ablation 'w/o TD'.

Two ways to the same numbers: `diffuse_steps` takes the N steps and is the reference; `diffuse_spectrum` is all of them
as one linear map at a cost that does not depend on N: a step multiplies cosine mode j by 1 - 4 dt d sin^2(pi j / 2T).

Dimensions: B sequences, T clips, D channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .laplacian import check_prefix, linked_laplacian, links, zero_padding
from .rates import BoundedRate, check_rate, check_step
from .spectrum import DENSE, CosineModes

DIFFUSION_ALONE_SHARE = 1 / 4
"""d <= 1 / (4 dt): no mode changes sign from step to step (bounds.py)."""
FEW_STEPS = 12
"""Up to which the steps themselves are faster than Fourier transforms (benchmarks/fusion.py)."""


def diffuse_steps(x: Tensor, mask: Tensor, d: Tensor, dt: float, steps: int) -> Tensor:
    """Equation (3), step by step. x [B, T, D] -> [B, T, D], 0 at padding; d is one number or [D]."""
    linked, x = links(mask, x.dtype), zero_padding(x, mask)
    for _ in range(steps):
        x = x + dt * d * linked_laplacian(x, linked)
    return x


def diffuse_spectrum(x: Tensor, mask: Tensor, d: Tensor, dt: float, steps: int) -> Tensor:
    """Equation (3) in one go; equal to `diffuse_steps` but for rounding. Valid clips are a prefix of their row."""
    return CosineModes(mask, x.dtype).apply(x, lambda eigenvalues: (1 - dt * d * eigenvalues) ** steps)


def diffuse_fastest(x: Tensor, mask: Tensor, d: Tensor, dt: float, steps: int) -> Tensor:
    """Whichever of the two is faster at this length and number of steps."""
    few = steps <= FEW_STEPS and x.shape[1] > DENSE
    return (diffuse_steps if few else diffuse_spectrum)(x, mask, d, dt, steps)


SOLVERS: dict[str, Callable[[Tensor, Tensor, Tensor, float, int], Tensor]] = {
    "fastest": diffuse_fastest,
    "spectrum": diffuse_spectrum,
    "steps": diffuse_steps,
}


class TemporalDiffusion(nn.Module):
    """Equation (3) with a learned d that stays within 0 < dt d <= 1/4."""

    def __init__(
        self,
        steps: int = 10,
        dt: float = 0.1,
        d: float = 0.2,
        channels: int | None = None,
        solver: str = "fastest",
    ) -> None:
        """channels: None learns one d, a number learns one d per channel. Raises ValueError on bad values."""
        super().__init__()
        if steps < 0:
            raise ValueError(f"expected steps >= 0 of temporal diffusion (0 leaves it out), got {steps}")
        if solver not in SOLVERS:
            raise ValueError(f"expected solver to be one of {', '.join(SOLVERS)}, got {solver!r}")
        check_step(dt)
        limit = DIFFUSION_ALONE_SHARE / dt
        check_rate("d", d, limit, dt)
        self.steps, self.dt, self.solver = steps, dt, solver
        self.d = BoundedRate(d, limit, shape=() if channels is None else (channels,)) if steps else None

    def forward(self, clips: Tensor, clip_mask: Tensor) -> Tensor:
        """clips [B, T, D], clip_mask [B, T] -> [B, T, D], 0 at padding. N = 0 returns clips themselves."""
        if self.d is None:
            return clips
        check_prefix(clip_mask)
        with torch.autocast(clips.device.type, enabled=False):
            x = clips.to(torch.promote_types(clips.dtype, torch.float32))
            return SOLVERS[self.solver](x, clip_mask, self.d(), self.dt, self.steps).to(clips.dtype)
