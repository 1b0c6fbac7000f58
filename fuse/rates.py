"""Learnable rates that stay positive and below a limit, whatever the optimizer does.

The limit comes from the explicit time step: a step of dt can carry a total of 1/dt, and each rate is given a
share of it (`check_rate`). Nothing is clamped, so a gradient always leads back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

DIFFUSION_SHARE = 1 / 16
"""D_u, D_v <= 1 / (16 dt): diffusion takes a quarter of the step, 4 dt D."""
REACTION_SHARE = 1 / 16
"""F, k <= 1 / (16 dt). At least 11/16 of the text's step is left to U*U: see integrate.py."""
LARGEST_RATIO = 0.999
"""Below 1 by more than rounding, so that 'paper' keeps D_u > D_v strictly."""

Rate = TypeVar("Rate", float, Tensor)


class Rates(NamedTuple, Generic[Rate]):
    """The four rates of equations (5) and (6), per unit of time."""

    d_video: Rate
    d_text: Rate
    feed: Rate
    kill: Rate


def check_rate(name: str, value: float, share: float, dt: float) -> float:
    """The limit share / dt of a rate. Raises ValueError unless 0 < value < limit."""
    if not (math.isfinite(dt) and dt > 0):
        raise ValueError(f"expected a time step dt > 0, got {dt}")
    limit = share / dt
    if not 0 < value < limit:
        advice = "raise it above 0"
        if value >= limit:
            advice = f"lower it, or take dt below {share / value:.4g}" if value < math.inf else "lower it"
        raise ValueError(
            f"expected {name} between 0 and {limit:.4g}, where explicit steps of dt = {dt:g} stay stable, "
            f"got {value:g}: {advice}"
        )
    return limit


class BoundedRate(nn.Module):
    """limit * sigmoid(start + 4 asinh(shift / 4)): in (0, limit], one number or one per channel.

    `shift` is learned from 0, so that weight decay pulls towards the initial value. Near it the rate moves
    like a sigmoid, by a share of itself at its small end; the asinh lets the far ends flatten like a power,
    and the sigmoid is exp(logsigmoid), so that neither the rate nor its gradient rounds to 0 (float32: for
    |shift| up to 1e6).
    """

    start: Tensor

    def __init__(self, initial: float, limit: float, shape: tuple[int, ...] = ()) -> None:
        """Raises ValueError unless 0 < initial < limit."""
        super().__init__()
        if not 0 < initial < limit:
            raise ValueError(f"expected an initial rate between 0 and {limit:.4g}, got {initial:g}: change it")
        self.limit = limit
        self.shift = nn.Parameter(torch.zeros(shape))
        self.register_buffer("start", torch.tensor(math.log(initial / (limit - initial))))

    def forward(self) -> Tensor:
        level = self.start + 4 * torch.asinh(self.shift / 4)
        return self.limit * functional.logsigmoid(level).exp()

    def extra_repr(self) -> str:
        return f"limit={self.limit:g}, shape={tuple(self.shift.shape)}"


class FreeRates(nn.Module):
    """Four independent rates, each within its share of the step: diffusion_order 'free'."""

    def __init__(self, initial: Rates[float], dt: float) -> None:
        super().__init__()
        shares = Rates(DIFFUSION_SHARE, DIFFUSION_SHARE, REACTION_SHARE, REACTION_SHARE)
        limits = [check_rate(*named, dt) for named in zip(Rates._fields, initial, shares, strict=True)]
        self.d_video, self.d_text, self.feed, self.kill = map(BoundedRate, initial, limits)

    def forward(self) -> Rates[Tensor]:
        return Rates(self.d_video(), self.d_text(), self.feed(), self.kill())


class PaperRates(FreeRates):
    """D_text = ratio * D_video with 0 < ratio < 1: diffusion_order 'paper', D_u > D_v under any training."""

    def __init__(self, initial: Rates[float], dt: float) -> None:
        super().__init__(initial, dt)
        ratio = initial.d_text / initial.d_video
        if ratio >= LARGEST_RATIO:
            raise ValueError(
                f"expected d_text below {LARGEST_RATIO} d_video for diffusion_order 'paper', got "
                f"{initial.d_text:g} and {initial.d_video:g}: change them, or use diffusion_order 'free'"
            )
        self.d_text = BoundedRate(ratio, LARGEST_RATIO)

    def forward(self) -> Rates[Tensor]:
        d_video = self.d_video()
        return Rates(d_video, d_video * self.d_text(), self.feed(), self.kill())


DIFFUSION_ORDERS: dict[str, Callable[[Rates[float], float], FreeRates]] = {
    "paper": PaperRates,
    "free": FreeRates,
}
