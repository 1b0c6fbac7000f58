"""Equations (1) to (3): video features diffuse along time before they meet the sentence.

    X^{n+1} = X^n + dt d Lap X^n,    N steps, d > 0 learned.    N = 0 is the ablation 'w/o TD'.

Two ways to the same numbers: `diffuse_steps` takes the N steps and is the reference; `diffuse_spectrum` is
all of them as one linear map, since the cosines cos(pi j (i + 1/2) / T) are the eigenvectors of Lap on a path
of T clips.

Dimensions: B sequences, T clips, D channels, J = T cosine modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .integrate import euler
from .laplacian import linked_laplacian, links, zero_padding
from .rates import BoundedRate, check_rate

DIFFUSION_ALONE_SHARE = 1 / 4
"""d <= 1 / (4 dt): no mode changes sign from step to step."""


def diffuse_steps(x: Tensor, mask: Tensor, d: Tensor, dt: float, steps: int) -> Tensor:
    """Equation (3), step by step. x [B, T, D] -> [B, T, D], 0 at padding; d is one number or [D]."""
    linked = links(mask, x.dtype)
    (x,) = euler(lambda state: (d * linked_laplacian(state[0], linked),), (zero_padding(x, mask),), dt, steps)
    return x


def diffuse_spectrum(x: Tensor, mask: Tensor, d: Tensor, dt: float, steps: int) -> Tensor:
    """Equation (3) in one go: to cosine modes, scale mode j by (1 - 4 dt d sin^2(pi j / 2T))^N, and back.

    T is each sequence's own number of valid clips, which must be a prefix of its row. Equal to
    `diffuse_steps` but for rounding, at a cost that does not depend on N.
    """
    lengths = mask.sum(1).clamp(min=1).view(-1, 1, 1)  # [B, 1, 1]
    clip = torch.arange(x.shape[1], device=x.device).view(1, -1, 1)  # [1, T, 1]
    mode = clip.transpose(1, 2)  # [1, 1, J]
    # The angle is pi / 2T times an integer; taken modulo a full turn as an integer, it loses no digits.
    angle = (mode * (2 * clip + 1) % (4 * lengths)) * (math.pi / (2 * lengths.to(x.dtype)))  # [B, T, J]
    norm = torch.where(mode == 0, 1, 2) / lengths.to(x.dtype)
    basis = (angle.cos() * norm.sqrt()).masked_fill((clip >= lengths) | (mode >= lengths), 0)
    sine = torch.sin(mode * (math.pi / (2 * lengths.to(x.dtype)))).transpose(1, 2)  # [B, J, 1]
    decay = (1 - 4 * dt * d * sine**2) ** steps  # [B, J, 1 or D]
    return basis @ (decay * (basis.transpose(1, 2) @ zero_padding(x, mask)))


SOLVERS: dict[str, Callable[[Tensor, Tensor, Tensor, float, int], Tensor]] = {
    "steps": diffuse_steps,
    "spectrum": diffuse_spectrum,
}


class TemporalDiffusion(nn.Module):
    """Equation (3) with a learned d that stays within 0 < dt d <= 1/4."""

    def __init__(
        self,
        steps: int = 10,
        dt: float = 0.1,
        d: float = 0.2,
        channels: int | None = None,
        solver: str = "steps",
    ) -> None:
        """channels: None learns one d, a number learns one d per channel. Raises ValueError on bad values."""
        super().__init__()
        if steps < 0:
            raise ValueError(f"expected steps >= 0 of temporal diffusion (0 leaves it out), got {steps}")
        if solver not in SOLVERS:
            raise ValueError(f"expected solver to be one of {', '.join(SOLVERS)}, got {solver!r}")
        self.steps, self.dt, self.solver = steps, dt, solver
        limit = check_rate("d", d, DIFFUSION_ALONE_SHARE, dt)
        self.d = BoundedRate(d, limit, () if channels is None else (channels,)) if steps else None

    def forward(self, clips: Tensor, clip_mask: Tensor) -> Tensor:
        """clips [B, T, D], clip_mask [B, T] -> [B, T, D], 0 at padding. N = 0 returns clips themselves."""
        if self.d is None:
            return clips
        with torch.autocast(clips.device.type, enabled=False):
            x = clips.to(torch.promote_types(clips.dtype, torch.float32))
            return SOLVERS[self.solver](x, clip_mask, self.d(), self.dt, self.steps).to(clips.dtype)
