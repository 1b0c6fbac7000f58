"""Equation (6) and its alternatives: what video U and text V do to each other within a clip, as pure functions.

    gray_scott            f =  U U V - (F + k) U            g = -U U V + F (1 - V)       F: feed, k: kill
    gray_scott_substrate  f = -U V V + F (1 - U)            g =  U V V - (F + k) V
    schnakenberg          f =  a - U + U U V                g =  b - U U V
    fitzhugh_nagumo       f =  U (1 - U) (U - 0.1) - V      g =  epsilon (U - gamma V)

Gray-Scott (Gray & Scott, 1984) with video as the activator is the default: video grows on text where it is already
strong, and decays; text is used up there and fed back towards 1. The paper's formula was lost in conversion; this form
is our reconstruction from its prose. With video as the substrate the roles are exchanged. Schnakenberg (1979) feeds
both species and has one steady state, (a + b, b / (a + b)^2). FitzHugh-Nagumo (1961) is an excitable activator with a
linear inhibitor; its species may turn negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

THRESHOLD = 0.1
"""Of FitzHugh-Nagumo: below it the activator falls back to 0, above it it is excited."""

Slopes = tuple[Tensor, Tensor]


def gray_scott(u: Tensor, v: Tensor, feed: Tensor, kill: Tensor) -> Slopes:
    """(f, g) of equation (6), elementwise; u, v of one shape, rates that broadcast with them. So are all below."""
    reaction = u * u * v
    return reaction - (feed + kill) * u, feed * (1 - v) - reaction


def gray_scott_substrate(u: Tensor, v: Tensor, feed: Tensor, kill: Tensor) -> Slopes:
    """Gray-Scott with text as the activator and video as what it feeds on."""
    g, f = gray_scott(v, u, feed, kill)
    return f, g


def schnakenberg(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Slopes:
    reaction = u * u * v
    return a - u + reaction, b - reaction


def fitzhugh_nagumo(u: Tensor, v: Tensor, epsilon: Tensor, gamma: Tensor) -> Slopes:
    return u * (1 - u) * (u - THRESHOLD) - v, epsilon * (u - gamma * v)


class Kinetics(NamedTuple):
    """A reaction with the names of its two rates and the values that they start from."""

    react: Callable[[Tensor, Tensor, Tensor, Tensor], Slopes]
    rates: tuple[str, str]
    initial: tuple[float, float]


KINETICS: dict[str, Kinetics] = {
    "gray_scott": Kinetics(gray_scott, ("feed", "kill"), (0.04, 0.06)),
    "gray_scott_substrate": Kinetics(gray_scott_substrate, ("feed", "kill"), (0.04, 0.06)),
    "schnakenberg": Kinetics(schnakenberg, ("a", "b"), (0.1, 0.9)),
    "fitzhugh_nagumo": Kinetics(fitzhugh_nagumo, ("epsilon", "gamma"), (0.05, 1.0)),
}
