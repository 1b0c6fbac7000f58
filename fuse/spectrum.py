"""Functions of the Laplacian in closed form: the cosines cos(pi j (i + 1/2) / T) are its eigenvectors on T clips.

    Lap cos_j = -4 sin^2(pi j / 2T) cos_j,    so    phi(-Lap) x = C^T phi(4 sin^2(pi j / 2T)) C x

with C the cosine transform (DCT-II, orthonormal; Strang, 1999). T is each sequence's own number of valid clips, so
padding takes no part. Up to DENSE clips C is a matrix; beyond, the sequence and its mirror image are one period of a
fast Fourier transform, O(T log T) for each length that the batch has.

Dimensions: B sequences, T clips, D channels, J cosine modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .laplacian import zero_padding

DENSE = 512
"""Clips up to which two products with the matrix are faster than Fourier transforms (benchmarks/fusion.py)."""


class CosineModes:
    """The cosine transform of a ragged batch: mask bool [B, T], valid clips a prefix of their row."""

    def __init__(self, mask: Tensor, dtype: torch.dtype) -> None:
        self.mask, self.dtype = mask, dtype
        self.dense = mask.shape[1] <= DENSE
        if self.dense:
            self.basis, self.eigenvalues = _basis(mask, dtype)

    def apply(self, x: Tensor, phi: Callable[[Tensor], Tensor]) -> Tensor:
        """phi(-Lap) x for x [B, T, D]; 0 at padding. phi takes eigenvalues [..., J, 1] >= 0 to [..., J, 1 or D]."""
        x = zero_padding(x, self.mask)
        if self.dense:
            return self.basis @ (phi(self.eigenvalues) * (self.basis.mT @ x))
        lengths = self.mask.sum(1)
        out = torch.zeros_like(x)
        for length in lengths.unique().tolist():
            if length:
                rows = (lengths == length).nonzero().squeeze(1)
                out = out.index_put((rows,), _pad(_fourier(x[rows, :length], phi), x.shape[1]))
        return out


def _basis(mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The orthonormal cosines [B, T, J], 0 beyond a sequence, and the eigenvalues [B, J, 1] of -Lap."""
    lengths = mask.sum(1).clamp(min=1).view(-1, 1, 1)  # [B, 1, 1]
    clip = torch.arange(mask.shape[1], device=mask.device).view(1, -1, 1)  # [1, T, 1]
    mode = clip.mT  # [1, 1, J]
    # The angle is pi / 2T times an integer; taken modulo a full turn as an integer, it loses no digits.
    angle = (mode * (2 * clip + 1) % (4 * lengths)) * (math.pi / (2 * lengths.to(dtype)))  # [B, T, J]
    norm = torch.where(mode == 0, 1, 2) / lengths.to(dtype)
    basis = (angle.cos() * norm.sqrt()).masked_fill((clip >= lengths) | (mode >= lengths), 0)
    return basis, 4 * torch.sin(mode * (math.pi / (2 * lengths.to(dtype)))).mT ** 2


def _fourier(x: Tensor, phi: Callable[[Tensor], Tensor]) -> Tensor:
    """The same for sequences [B, T, D] of one length: on the even extension of period 2T, cosines are all there is."""
    clips = x.shape[1]
    mode = torch.arange(clips + 1, device=x.device, dtype=x.dtype)
    eigenvalues = 4 * torch.sin(mode * (math.pi / (2 * clips))).unsqueeze(-1) ** 2  # [J, 1]
    modes = torch.fft.rfft(torch.cat([x, x.flip(1)], 1), dim=1)  # [B, J, D]
    return torch.fft.irfft(phi(eigenvalues) * modes, n=2 * clips, dim=1)[:, :clips]


def _pad(x: Tensor, clips: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, 0, 0, clips - x.shape[1]))
