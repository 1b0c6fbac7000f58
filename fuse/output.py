"""What a fusion says beyond its clips, where it says more.

Dimensions: B sequences, T clips, L words, D hidden.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .adaptive_cross_attention import heard_by


class Guidance(NamedTuple):
    """What CG-DETR's attention was and what it was made of: N dummies, P prompts."""

    attention: Tensor
    """[B, T, N + L], mean over layers and heads, dummies first: rows of clips sum to 1, padding is 0."""
    dummies: Tensor
    """[B, N, D], encoded with the sentence."""
    prompts: Tensor
    """[P, D]"""
    clips: Tensor
    """[B, T, D], before they met the words; 0 at padding."""
    clip_mask: Tensor
    """bool [B, T]"""
    words: Tensor
    """[B, L, D], before they met the clips; 0 at padding."""
    word_mask: Tensor
    """bool [B, L]"""

    @property
    def heard(self) -> Tensor:
        """[B, T] in [0, 1]: how much attention goes to words, the rest to dummies."""
        return heard_by(self.attention, self.dummies.shape[1])


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
