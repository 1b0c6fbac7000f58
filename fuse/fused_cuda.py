"""The GPU's side of fused.py: how the kernels of fused_cuda_kernels.py are launched.

A pass takes up to SEGMENT steps; more steps are several passes. In the backward pass their states are made again, at
most KEPT at a time, so memory does not depend on the number of steps.

Dimensions: B sequences, T clips, D channels, M steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import triton
from torch import Tensor

from .fused_cuda_kernels import backward_kernel, forward_kernel

SEGMENT = 5
"""Steps S of a pass: the adjoint keeps S (S - 1) rows of both species in registers (123 in all at 5, on sm_90)."""
KEPT = 8
"""States at the beginnings of segments that a backward pass keeps at a time."""
BLOCK = 128
"""Channels of a program, one for each thread."""
PROGRAMS = 2048
"""As many programs as fill the largest GPUs; chunks are as long as that allows."""
SHORTEST = 32
"""Clips of a chunk at least: its halo is 2 S on each side."""

Species = tuple[Tensor, Tensor]


class _System:
    """What all launches of one call have in common."""

    def __init__(self, u: Tensor, lengths: Tensor, rates: Tensor, dt: float, kinetics: int) -> None:
        self.lengths, self.rates, self.dt, self.kinetics = lengths, rates.float().contiguous(), dt, kinetics
        self.batch, self.clips, self.channels = u.shape
        self.block = min(BLOCK, max(32, triton.next_power_of_2(self.channels)))
        blocks = -(-self.channels // self.block)
        self.chunk = max(SHORTEST, math.ceil(self.clips * self.batch * blocks / PROGRAMS))
        self.chunks = -(-self.clips // self.chunk)
        self.grid = (blocks, self.chunks, self.batch)

    def steps(self, u: Tensor, v: Tensor, steps: int, dtype: torch.dtype, text: bool) -> tuple[Tensor, Tensor | None]:
        u_out = torch.empty_like(u, dtype=dtype)
        v_out = torch.empty_like(u_out) if text else None
        forward_kernel[self.grid](
            u, v, self.lengths, self.rates, u_out, v_out, self.clips, self.channels, self.dt, self.chunk,
            self._repeated(v), S=steps, KINETICS=self.kinetics, TEXT=text, BLOCK=self.block,
        )  # fmt: skip
        return u_out, v_out

    def state_after(self, state: Species, steps: int) -> Species:
        u, v = self.steps(*state, steps, torch.float32, True)
        assert v is not None
        return u, v

    def steps_back(
        self, state: Species, steps: int, u_grad: Tensor, v_grad: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of a segment's U and V at its beginning and of the rates [4, D]."""
        u, v = state
        repeated = self._repeated(v)
        u_back = torch.empty_like(u, dtype=dtype)
        v_back = torch.empty_like(u_back)
        if repeated:
            v_back = u.new_empty(self.batch, self.chunks, self.channels, dtype=torch.float32)
        rates_back = u.new_empty(self.batch, self.chunks, 4, self.channels, dtype=torch.float32)
        backward_kernel[self.grid](
            u, v, self.lengths, self.rates, u_grad, v_grad, u_back, v_back, rates_back, self.clips, self.channels,
            self.dt, self.chunk, repeated,
            S=steps, KINETICS=self.kinetics, TEXT=v_grad is not None, BLOCK=self.block,
        )  # fmt: skip
        return u_back, v_back.sum(1, keepdim=True) if repeated else v_back, rates_back.sum((0, 1))

    def segments_back(self, start: Species, segments: Sequence[int]) -> Iterator[tuple[Species, int]]:
        """(state at its beginning, steps) of each segment, last first; at most KEPT are kept, the others made again."""
        if len(segments) == 1:
            yield start, segments[0]
            return
        stride = -(-len(segments) // KEPT)
        groups = [segments[i : i + stride] for i in range(0, len(segments), stride)]
        kept = [start]
        for group in groups[:-1]:
            state = kept[-1]
            for steps in group:
                state = self.state_after(state, steps)
            kept.append(state)
        while kept:
            yield from self.segments_back(kept.pop(), groups.pop())

    def _repeated(self, v: Tensor) -> bool:
        return v.shape[1] == 1 and self.clips > 1


def forward(
    u: Tensor, v: Tensor, lengths: Tensor, rates: Tensor, dt: float, steps: int, kinetics: int, text: bool
) -> tuple[Tensor, Tensor | None]:
    """(U^M, V^M or None) from U^0 [B, T, D], V^0 [B, T or 1, D], lengths int64 [B], rates [4, D]."""
    system = _System(u, lengths, rates, dt, kinetics)
    *before, last = _segments(steps)
    state = u.contiguous(), v.contiguous()
    for count in before:
        state = system.state_after(state, count)
    return system.steps(*state, last, u.dtype, text)


def backward(
    u: Tensor,
    v: Tensor,
    lengths: Tensor,
    rates: Tensor,
    dt: float,
    steps: int,
    kinetics: int,
    u_grad: Tensor,
    v_grad: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of U^0, V^0 and the rates [4, D], from those of U^M and V^M."""
    system = _System(u, lengths, rates, dt, kinetics)
    segments = _segments(steps)
    u_back = u_grad.contiguous()
    v_back = None if v_grad is None else v_grad.contiguous()
    rates_back = torch.zeros_like(system.rates)
    left = len(segments)
    for state, count in system.segments_back((u.contiguous(), v.contiguous()), segments):
        left -= 1
        u_back, v_back, more = system.steps_back(state, count, u_back, v_back, torch.float32 if left else u.dtype)
        rates_back += more
    assert v_back is not None
    return u_back, v_back.to(v.dtype), rates_back.to(rates.dtype)


def _segments(steps: int) -> list[int]:
    """Parts of at most SEGMENT steps, as even as can be: few kernels are compiled."""
    count = -(-steps // SEGMENT)
    return [steps * (part + 1) // count - steps * part // count for part in range(count)]
