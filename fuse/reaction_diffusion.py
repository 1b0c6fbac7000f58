"""Equations (4) to (8): video and sentence react within each clip and diffuse along time.

    dU/dt = D_u Lap U + f(U, V)    dV/dt = D_v Lap V + g(U, V)    f, g: kinetics.py

U^0 is the video and V^0 the sentence (the mean of its words, the same for every clip), each mapped into (0, 1) by a
normalisation, a linear layer and a sigmoid: the kinetics are cubic, and unbounded features overflow within an epoch.
U after M Euler steps is mapped back by a norm and a linear layer, never by a logit: U may leave (0, 1). The bounds
U, V >= 0, V <= 1 and U <= activator_bound are proven in integrate.py. The rates' parametrisation leaves U*U at least
11/16 of a step, so they hold while U <= sqrt(11 / (16 dt)); at the default M and dt that is so for every rate training
can reach. Longer horizons: `step_load(block.rates_now(), dt, steps) <= 1` says whether they are proven at the present
rates.

Dimensions: B sequences, T clips, L words, D hidden.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .block import FusionBlock
from .integrate import State, euler
from .kinetics import KINETICS
from .laplacian import linked_laplacian, links, zero_padding
from .rates import DIFFUSION_ORDERS, Rates

SPREAD = 2.0
"""Standard deviation of what goes into the sigmoids at the start. The default of 0.6 keeps both species near 1/2, where
U U V hardly tells one sentence from another, and training takes very long to notice the text."""


def masked_mean(words: Tensor, word_mask: Tensor) -> Tensor:
    """Equation (4): words [B, L, D] -> [B, D], the mean of the valid words; 0 where a row has none."""
    return zero_padding(words, word_mask).sum(1) / word_mask.sum(1, keepdim=True).clamp(min=1)


def react_and_diffuse(
    u: Tensor,
    v: Tensor,
    clip_mask: Tensor,
    rates: Rates[Tensor],
    dt: float,
    steps: int,
    kinetics: str = "gray_scott",
) -> tuple[Tensor, Tensor]:
    """(U^M, V^M) of equations (5) to (8) from U^0, V^0 [B, T, D]; 0 at padding."""
    linked, react = links(clip_mask, u.dtype), KINETICS[kinetics]

    def slopes(state: State) -> State:
        u, v = state
        f, g = react(u, v, rates)
        return rates.d_video * linked_laplacian(u, linked) + f, rates.d_text * linked_laplacian(v, linked) + g

    u, v = euler(slopes, (zero_padding(u, clip_mask), zero_padding(v, clip_mask)), dt, steps)
    return u, zero_padding(v, clip_mask)  # V is fed at padding too


class ReactionDiffusionFusion(FusionBlock):
    """The RD block. Defaults are the paper's; the four rates are learned, positive and within the step."""

    def __init__(
        self,
        hidden: int,
        steps: int = 5,
        dt: float = 0.1,
        feed: float = 0.04,
        kill: float = 0.06,
        d_video: float = 0.2,
        d_text: float = 0.1,
        dropout: float = 0.1,
        ffn: int = 1024,
        diffusion_order: str = "paper",
        kinetics: str = "gray_scott",
    ) -> None:
        """diffusion_order 'paper' keeps d_video > d_text, 'free' does not. Bad values raise ValueError."""
        super().__init__(hidden, dropout, ffn)
        if steps < 1:
            raise ValueError(f"expected steps >= 1 of reaction and diffusion, got {steps}")
        if diffusion_order not in DIFFUSION_ORDERS:
            raise ValueError(f"expected diffusion_order {' or '.join(DIFFUSION_ORDERS)}, got {diffusion_order!r}")
        if kinetics not in KINETICS:
            raise ValueError(f"expected kinetics {' or '.join(KINETICS)}, got {kinetics!r}")
        self.steps, self.dt, self.kinetics = steps, dt, kinetics
        self.rates = DIFFUSION_ORDERS[diffusion_order](Rates(d_video, d_text, feed, kill), dt)
        self.to_video, self.to_text = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        for into in (self.to_video, self.to_text):
            nn.init.normal_(into.weight, std=SPREAD / math.sqrt(hidden))
        self.norm_reacted, self.back = nn.LayerNorm(hidden), nn.Linear(hidden, hidden)

    def rates_now(self) -> Rates[float]:
        """The present rates as plain numbers, for logs and for `step_load`."""
        return Rates(*(rate.item() for rate in self.rates()))

    def mix(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        u = self.to_video(clips)  # [B, T, D]
        v = self.to_text(self.norm_words(masked_mean(words, word_mask)))  # [B, D]
        # Five steps change the state by a few per cent: never in half precision.
        with torch.autocast(clips.device.type, enabled=False):
            exact = torch.promote_types(u.dtype, torch.float32)
            u, v = u.to(exact).sigmoid(), v.to(exact).sigmoid().unsqueeze(1).expand(u.shape)
            u, _ = react_and_diffuse(u, v, clip_mask, self.rates(), self.dt, self.steps, self.kinetics)
        return self.back(self.norm_reacted(u.to(clips.dtype)))
