"""What a fusion says beyond its clips, where it says more.

Dimensions: B sequences, T clips, L words, D hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from .correlation_guided import Guidance


class Fused(NamedTuple):
    """The output of a fuser. One that returns a tensor returns the clips alone."""

    clips: Tensor
    """[B, T, D], clips that know the sentence; 0 at padding."""
    token: Tensor | None = None
    """[B, D], one token that stands for video and sentence together (QD-DETR, CG-DETR)."""
    words: Tensor | None = None
    """[B, L, D], the words after fusion, where a decoder looks at them, too (Moment-DETR)."""
    places: Tensor | None = None
    """[B, T, D], the positional encoding of the clips; a DETR decoder adds it to its keys."""
    guidance: Guidance | None = None
    """What CG-DETR's losses are about."""

    @classmethod
    def of(cls, fused: Tensor | Fused) -> Fused:
        return fused if isinstance(fused, Fused) else cls(fused)
