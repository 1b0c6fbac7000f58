"""Equations (7) and (8), forward Euler, and how large its step may be for equations (3), (5) and (6).

Diffusion alone. A step multiplies the cosine mode j by 1 - 4 dt d sin^2(pi j / 2T). For dt d <= 1/4 the
factor is never negative: no mode changes sign from step to step, and each clip becomes a weighted mean of
itself and its neighbours.

Gray-Scott. Let 0 <= U^0, V^0 <= 1 and Ubar the largest U before the last step. If

    dt (4 D_u + F + k) <= 1    and    dt (4 D_v + F + Ubar^2) <= 1                 (step_load <= 1)

then U >= 0 and 0 <= V <= 1 at every step. Proof by induction, with n <= 2 neighbours j of clip i:
    U'_i     = U_i (1 - n dt D_u - dt (F + k) + dt U_i V_i) + dt D_u sum_j U_j                 all terms >= 0
    V'_i     = V_i (1 - n dt D_v - dt F - dt U_i^2) + dt D_v sum_j V_j + dt F                  all terms >= 0
    1 - V'_i = (1 - V_i)(1 - n dt D_v - dt F) + dt D_v sum_j (1 - V_j) + dt U_i^2 V_i          all terms >= 0
(2 D in place of 4 D would do; 4 D also bars modes that change sign.)

How large U gets, two ways (`activator_bound`):
    U' <= Umax (1 + dt (Umax - F - k)), since V <= 1: tight for few steps, without limit for many.
    W = U + V, where the reaction cancels:
        W' = [W + dt (D_u Lap W - (F + k) W)] + dt ((D_v - D_u) Lap V + k V + F).
    The bracket is at most (1 - dt (F + k)) Wmax. As 0 <= V <= 1,
    -Lap V_i <= 2 V_i and Lap V_i <= 2 (1 - V_i), so the rest is at most dt (F + s), where
    s = 2 (D_u - D_v) + k if D_u >= D_v, else max(2 (D_v - D_u), k).
    Hence U <= W <= max(2, (F + s) / (F + k)) for any number of steps: 3 at the paper's rates.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .rates import Rates

State = tuple[Tensor, ...]


def euler(slopes: Callable[[State], State], state: State, dt: float, steps: int) -> State:
    """The state after `steps` steps of x <- x + dt * slope, for every x of the state at once."""
    for _ in range(steps):
        state = tuple(x + dt * slope for x, slope in zip(state, slopes(state), strict=True))
    return state


def activator_bound(rates: Rates[float], dt: float, steps: int) -> float:
    """The lesser of the two bounds on U through `steps` steps from 0 <= U, V <= 1, if step_load <= 1."""
    loss, spread = rates.feed + rates.kill, 2 * (rates.d_video - rates.d_text)
    source = rates.feed + (spread + rates.kill if spread >= 0 else max(-spread, rates.kill))
    u, both = 1.0, 2.0  # U, and U + V
    for _ in range(steps):
        both += dt * max(0.0, source - loss * both)  # neither falls, so they hold for all earlier steps too
        u = min(u + dt * u * max(0.0, u - loss), both)
    return u


def step_load(rates: Rates[float], dt: float, steps: int) -> float:
    """The part of the step that is used. At most 1: U, V >= 0 and V <= 1 through all `steps` are proven."""
    largest = activator_bound(rates, dt, max(steps - 1, 0))
    video = 4 * rates.d_video + rates.feed + rates.kill
    text = 4 * rates.d_text + rates.feed + largest**2
    return dt * max(video, text)
