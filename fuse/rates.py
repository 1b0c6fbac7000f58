"""Learnable rates that stay positive and inside the step bound, whatever the optimizer does.

bounds.py says what the limits are. Nothing is clamped, so a gradient always leads back: a rate is its limit times a
sigmoid. Where a long horizon bounds the difference of the two diffusion rates as well, both are slowed together,

    D <- D (1 + (|D_u - D_v| / room)^4)^(-1/4),

which keeps their order and ratio. The diffusion orders:

    paper    D_u > D_v, as the paper's text has it
    free     no order
    turing   the homogeneous steady state of Gray-Scott is stable and D_v / D_u so large that a pattern grows from it

For 'turing' the parameters are the steady state itself. With V* in (0, 1/2), U* is sqrt(F (1 - V*) / V*) and
k = U* V* - F; there, k > 0 iff F < V* (1 - V*), and the state is stable (U*^2 > k) iff F > V*^3 (1 - V*). A pattern
grows iff D_v / D_u exceeds critical_ratio(F, k) (docs/theory.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

EDGE = 0.001
"""How far shares stay from 0 and 1: more than rounding, so that strict inequalities hold strictly."""

LARGEST_FEED = 0.25
"""V (1 - V) is at most that."""
LARGEST_STEADY_TEXT = 0.49
"""At 1/2 the two interior states merge, and single precision cannot tell them apart before."""

Rate = TypeVar("Rate", float, Tensor)


class Rates(NamedTuple, Generic[Rate]):
    """The four rates of a reaction-diffusion system, per unit of time."""

    d_video: Rate
    """D_u"""
    d_text: Rate
    """D_v"""
    first: Rate
    """The first rate of the kinetics: F, a or epsilon."""
    second: Rate
    """The second: k, b or gamma."""


class Limits(NamedTuple):
    """Where rates are proven to be safe."""

    most: Rates[float]
    """The limit of each."""
    room: Callable[[Rates[Tensor]], Tensor] | None
    """The largest |d_video - d_text| at given rates; None where `most` says it all."""


def check_step(dt: float) -> None:
    """Raises ValueError unless dt is a time step."""
    if not (math.isfinite(dt) and dt > 0):
        raise ValueError(f"expected a time step dt > 0, got {dt}")


def check_rate(name: str, value: float, limit: float, dt: float) -> None:
    """Raises ValueError unless 0 < value < limit."""
    if not 0 < value < limit:
        advice = "raise it above 0"
        if value >= limit:
            advice = f"lower it, or take dt below {dt * limit / value:.4g}" if value < math.inf else "lower it"
        raise ValueError(
            f"expected {name} between 0 and {limit:.4g}, where steps of dt = {dt:g} are proven to stay stable, "
            f"got {value:g}: {advice}"
        )


class BoundedRate(nn.Module):
    """low + (limit - low) sigmoid(start + 4 asinh(shift / 4)): in (low, limit], one number or one per channel.

    `shift` is learned from 0, so that weight decay pulls towards the initial value. Near it the rate moves
    like a sigmoid, by a share of itself at its small end; the asinh lets the far ends flatten like a power,
    and the sigmoid is exp(logsigmoid), so that neither the rate nor its gradient rounds to 0 (float32: for
    |shift| up to 1e6).
    """

    start: Tensor

    def __init__(self, initial: float, limit: float, low: float = 0.0, shape: tuple[int, ...] = ()) -> None:
        """Raises ValueError unless low < initial < limit."""
        super().__init__()
        if not low < initial < limit:
            raise ValueError(f"expected an initial rate between {low:g} and {limit:.4g}, got {initial:g}: change it")
        self.low, self.limit = low, limit
        self.shift = nn.Parameter(torch.zeros(shape))
        self.register_buffer("start", torch.tensor(math.log((initial - low) / (limit - initial))))

    def forward(self) -> Tensor:
        level = self.start + 4 * torch.asinh(self.shift / 4)
        return self.low + (self.limit - self.low) * functional.logsigmoid(level).exp()

    def extra_repr(self) -> str:
        return f"low={self.low:g}, limit={self.limit:g}, shape={tuple(self.shift.shape)}"


class FreeRates(nn.Module):
    """Four rates within their limits: diffusion_order 'free'. The other orders derive from it.

    channels: None learns one number for each rate, a number learns one per channel.
    """

    def __init__(self, initial: Rates[float], limits: Limits, channels: int | None = None) -> None:
        """Raises ValueError where an initial rate is outside its limits."""
        super().__init__()
        self.room, self.shape = limits.room, () if channels is None else (channels,)
        self.learn(self._before_slowing(initial), limits.most)

    def learn(self, initial: Rates[float], most: Rates[float]) -> None:
        """Make the parameters."""
        self.d_video, self.d_text, self.first, self.second = (
            BoundedRate(value, limit, shape=self.shape) for value, limit in zip(initial, most, strict=True)
        )

    def raw(self) -> Rates[Tensor]:
        """The rates before both diffusions are slowed."""
        return Rates(self.d_video(), self.d_text(), self.first(), self.second())

    def forward(self) -> Rates[Tensor]:
        rates = self.raw()
        if self.room is None:
            return rates
        slower = (1 + ((rates.d_video - rates.d_text) / self.room(rates)) ** 4) ** -0.25
        return rates._replace(d_video=slower * rates.d_video, d_text=slower * rates.d_text)

    def _before_slowing(self, initial: Rates[float]) -> Rates[float]:
        """The raw rates that `forward` turns into the initial ones."""
        if self.room is None:
            return initial
        exact = Rates(*(torch.tensor(rate, dtype=torch.float64) for rate in initial))
        gap = abs(initial.d_video - initial.d_text)
        faster = 1.0
        for _ in range(50):  # a raw d_text that is larger leaves a little less room
            room = self.room(exact._replace(d_video=exact.d_video * faster, d_text=exact.d_text * faster)).item()
            if not gap < room:
                raise ValueError(
                    f"expected d_video and d_text less than {room:.4g} apart, where so many steps are proven to stay "
                    f"bounded, got {initial.d_video:g} and {initial.d_text:g}: bring them together, or take smaller "
                    "or fewer steps"
                )
            faster = (1 - (gap / room) ** 4) ** -0.25
        return initial._replace(d_video=initial.d_video * faster, d_text=initial.d_text * faster)


class PaperRates(FreeRates):
    """d_text = ratio * d_video with 0 < ratio < 1: diffusion_order 'paper', D_u > D_v under any training.

    Where text's limit is the lower one, d_video enters softly limited by it.
    """

    def learn(self, initial: Rates[float], most: Rates[float]) -> None:
        self.most_text = most.d_text
        if not initial.d_text < (1 - EDGE) * initial.d_video:
            raise ValueError(
                f"expected d_text below {1 - EDGE} d_video for diffusion_order 'paper', got "
                f"{initial.d_text:g} and {initial.d_video:g}: change them, or use diffusion_order 'free'"
            )
        super().learn(initial, most)
        self.d_text = BoundedRate(initial.d_text / self._up_to(initial.d_video), 1 - EDGE, shape=self.shape)

    def raw(self) -> Rates[Tensor]:
        d_video = self.d_video()
        return Rates(d_video, self._up_to(d_video) * self.d_text(), self.first(), self.second())

    def _up_to(self, d_video: Rate) -> Rate:
        return d_video * (1 + (d_video / self.most_text) ** 4) ** -0.25


class TuringRates(FreeRates):
    """Gray-Scott at a stable steady state that a pattern grows from, under any training: diffusion_order 'turing'."""

    def learn(self, initial: Rates[float], most: Rates[float]) -> None:
        feed, kill = initial.first, initial.second
        if min(most.first, most.second) < LARGEST_FEED:
            raise ValueError(
                f"expected steps that leave room for feed up to {LARGEST_FEED} for 'turing': take a smaller dt"
            )
        advice = "; d_video 0.02, d_text 0.2, feed 0.04, kill 0.05 do"
        if not feed > 4 * (feed + kill) ** 2:
            raise ValueError(f"expected feed > 4 (feed + kill)^2 for 'turing', got {feed:g} and {kill:g}{advice}")
        v = (1 - math.sqrt(1 - 4 * (feed + kill) ** 2 / feed)) / 2
        low, high = _feeds(v)
        if not v < LARGEST_STEADY_TEXT:
            raise ValueError(f"expected feed clearly above 4 (feed + kill)^2, got {feed:g} and {kill:g}{advice}")
        if not low < feed < high:
            raise ValueError(
                f"expected a stable steady state for 'turing': feed from {low:.4g} to {high:.4g} at "
                f"V = {v:.4g}, got {feed:g}{advice}"
            )
        share = initial.d_video / initial.d_text * critical_ratio(feed, kill)
        if not share < 1 - EDGE:
            raise ValueError(
                f"expected d_text above {critical_ratio(feed, kill):.4g} d_video for 'turing', where a pattern grows, "
                f"got {initial.d_text:g} and {initial.d_video:g}{advice}"
            )
        self.steady_text = BoundedRate(v, LARGEST_STEADY_TEXT, EDGE, self.shape)
        self.feed_share = BoundedRate((feed - low) / (high - low), 1 - EDGE, EDGE, self.shape)
        self.d_text = BoundedRate(initial.d_text, most.d_text, shape=self.shape)
        self.video_share = BoundedRate(share, 1 - EDGE, EDGE, self.shape)

    def raw(self) -> Rates[Tensor]:
        v, d_text = self.steady_text(), self.d_text()
        low, high = _feeds(v)
        feed = low + (high - low) * self.feed_share()
        loss = (feed * v * (1 - v)).sqrt()
        return Rates(d_text * self.video_share() / _critical_ratio_at(v, feed), d_text, feed, loss - feed)


def critical_ratio(feed: Rate, kill: Rate) -> Rate:
    """D_v / D_u of Gray-Scott above which a pattern grows: (sqrt(U^2 - F) + sqrt(2) U)^2 / (F + k).

    At the lower steady V, where F > 4 (F + k)^2. From D_v (F + k) - D_u (U^2 + F) > 2 sqrt(D_u D_v det J) with
    det J = (F + k)(U^2 - F).
    """
    return _critical_ratio_at((1 - (1 - 4 * (feed + kill) ** 2 / feed) ** 0.5) / 2, feed)


def _critical_ratio_at(v: Rate, feed: Rate) -> Rate:
    """The same from the steady V, with U^2 = F (1 - V) / V and F + k = U V: no difference of like numbers."""
    both = (1 - 2 * v) ** 0.5 + (2 - 2 * v) ** 0.5
    return both**2 * feed**0.5 / (v**1.5 * (1 - v) ** 0.5)


def _feeds(v: Rate) -> tuple[Rate, Rate]:
    """Between which F the steady state at V is stable and k > 0."""
    return v**3 * (1 - v), v * (1 - v)


DIFFUSION_ORDERS: dict[str, Callable[[Rates[float], Limits, int | None], FreeRates]] = {
    "paper": PaperRates,
    "free": FreeRates,
    "turing": TuringRates,
}
