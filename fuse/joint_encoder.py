"""Moment-DETR's fusion (Lei et al., 2021): one encoder over clips and words together.

    [clips; words] -> layers of self-attention over both -> [clips; words]

Clips have sine places; words have none, so their order does not matter here. Both go on to the decoder.

Dimensions: B sequences, T clips, L words, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .laplacian import check_prefix, zero_padding
from .output import Fused
from .transformer import EncoderLayer, reset, sine_positions


class JointEncoderFusion(nn.Module):
    """DETR's encoder."""

    def __init__(self, hidden: int, layers: int = 2, heads: int = 8, ffn: int = 1024, dropout: float = 0.1) -> None:
        """Raises ValueError unless heads divides hidden."""
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(hidden, heads, ffn, dropout) for _ in range(layers))
        reset(self)

    def forward(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Fused:
        """clips [B, T, D], clip_mask bool [B, T], words [B, L, D], word_mask bool [B, L]."""
        check_prefix(clip_mask)
        mask = torch.cat([clip_mask, word_mask], 1)  # [B, T + L]
        x = torch.cat([zero_padding(clips, clip_mask), zero_padding(words, word_mask)], 1)
        place = sine_positions(clip_mask, x.shape[-1])
        places = torch.cat([place, place.new_zeros(words.shape)], 1)
        for layer in self.layers:
            x = layer(x, mask, places)
        x = zero_padding(x, mask)
        return Fused(x[:, : clips.shape[1]], words=x[:, clips.shape[1] :], places=place)
