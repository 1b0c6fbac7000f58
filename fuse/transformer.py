"""The encoder layer of the DETR family, and where its clips stand.

    x = norm(x + dropout(attention(x + place, x + place, x)))
    x = norm(x + dropout(feed_forward(x)))

Places are added to queries and keys, never to values; normalisation comes last (Carion et al., 2020; the defaults of
Moment-DETR, QD-DETR and CG-DETR). A place is the sines and cosines of how far along the valid clips a clip stands.

Dimensions: B sequences, N tokens, D hidden.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "prelu": nn.PReLU}
"""Moment-DETR's; QD-DETR's and CG-DETR's."""


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network."""

    def __init__(self, hidden: int, heads: int, ffn: int, dropout: float, activation: str = "relu") -> None:
        super().__init__()
        if heads < 1 or hidden % heads:
            raise ValueError(f"expected a number of heads that divides hidden = {hidden}, got {heads}: change either")
        self.attention = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden, ffn), ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(ffn, hidden)
        )
        self.norm_attention, self.norm_feed = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, place: Tensor) -> Tensor:
        """x, place [B, N, D], finite; mask bool [B, N], True = valid -> [B, N, D], at padding whatever comes out."""
        at = x + place
        unheard = ~mask & mask.any(1, keepdim=True)  # all padding: heard, as some kernels make NaN of nothing
        heard, _ = self.attention(at, at, x, key_padding_mask=unheard, need_weights=False)
        x = self.norm_attention(x + self.dropout(heard))
        return self.norm_feed(x + self.dropout(self.feed_forward(x)))


def sine_positions(mask: Tensor, width: int) -> Tensor:
    """The sine encoding of each valid token's place in (0, 1], [B, N, width], sines and cosines in turn.

    mask bool [B, N]. DETR's `PositionEmbeddingSine` in one dimension, normalised, with a scale of 2 pi.
    """
    if width % 2:
        raise ValueError(f"expected an even hidden width for sines and cosines, got {width}")
    count = mask.cumsum(1, dtype=torch.float32)  # [B, N]
    place = 2 * math.pi * count / (count[:, -1:] + 1e-6)
    channel = torch.arange(width, device=mask.device)
    angle = place[..., None] / 10000.0 ** (2 * (channel // 2) / width)  # [B, N, width]
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), -1).flatten(2)


def reset(module: nn.Module) -> None:
    """Xavier's uniform start of every matrix, as the DETR family has it."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
