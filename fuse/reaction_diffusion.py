"""Equations (4) to (8): video and sentence react within each clip and diffuse along time.

    dU/dt = D_u Lap U + f(U, V)    dV/dt = D_v Lap V + g(U, V)    f, g: kinetics.py; the steps: integrate.py

U^0 is the video and V^0 the sentence, each mapped into (0, 1) by a normalisation, a linear layer and a sigmoid: the
kinetics are cubic, and unbounded features overflow within an epoch. What a clip has of the sentence is the `inhibitor`:

    sentence  the mean of the words, equation (4), the same for every clip
    words     what the clip hears of them by attention (ours): each clip its own V^0

U after M steps is mapped back by a norm and a linear layer, never by a logit: U may leave (0, 1). How far, and that
U, V >= 0 and V <= 1, is proven in bounds.py for all rates that training can reach; rates.py keeps them there.

The loop below is the readable reference. `fused.py` takes all Euler steps in one pass over the data, forward and back.

Dimensions: B sequences, T clips, L words, D hidden, H heads, K = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .block import FusionBlock
from .bounds import Bounds, bounds, limits
from .fused import can_fuse, fused_euler, trouble
from .integrate import INTEGRATORS, integrate
from .kinetics import KINETICS
from .laplacian import linked_laplacian, links, zero_padding
from .rates import DIFFUSION_ORDERS, Rates, check_rate
from .spectrum import CosineModes

SPREAD = 2.0
"""Standard deviation of what goes into the sigmoids at the start. The default of 0.6 keeps both species near 1/2, where
U U V hardly tells one sentence from another, and training takes very long to notice the text."""

INHIBITORS = ("sentence", "words")

Species = tuple[Tensor, Tensor]
State = tuple[Tensor, ...]


def masked_mean(words: Tensor, word_mask: Tensor) -> Tensor:
    """Equation (4): words [B, L, D] -> [B, D], the mean of the valid words; 0 where a row has none."""
    return zero_padding(words, word_mask).sum(1) / word_mask.sum(1, keepdim=True).clamp(min=1)


class SpeciesStepper:
    """The parts of a step (integrate.py) for states (U, V), each [B, T, D] with 0 at padding."""

    def __init__(self, clip_mask: Tensor, rates: Rates[Tensor], dt: float, kinetics: str, dtype: torch.dtype) -> None:
        self.mask, self.rates, self.dt, self.dtype = clip_mask, rates, dt, dtype
        self.react = KINETICS[kinetics].react
        self.linked = links(clip_mask, dtype)
        self.modes: CosineModes | None = None

    def explicit(self, state: State) -> State:
        u, v = state
        f, g = self.react(u, v, self.rates.first, self.rates.second)
        f = self.rates.d_video * linked_laplacian(u, self.linked) + f
        g = self.rates.d_text * linked_laplacian(v, self.linked) + g
        return u + self.dt * f, v + self.dt * g

    def reaction(self, state: State) -> State:
        u, v = state
        f, g = self.react(u, v, self.rates.first, self.rates.second)
        return u + self.dt * f, v + self.dt * g

    def diffusion(self, state: State) -> State:
        if self.modes is None:
            self.modes = CosineModes(self.mask, self.dtype)
        u, v = state
        return self._solve(u, self.rates.d_video), self._solve(v, self.rates.d_text)

    def _solve(self, x: Tensor, d: Tensor) -> Tensor:
        assert self.modes is not None
        return self.modes.apply(x, lambda eigenvalues: 1 / (1 + self.dt * d * eigenvalues))


def react_and_diffuse(
    u: Tensor,
    v: Tensor,
    clip_mask: Tensor,
    rates: Rates[Tensor],
    dt: float,
    steps: int,
    kinetics: str = "gray_scott",
    integrator: str = "euler",
) -> Species:
    """(U^M, V^M) of equations (5) to (8) from U^0 [B, T, D] and V^0 [B, T or 1, D]; 0 at padding.

    clip_mask [B, T]. Rates are one number or [D] each.
    """
    state = zero_padding(u, clip_mask), zero_padding(v.expand(u.shape), clip_mask)
    u, v = integrate(integrator, SpeciesStepper(clip_mask, rates, dt, kinetics, u.dtype), state, steps)
    return zero_padding(u, clip_mask), zero_padding(v, clip_mask)  # padding is fed too


def react_in_one_pass(
    u: Tensor,
    v: Tensor,
    clip_mask: Tensor,
    rates: Rates[Tensor],
    dt: float,
    steps: int,
    kinetics: str = "gray_scott",
    integrator: str = "euler",
) -> tuple[Tensor, Tensor | None]:
    """The same U^M by one pass over the data, without V^M; by the loop where there is no such pass (`can_fuse`)."""
    if integrator == "euler" and can_fuse(u, kinetics):
        return fused_euler(u, v, clip_mask, rates, dt, steps, kinetics, text=False)
    return react_and_diffuse(u, v, clip_mask, rates, dt, steps, kinetics, integrator)


METHODS: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    "fused": react_in_one_pass,
    "loop": react_and_diffuse,
}


class ReactionDiffusionFusion(FusionBlock):
    """The RD block. Defaults are the paper's; the four rates are learned, positive and within the step."""

    def __init__(
        self,
        hidden: int,
        steps: int = 5,
        dt: float = 0.1,
        d_video: float = 0.2,
        d_text: float = 0.1,
        dropout: float = 0.1,
        ffn: int = 1024,
        diffusion_order: str = "paper",
        kinetics: str = "gray_scott",
        integrator: str = "euler",
        rates_per_channel: bool = False,
        inhibitor: str = "sentence",
        heads: int = 8,
        method: str = "fused",
        **reaction: float,
    ) -> None:
        """reaction: the rates of the kinetics by name, as feed=0.04, kill=0.06. Bad values raise ValueError.

        diffusion_order: 'paper' keeps d_video > d_text, 'turing' keeps a pattern growing, 'free' neither (rates.py).
        inhibitor: 'sentence' or 'words', heard with so many heads. method: 'fused' or 'loop'; the numbers are the same
        but for rounding.
        """
        super().__init__(hidden, dropout, ffn)
        _check_choices(
            diffusion_order=diffusion_order, kinetics=kinetics, integrator=integrator, inhibitor=inhibitor,
            method=method,
        )  # fmt: skip
        if steps < 1:
            raise ValueError(f"expected steps >= 1 of reaction and diffusion, got {steps}")
        if diffusion_order == "turing" and kinetics != "gray_scott":
            raise ValueError(f"expected kinetics gray_scott with diffusion_order 'turing', got {kinetics}")
        self.steps, self.dt, self.kinetics, self.integrator, self.method = steps, dt, kinetics, integrator, method
        initial = initial_rates(kinetics, d_video, d_text, reaction)
        proven = limits(kinetics, dt, steps, integrator)
        for name, value, most in zip(self.rate_names, initial, proven.most, strict=True):
            check_rate(name, value, most, dt)
        trouble("cpu")  # the C is compiled here, not under torch.compile
        self.rates = DIFFUSION_ORDERS[diffusion_order](initial, proven, hidden if rates_per_channel else None)
        self.to_video, self.to_text = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        for into in (self.to_video, self.to_text):
            nn.init.normal_(into.weight, std=SPREAD / math.sqrt(hidden))
        self.norm_reacted, self.back = nn.LayerNorm(hidden), nn.Linear(hidden, hidden)
        self.inhibitor, self.heads = inhibitor, heads
        if inhibitor == "words":
            if heads < 1 or hidden % heads:
                raise ValueError(f"expected heads that divide hidden = {hidden}, got {heads}: change either")
            self.query = nn.Linear(hidden, hidden)
            self.key = nn.Linear(hidden, hidden, bias=False)  # one would shift all words alike, which no softmax sees

    @property
    def rate_names(self) -> tuple[str, ...]:
        return ("d_video", "d_text", *KINETICS[self.kinetics].rates)

    @torch.no_grad()
    def rates_now(self) -> dict[str, float]:
        """The present rates by name (their means over the channels), for logs and for stability.py."""
        return {name: rate.mean().item() for name, rate in zip(self.rate_names, self.rates(), strict=True)}

    @torch.no_grad()
    def bounds_now(self) -> Bounds:
        """What is proven of U and V at the present rates, of whichever channel is the worst."""
        channels = torch.stack(torch.broadcast_tensors(*self.rates())).view(4, -1).T.tolist()
        found = [bounds(self.kinetics, Rates(*rates), self.dt, self.steps, self.integrator) for rates in channels]
        return Bounds(*map(max, zip(*found, strict=True)))

    def species(self, clips: Tensor, words: Tensor, word_mask: Tensor) -> Species:
        """U^0 [B, T, D] and V^0 [B, T or 1, D] in (0, 1), from normalised clips [B, T, D] and words [B, L, D]."""
        u = self.to_video(clips)  # [B, T, D]
        if self.inhibitor == "words":
            v = self._heard(clips, self.norm_words(words), word_mask)  # [B, T, D]
        else:
            v = self.to_text(self.norm_words(masked_mean(words, word_mask))).unsqueeze(1)  # [B, 1, D]
        # Five steps change the state by a few per cent: never in half precision.
        exact = torch.promote_types(u.dtype, torch.float32)
        with torch.autocast(clips.device.type, enabled=False):
            return u.to(exact).sigmoid(), v.to(exact).sigmoid()

    def _heard(self, clips: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """What each clip hears: attention over the words as `to_text` maps them, [B, T, D]."""
        seen = word_mask | ~word_mask.any(1, keepdim=True)  # a row without words hears padding, which is 0: no NaN
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T or L, K]
            for x in (self.query(clips), self.key(words), self.to_text(words))
        )
        heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None])
        return heard.transpose(1, 2).flatten(2)

    def mix(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        u, v = self.species(clips, words, word_mask)
        with torch.autocast(clips.device.type, enabled=False):
            react = METHODS[self.method]
            u, _ = react(u, v, clip_mask, self.rates(), self.dt, self.steps, self.kinetics, self.integrator)
        return self.back(self.norm_reacted(u.to(clips.dtype)))


def initial_rates(kinetics: str, d_video: float, d_text: float, reaction: dict[str, float]) -> Rates[float]:
    """The rates with those of the kinetics filled in. Raises ValueError naming one that the kinetics does not have."""
    names, initial = KINETICS[kinetics].rates, KINETICS[kinetics].initial
    strange = sorted(reaction.keys() - set(names))
    if strange:
        raise ValueError(f"expected {' and '.join(names)} as the rates of {kinetics}, got {', '.join(strange)}")
    return Rates(d_video, d_text, *(reaction.get(name, value) for name, value in zip(names, initial, strict=True)))


def _check_choices(**chosen: str) -> None:
    known: dict[str, Iterable[str]] = {
        "diffusion_order": DIFFUSION_ORDERS.keys(),
        "kinetics": KINETICS.keys(),
        "integrator": INTEGRATORS.keys(),
        "inhibitor": INHIBITORS,
        "method": METHODS.keys(),
    }
    for name, value in chosen.items():
        if value not in known[name]:
            raise ValueError(f"expected {name} {' or '.join(known[name])}, got {value!r}")
