"""Equations (7) and (8) and two other ways to take a step of dx/dt = D Lap x + r(x).

    euler    x' = x + dt (D Lap x + r(x))                                        order 1; the paper's
    ssprk3   three Euler steps in convex combinations (Shu & Osher, 1988)        order 3
    imex     (1 - dt D Lap) x' = x + dt r(x): diffusion implicit                 order 1, any dt D

Strong stability: what an Euler step of dt keeps (positivity, a convex bound), a step of ssprk3 keeps at the same dt.
The implicit solve is a weighted mean over the clips, so imex keeps what the reaction alone keeps. How large dt may be
is in bounds.py, which runs these very functions on bounds instead of states: a `Stepper` says what their parts are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

State = TypeVar("State", tuple[Tensor, ...], tuple[float, ...])
"""(U, V), or the bounds that they have."""


class Stepper(Protocol[State]):
    """The parts that steps are made of."""

    def explicit(self, state: State, /) -> State:
        """x + dt (D Lap x + r(x))."""

    def reaction(self, state: State, /) -> State:
        """x + dt r(x)."""

    def diffusion(self, state: State, /) -> State:
        """(1 - dt D Lap)^-1 x."""


def euler(stepper: Stepper[State], state: State) -> State:
    return stepper.explicit(state)


def ssprk3(stepper: Stepper[State], state: State) -> State:
    one = stepper.explicit(state)
    two = _between(state, stepper.explicit(one), 1 / 4)
    return _between(state, stepper.explicit(two), 2 / 3)


def imex(stepper: Stepper[State], state: State) -> State:
    return stepper.diffusion(stepper.reaction(state))


def _between(old: State, new: State, share: float) -> State:
    return tuple((1 - share) * a + share * b for a, b in zip(old, new, strict=True))


INTEGRATORS: dict[str, Callable] = {"euler": euler, "ssprk3": ssprk3, "imex": imex}


def integrate(integrator: str, stepper: Stepper[State], state: State, steps: int) -> State:
    """The state after `steps` steps."""
    step = INTEGRATORS[integrator]
    for _ in range(steps):
        state = step(stepper, state)
    return state
