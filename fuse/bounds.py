"""How large a step may be: what is proven of U and V, and the limits that keep learned rates there.

**Diffusion alone.** An Euler step multiplies the cosine mode j by 1 - 4 dt d sin^2(pi j / 2T). For dt d <= 1/4 the
factor is never negative: no mode changes sign from step to step, and each clip becomes a weighted mean of itself and
its neighbours. An implicit step divides by 1 + 4 dt d sin^2: such a mean for any dt d.

**Gray-Scott**, Euler. Let 0 <= U^0, V^0 <= 1 and Ubar the largest U before the last step. If

    dt (4 D_u + F + k) <= 1    and    dt (4 D_v + F + Ubar^2) <= 1                 (load <= 1)

then U >= 0 and 0 <= V <= 1 at every step. Proof by induction, with n <= 2 neighbours j of clip i:
    U'_i     = U_i (1 - n dt D_u - dt (F + k) + dt U_i V_i) + dt D_u sum_j U_j                 all terms >= 0
    V'_i     = V_i (1 - n dt D_v - dt F - dt U_i^2) + dt D_v sum_j V_j + dt F                  all terms >= 0
    1 - V'_i = (1 - V_i)(1 - n dt D_v - dt F) + dt D_v sum_j (1 - V_j) + dt U_i^2 V_i          all terms >= 0
(2 D in place of 4 D would do; 4 D also bars modes that change sign.)

How large U gets, the lesser of two bounds. With W = U + V, where the reaction cancels:
    W' = [W + dt (D_u Lap W - (F + k) W)] + dt ((D_v - D_u) Lap V + k V + F).
    The bracket is at most (1 - dt (F + k)) Wmax. As 0 <= V <= 1, -Lap V_i <= 2 V_i and Lap V_i <= 2 (1 - V_i),
    so the rest is at most dt (F + s), s = 2 (D_u - D_v) + k if D_u >= D_v, else max(2 (D_v - D_u), k).
    Hence U <= W <= max(2, (F + s) / (F + k)) for any number of steps: 3 at the paper's rates.
Step by step, as V <= min(1, W - U): U' <= Umax + dt max_x (x x min(1, W - x) - (F + k) x) over 0 <= x <= Umax.

ssprk3 is convex combinations of Euler steps, so all of it holds there too, with the bounds combined alike. In imex the
reaction alone takes the explicit step (no D in the load); the two solves differ by at most 2 dt |D_u - D_v| where V is
in [0, 1], which W pays. The other kinetics follow the same lines (docs/theory.md): Schnakenberg keeps U, V >= 0,
FitzHugh-Nagumo, which has no sign, keeps |U| and |V| bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from .integrate import integrate
from .kinetics import THRESHOLD
from .rates import Limits, Rates, check_step

DIFFUSION_SHARE = {"euler": 1 / 16, "ssprk3": 1 / 16, "imex": 4.0}
"""D <= share / dt: explicit diffusion takes a quarter of the step at most, 4 dt D. The implicit one needs no limit."""
REACTION_SHARE = 1 / 16
"""F, k <= share / dt. With diffusion's, at least 11/16 of a step are left to U*U."""
MOST_REACTION = {"schnakenberg": (0.5, 2.0), "fitzhugh_nagumo": (0.5, 4.0)}
"""Of the kinetics whose own time scale is 1: limits of their rates before all limits are lowered together."""
LONG_SHARE = 0.15
"""Of 1 / dt - 4, for text's D and F at long horizons: U*U may be 4 and more, as U + V starts at 2."""


class Bounds(NamedTuple):
    """What holds through a number of steps, if load <= 1."""

    u: float
    """|U| <= u; U >= 0 but for fitzhugh_nagumo."""
    v: float
    """|V| <= v."""
    load: float
    """The part of the step that is used at its fullest. Above 1 nothing is proven."""


Bound = tuple[float, ...]
"""The bounds of (activator or U, substrate or V, their sum)."""


