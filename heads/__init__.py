"""Fused clips -> predictions and losses: eqs. (12)-(17).

spans: geometry of time spans. saliency, moment, learned_queries, dynamic_anchors: the heads; proposals: where moment's
queries may start. matcher: one-to-one assignment. losses: what is minimised; contrast: its comparisons of saliency;
alignment: CG-DETR's terms.

Every moment head is called as `head(clips [B, T, D], mask bool [B, T], positions [B, T], words=..., word_mask=...,
places=..., saliency=...)` and returns a MomentOutput, every saliency head as `head(clips, mask, token)` and returns
logits [B, T].
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .dynamic_anchors import DynamicAnchorsHead
from .learned_queries import LearnedQueriesHead
from .moment import MomentHead
from .saliency import SALIENCY_HEADS

MOMENT_HEADS: dict[str, Callable[..., nn.Module]] = {
    "reference_spans": MomentHead,
    "learned_queries": LearnedQueriesHead,
    "dynamic_anchors": DynamicAnchorsHead,
}

__all__ = ["MOMENT_HEADS", "SALIENCY_HEADS"]
