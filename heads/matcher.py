"""One-to-one matching of true spans with predicted ones (Carion et al., 2020).

The cost of giving true span n to query q is: - class * p_q + span * |span_q - span_n|_1 - giou * gIoU(q, n).

Dimensions: B sequences, Q queries, N the most true spans of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .assignment import assign
from .spans import pairwise_giou, to_start_end


@dataclass(frozen=True, slots=True)
class MatchCost:
    """Weights of the parts of the cost."""

    classification: float = 4.0
    """Of the probability of the foreground."""
    span: float = 10.0
    """Of the L1 distance of (centre, width)."""
    giou: float = 1.0
    """Of the generalised IoU."""


class Match(NamedTuple):
    """Which query answers for each true span."""

    query: Tensor
    """int64 [B, N], 0 where the mask is False: an index that can be gathered with."""
    mask: Tensor
    """bool [B, N]: False on padding, and on spans that found no query because there are more spans than queries."""


@torch.no_grad()
def match(
    class_logits: Tensor, spans: Tensor, targets: Tensor, mask: Tensor, cost: MatchCost, method: str | None = None
) -> Match:
    """The assignment of least total cost, sequence by sequence.

    class_logits [B, Q]; spans [B, Q, 2] and targets [B, N, 2] as (centre, width); mask bool [B, N], True = a true span.
    Where a sequence has more true spans than queries, the best Q of them are matched. Predictions that are NaN or
    infinite are matched somehow. `method` as in `assign`.
    """
    spans, targets = spans.float(), targets.float()
    total = (
        -cost.classification * class_logits.float().sigmoid()[..., None]
        + cost.span * (spans[:, :, None] - targets[:, None]).abs().sum(-1)
        - cost.giou * pairwise_giou(to_start_end(spans), to_start_end(targets))
    )  # [B, Q, N]
    query = assign(total, mask, method)
    return Match(query.clamp(min=0), query >= 0)