def _gray_scott_load(bound: Bound, d: tuple[float, float], rates: tuple[float, float]) -> float:
    feed, kill = rates
    return max(4 * d[0] + feed + kill, 4 * d[1] + feed + bound[0] ** 2)


def _gray_scott_grow(
    bound: Bound, d: tuple[float, float], rates: tuple[float, float], dt: float, implicit: bool
) -> Bound:
    u, v, both = bound
    feed, loss, gap = rates[0], sum(rates), 2 * (d[0] - d[1])
    source = feed + (gap + rates[1] if gap >= 0 else abs(gap) + rates[1] if implicit else max(-gap, rates[1]))
    more = both + dt * max(0.0, source - loss * both)
    return min(u + dt * _most(u, both, 1.0, loss), more), v, more


def _schnakenberg_load(bound: Bound, d: tuple[float, float], rates: tuple[float, float]) -> float:
    return max(4 * d[0] + 1, 4 * d[1] + bound[0] ** 2)


def _schnakenberg_grow(
    bound: Bound, d: tuple[float, float], rates: tuple[float, float], dt: float, implicit: bool
) -> Bound:
    u, v, both = bound
    spread = v + dt * rates[1] if implicit else v  # imex diffuses what the reaction has made
    more = both + dt * (sum(rates) + 2 * abs(d[0] - d[1]) * spread)
    return min(u + dt * (rates[0] + _most(u, both, v, 1.0)), more), v + dt * rates[1], more


def _fitzhugh_nagumo_load(bound: Bound, d: tuple[float, float], rates: tuple[float, float]) -> float:
    u = bound[0]
    return max(4 * d[0] + 3 * u * u + 2 * (1 + THRESHOLD) * u + THRESHOLD, 4 * d[1] + rates[0] * rates[1])


def _fitzhugh_nagumo_grow(
    bound: Bound, d: tuple[float, float], rates: tuple[float, float], dt: float, implicit: bool
) -> Bound:
    u, v, both = bound
    return max(u, u + dt * (u * (1 - u) * (u - THRESHOLD) + v)), v + dt * rates[0] * u, both


def _most(u: float, both: float, v: float, loss: float) -> float:
    """The largest x x min(v, both - x) - loss x for 0 <= x <= u: at an end of the convex part, or in the cubic one."""
    inside = (both + math.sqrt(max(0.0, both * both - 3 * loss))) / 3
    return max(x * x * min(v, both - x) - loss * x for x in (0.0, u, min(u, max(0.0, both - v)), min(u, inside)))


class _Proof(NamedTuple):
    load: Callable[[Bound, tuple[float, float], tuple[float, float]], float]
    grow: Callable[[Bound, tuple[float, float], tuple[float, float], float, bool], Bound]
    swapped: bool = False
    """Whether text is what the proof calls U."""


PROOFS = {
    "gray_scott": _Proof(_gray_scott_load, _gray_scott_grow),
    "gray_scott_substrate": _Proof(_gray_scott_load, _gray_scott_grow, swapped=True),
    "schnakenberg": _Proof(_schnakenberg_load, _schnakenberg_grow),
    "fitzhugh_nagumo": _Proof(_fitzhugh_nagumo_load, _fitzhugh_nagumo_grow),
}


class _BoundStepper:
    """The parts of a step, for bounds; remembers the largest bounds and load that a part met."""

    def __init__(self, kinetics: str, rates: Rates[float], dt: float) -> None:
        self.proof, self.dt = PROOFS[kinetics], dt
        d = (rates.d_video, rates.d_text)
        self.d, self.rates = d[::-1] if self.proof.swapped else d, (rates.first, rates.second)
        self.load = 0.0
        self.met: Bound = (0.0, 0.0, 0.0)

    def explicit(self, bound: Bound) -> Bound:
        return self._grow(bound, self.d, implicit=False)

    def reaction(self, bound: Bound) -> Bound:
        return self._grow(bound, (0.0, 0.0), implicit=True)

    def diffusion(self, bound: Bound) -> Bound:
        return bound

    def _grow(self, bound: Bound, explicit_d: tuple[float, float], implicit: bool) -> Bound:
        self.load = max(self.load, self.dt * self.proof.load(bound, explicit_d, self.rates))
        self.met = tuple(map(max, self.met, bound))
        return self.proof.grow(bound, self.d, self.rates, self.dt, implicit)


