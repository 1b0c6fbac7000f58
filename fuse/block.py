"""The transformer block around reaction-diffusion, cross-attention and no fusion: the same for all three.

    x = clips + dropout(mix(norm(clips), words))
    x = x + dropout(feed_forward(norm(x)))
    output = norm(x)

So two fusions differ in `mix` alone. Padding is set to 0 on entry, once: nothing that it holds, NaN included,
can reach a valid clip or a gradient.

Dimensions: B sequences, T clips, L words, D hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from .laplacian import check_prefix, zero_padding


class FusionBlock(nn.Module, ABC):
    """The shared part. A fusion derives from it and defines `mix`."""

    def __init__(self, hidden: int, dropout: float, ffn: int) -> None:
        super().__init__()
        self.norm_clips, self.norm_words = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.norm_ffn, self.norm_out = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.ffn = nn.Sequential(nn.Linear(hidden, ffn), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn, hidden))
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def mix(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """What the words add: normalised clips [B, T, D], words [B, L, D] as they are -> [B, T, D]."""

    def forward(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """clips [B, T, D], clip_mask [B, T], words [B, L, D], word_mask [B, L] -> [B, T, D], 0 at padding."""
        check_prefix(clip_mask)
        clips, words = zero_padding(clips, clip_mask), zero_padding(words, word_mask)
        x = clips + self.dropout(self.mix(self.norm_clips(clips), clip_mask, words, word_mask))
        x = x + self.dropout(self.ffn(self.norm_ffn(x)))
        return zero_padding(self.norm_out(x), clip_mask)
