"""Equation (6), Gray-Scott with video as the activator U and text as the inhibitor V: what happens in a clip.

    f(U, V) =  U*U*V - (F + k) U        video grows on text where it is already strong, and decays
    g(U, V) = -U*U*V + F (1 - V)        text is used up there, and is fed back towards 1

The published formula was lost in conversion; this form is our reconstruction from the paper's prose.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .rates import Rates


def gray_scott(u: Tensor, v: Tensor, rates: Rates[Tensor]) -> tuple[Tensor, Tensor]:
    """(f, g) of equation (6), elementwise on tensors of one shape."""
    reaction = u * u * v
    return reaction - (rates.feed + rates.kill) * u, rates.feed * (1 - v) - reaction


KINETICS: dict[str, Callable[[Tensor, Tensor, Rates[Tensor]], tuple[Tensor, Tensor]]] = {"gray_scott": gray_scott}
