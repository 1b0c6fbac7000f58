"""How well each clip fits the sentence, told to the fusion: cosines of clip and sentence, head by head.

    r_h(t) = cos(x_h(t), s_h),    x: a clip's features, s: the words' mean, both normalised; h: a part of the channels

A fusion can learn such products by itself from many thousands of sentences; from a thousand it does not
(docs/RESULTS.md). What clips and words have in common is there from the start where both come through one projection.

Dimensions: B sequences, T clips, L words, D hidden, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from .laplacian import zero_padding
from .reaction_diffusion import masked_mean

SCALE = 5.0
"""Cosines vary by a few tenths over the clips of a video; what they are added to varies by one."""


class Relevance(nn.Module):
    """Cosines [B, T, H] of clips and sentence, and what they add to the clips."""

    def __init__(self, hidden: int, heads: int) -> None:
        """Raises ValueError unless heads divides hidden."""
        super().__init__()
        if heads < 1 or hidden % heads:
            raise ValueError(f"expected a number of heads that divides hidden = {hidden}, got {heads}: change either")
        self.heads = heads
        self.norm_clips, self.norm_sentence = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.tell = nn.Linear(heads, hidden)

    def cosines(self, clips: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """clips [B, T, D], words [B, L, D], word_mask [B, L] -> [B, T, H], each in [-1, 1]."""
        sentence = self.norm_sentence(masked_mean(words, word_mask)).unsqueeze(1)  # [B, 1, D]
        a, b = (x.unflatten(-1, (self.heads, -1)) for x in (self.norm_clips(clips), sentence))
        return functional.cosine_similarity(a, b, dim=-1)

    def forward(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """The clips with their relevance: [B, T, D], 0 at padding. Masks are True where something is."""
        clips = zero_padding(clips, clip_mask)
        told = self.tell(SCALE * self.cosines(clips, words, word_mask))
        return zero_padding(clips + told, clip_mask)
