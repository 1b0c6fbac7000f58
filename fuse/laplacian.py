"""Equation (2), the Laplacian along time: (Lap X)_i = X_{i+1} - 2 X_i + X_{i-1}, with zero flux at both ends.

Written as a balance of fluxes. Across the border of clips i and i+1 flows X_{i+1} - X_i where both clips are
valid, and nothing elsewhere; a clip gains what comes from the right and loses what goes to the left. So
nothing enters or leaves the valid part of a sequence, the sum over its clips is kept, and padding takes no
part. Valid clips are a prefix of each row in rdmf; the form holds for any mask (every run of valid clips is
then a sequence of its own).

Dimensions: B sequences, T clips, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """x [B, T, D] with 0 where mask [B, T] is False. A fill, no product: padding may hold NaN."""
    return x.masked_fill(~mask.unsqueeze(-1), 0)


def check_prefix(mask: Tensor) -> None:
    """Raises RuntimeError unless the valid clips of mask [B, T] come first in every row; a GPU is not waited for."""
    in_order = (mask[:, 1:] <= mask[:, :-1]).all()
    torch._assert_async(in_order, "expected a mask whose valid clips come first in every row; put padding behind them")


def links(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, T - 1, 1]: 1 at each border between two valid clips, 0 elsewhere."""
    return (mask[:, 1:] & mask[:, :-1]).unsqueeze(-1).to(dtype)


def laplacian(x: Tensor, mask: Tensor) -> Tensor:
    """Lap x [B, T, D] for the valid clips of mask [B, T]; 0 at padding, whatever padding holds."""
    return linked_laplacian(zero_padding(x, mask), links(mask, x.dtype))


def linked_laplacian(x: Tensor, linked: Tensor) -> Tensor:
    """Lap x for a loop that has zeroed the padding of x [B, T, D] once and holds linked [B, T - 1, 1]."""
    return _Laplacian.apply(x, linked)


class _Laplacian(torch.autograd.Function):
    """Lap is symmetric, so its gradient is Lap of the gradient: less work than differentiating slices."""

    @staticmethod
    def forward(x: Tensor, linked: Tensor) -> Tensor:
        flux = torch.sub(x[:, 1:], x[:, :-1]).mul_(linked)  # [B, T - 1, D]
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        out[:, :-1] = flux
        out[:, -1:] = 0
        out[:, 1:] -= flux
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (linked,) = ctx.saved_tensors
        return _Laplacian.apply(grads[0], linked), None
