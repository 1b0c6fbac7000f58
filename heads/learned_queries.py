"""Moments by learned queries: Moment-DETR's decoder (Lei et al., 2021), which is DETR's (Carion et al., 2020).

A query is a content x, 0 at first, and a place, learned. In every layer the queries talk, look at the memory and feed
forward, normalised after each; places are added to queries and keys, never to values. The memory are the clips and,
where a fusion gives them, the words, which have no place. A span is sigmoid(perceptron(norm(x))), whatever the layer
before said.

Dimensions: B sequences, T clips, L words, Q queries, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .dynamic_anchors import read_off, sines, span_perceptron, verdict
from .moment import MomentOutput


class QueryLayer(nn.Module):
    """Talk, look, feed forward."""

    def __init__(self, hidden: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.talk = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.look = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden, ffn), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn, hidden)
        )
        self.norm_talk, self.norm_look, self.norm_feed = (nn.LayerNorm(hidden) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, place: Tensor, memory: Tensor, memory_place: Tensor, unseen: Tensor) -> Tensor:
        """x, place [B, Q, D]; memory, memory_place [B, T + L, D]; unseen bool [B, T + L] -> [B, Q, D]."""
        at = x + place
        heard, _ = self.talk(at, at, x, need_weights=False)
        x = self.norm_talk(x + self.dropout(heard))
        seen, _ = self.look(x + place, memory + memory_place, memory, key_padding_mask=unseen, need_weights=False)
        x = self.norm_look(x + self.dropout(seen))
        return self.norm_feed(x + self.dropout(self.feed_forward(x)))


class LearnedQueriesHead(nn.Module):
    """Fused clips and words -> Q candidate moments. The original has no IoU head; `iou_head` adds one."""

    def __init__(
        self,
        hidden: int = 256,
        queries: int = 10,
        layers: int = 2,
        heads: int = 8,
        dropout: float = 0.1,
        iou_head: bool = False,
        ffn: int | None = None,
    ) -> None:
        """ffn: width of the feed-forward networks; None: four times hidden, as the original's is."""
        super().__init__()
        if hidden % heads or hidden % 2:
            raise ValueError(f"expected a hidden width divisible by 2 and by {heads} heads, got {hidden}")
        if queries < 1 or layers < 1:
            raise ValueError(f"expected at least 1 query and 1 layer, got {queries} and {layers}")
        self.layers = nn.ModuleList(QueryLayer(hidden, heads, ffn or 4 * hidden, dropout) for _ in range(layers))
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.norm = nn.LayerNorm(hidden)
        self.place = nn.Parameter(torch.randn(queries, hidden))
        self.span, self.judge = span_perceptron(hidden), verdict(hidden, iou_head)

    def forward(
        self,
        clips: Tensor,
        mask: Tensor,
        positions: Tensor,
        words: Tensor | None = None,
        word_mask: Tensor | None = None,
        places: Tensor | None = None,
        saliency: Tensor | None = None,
    ) -> MomentOutput:
        """clips [B, T, D]; mask bool [B, T], True = valid; positions [B, T]: the centre of each clip's time as a share.

        words [B, L, D], word_mask bool [B, L]: looked at, too, where both are given. places [B, T, D]: the clips'
        encoding in the fusion; else it is made of positions.
        """
        memory, memory_mask = clips, mask
        places = sines(positions, clips.shape[-1]) if places is None else places
        if words is not None and word_mask is not None:
            memory, memory_mask = torch.cat([clips, words], 1), torch.cat([mask, word_mask], 1)
            places = torch.cat([places, torch.zeros_like(words)], 1)
        padding = ~memory_mask[..., None]
        memory, places = memory.masked_fill(padding, 0), places.masked_fill(padding, 0).to(memory.dtype)
        unseen = ~memory_mask & memory_mask.any(1, keepdim=True)  # a row without anything sees padding: no NaN
        place = self.place.expand(len(clips), -1, -1)  # [B, Q, D]
        x = torch.zeros_like(place)
        outputs: list[MomentOutput] = []
        for layer in self.layers:
            x = layer(x, place, memory, places, unseen)
            y = self.norm(x)
            outputs.append(read_off(self.judge, y, self.span(y).sigmoid()))
        *auxiliary, final = outputs
        final.auxiliary = auxiliary
        return final
