"""How well each clip fits the sentence, told to the fusion: cosines of the encoders' own features.

    r_h(t) = sum_c w_hc x_c(t) s_c,    x(t): a clip's features, s: the mean of the words', both of length 1;
                                       w_hc learned from 1: H ways to weigh the channels
    told:  r_h, and r_h less its mean over the clips, in its deviation over them

For encoders of one space (CLIP's two, or captions and sentences by one BERT), whose features of a clip and of a
sentence about it are alike before anything is learned. From a thousand sentences the fusions that we tried learn such
products slowly and in part (docs/RESULTS.md).

Dimensions: B sequences, T clips, L words, W width of the features, D hidden, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .laplacian import zero_padding
from .reaction_diffusion import masked_mean

SCALE = 5.0
"""Cosines vary by a few tenths over the clips of a video; what they are added to varies by one."""
JITTER = 0.1
"""Deviation of the weights at the start: heads that are equal learn the same."""
FLAT = 1e-3
"""A deviation over the clips below it is none."""


class Relevance(nn.Module):
    """What is added to the clips."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        """Raises ValueError unless there is a head."""
        super().__init__()
        if heads < 1:
            raise ValueError(f"expected at least 1 head of relevance, got {heads}")
        self.weight = nn.Parameter(1 + JITTER * torch.randn(heads, width))
        self.tell = nn.Linear(2 * heads, hidden)

    def cosines(self, clips: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """r: clips [B, T, W], words [B, L, W], word_mask [B, L] -> [B, T, H]."""
        sentence = functional.normalize(masked_mean(words, word_mask), dim=-1).unsqueeze(1)  # [B, 1, W]
        return (functional.normalize(clips, dim=-1) * sentence) @ self.weight.T

    def forward(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """Features as the encoders gave them -> [B, T, D], 0 at padding. Masks are True where something is."""
        count = clip_mask.sum(1).clamp(min=1)[:, None, None]
        r = zero_padding(self.cosines(zero_padding(clips, clip_mask), words, word_mask), clip_mask)
        apart = zero_padding(r - r.sum(1, keepdim=True) / count, clip_mask)
        deviation = (apart.square().sum(1, keepdim=True) / count + FLAT**2).sqrt()
        return zero_padding(self.tell(torch.cat((SCALE * r, apart / deviation), -1)), clip_mask)
