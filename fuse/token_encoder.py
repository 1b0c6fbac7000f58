"""Encoder layers over a sequence with one token in front, which comes out as a summary of what it stood before.

CG-DETR has three: over the clips with the saliency token, over a moment's clips with the moment token, and over a
sentence's words with the sentence token. Its layers are DETR's with PReLU and stochastic depth.

Dimensions: B sequences, N members of a sequence, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .drop_path import DropPath
from .transformer import EncoderLayer


class PathEncoderLayer(EncoderLayer):
    """DETR's layer with PReLU, whose residual branches are dropped as a whole."""

    def __init__(self, hidden: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__(hidden, heads, ffn, dropout, "prelu")
        self.dropout = DropPath(dropout)


class TokenEncoder(nn.Module):
    def __init__(self, hidden: int, layers: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(hidden))  # of the token
        self.layers = nn.ModuleList(PathEncoderLayer(hidden, heads, ffn, dropout) for _ in range(layers))

    def forward(self, token: Tensor, x: Tensor, place: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """token [B, D] or [D]; x, place [B, N, D]; mask bool [B, N] -> the token [B, D] and x [B, N, D].

        What stands in x at padding is arbitrary, before and after, but finite. A row may be all padding: the token
        then hears itself alone.
        """
        ahead = x.new_zeros(len(x), 1, x.shape[-1])
        x = torch.cat([ahead + token.unsqueeze(-2).to(x.dtype), x], 1)  # [B, 1 + N, D]
        place = torch.cat([ahead + self.place.to(x.dtype), place], 1)
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], 1)
        for layer in self.layers:
            x = layer(x, mask, place)
        return x[:, 0], x[:, 1:]