def bounds(kinetics: str, rates: Rates[float], dt: float, steps: int, integrator: str = "euler") -> Bounds:
    """What is proven of `steps` steps of dt from 0 <= U, V <= 1, for rates >= 0."""
    stepper = _BoundStepper(kinetics, rates, dt)
    u, v, _ = integrate(integrator, stepper, (1.0, 1.0, 2.0), steps)
    return Bounds(*((v, u) if stepper.proof.swapped else (u, v)), stepper.load)


def limits(kinetics: str, dt: float, steps: int, integrator: str = "euler") -> Limits:
    """Limits of the four rates within which every combination is proven for `steps` steps of dt.

    Where Gray-Scott's steps are too many for that, the limits hold together with |D_u - D_v| <= room(rates). Raises
    ValueError where no rates are proven.
    """
    check_step(dt)
    diffusion, reaction = DIFFUSION_SHARE[integrator] / dt, REACTION_SHARE / dt
    box = Rates(diffusion, diffusion, *MOST_REACTION.get(kinetics, (reaction, reaction)))
    if _worst_load(kinetics, box, dt, steps, integrator) <= 1:
        return Limits(box, None)
    if kinetics.startswith("gray_scott") and dt < 1 / 4:
        least = min(reaction, LONG_SHARE * (1 / dt - 4))
        slower = diffusion if integrator == "imex" else least
        swapped = PROOFS[kinetics].swapped
        box = Rates(slower if swapped else diffusion, diffusion if swapped else slower, least, reaction)
        return Limits(box, _room(dt, steps, integrator, swapped))
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        fits = _worst_load(kinetics, Rates(*(middle * most for most in box)), dt, steps, integrator) <= 1
        low, high = (middle, high) if fits else (low, middle)
    if low == 0:
        raise ValueError(
            f"no rates of {kinetics} are proven to stay bounded through {steps} steps of dt = {dt:g}: take a smaller dt"
        )
    return Limits(Rates(*(low * most for most in box)), None)


def _worst_load(kinetics: str, box: Rates[float], dt: float, steps: int, integrator: str) -> float:
    """The load at the limits themselves, with the largest bounds that any corner of the box leads to."""
    met: Bound = (0.0, 0.0, 0.0)
    for corner in product(*((0.0, most) for most in box)):
        stepper = _BoundStepper(kinetics, Rates(*corner), dt)
        integrate(integrator, stepper, (1.0, 1.0, 2.0), steps)
        met = tuple(map(max, met, stepper.met))
    d = (0.0, 0.0) if integrator == "imex" else (box.d_video, box.d_text)
    proof = PROOFS[kinetics]
    return dt * proof.load(met, d[::-1] if proof.swapped else d, (box.first, box.second))


def _room(dt: float, steps: int, integrator: str, swapped: bool) -> Callable[[Rates[Tensor]], Tensor]:
    """The largest |D_u - D_v| at which U + V, which relaxes to (F + 2 |D_u - D_v| + k) / (F + k), leaves load <= 1."""
    before = steps if integrator == "ssprk3" else steps - 1  # a stage of ssprk3 may be a whole step ahead

    def room(rates: Rates[Tensor]) -> Tensor:
        loss = rates.first + rates.second
        substrate = rates.d_video if swapped else rates.d_text
        explicit = 0 if integrator == "imex" else 4 * substrate
        most = torch.sqrt(1 / dt - explicit - rates.first)  # of U
        relaxed = -torch.expm1(before * torch.log1p(-dt * loss))  # 1 - (1 - dt (F + k))^n
        return loss / 2 * (1 + (most - 2) / relaxed)

    return room
