"""One-to-one assignment of true spans to predicted ones (Hungarian algorithm; Carion et al., 2020).

The cost of giving true span n to query q is: - class * p_q + span * |span_q - span_n|_1 - giou * gIoU(q, n).

Dimensions: B sequences, Q queries, N the most true spans of a sequence, M matched pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .spans import pairwise_giou, to_start_end


class DivergenceError(ValueError):
    """Predictions became NaN or infinite in training."""


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
    """Matched pairs, in the order of the sequences; every tensor is int64 [M]."""

    sequence: Tensor
    """Which of the B sequences."""
    query: Tensor
    """Which of its Q queries."""
    target: Tensor
    """Which true span, counted through the concatenation of all sequences' spans."""


def pad_spans(spans: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Concatenated spans [sum(counts), 2] -> [B, N, 2] padded with 0, bool [B, N] True = a span; N >= 1."""
    n = torch.tensor(counts, device=spans.device)
    valid = torch.arange(max([1, *counts]), device=spans.device) < n[:, None]
    padded = spans.new_zeros(*valid.shape, 2)
    padded[valid] = spans
    return padded, valid


@torch.no_grad()
def match(class_logits: Tensor, spans: Tensor, targets: Tensor, counts: Sequence[int], cost: MatchCost) -> Match:
    """The assignment of least total cost, sequence by sequence.

    class_logits [B, Q]; spans [B, Q, 2] and targets [sum(counts), 2] as (centre, width); counts: how many
    of the targets belong to each sequence, in order. Where a sequence has more targets than queries, the
    best Q of them are matched. The costs of the whole batch reach the host in one transfer. Raises
    DivergenceError on NaN or infinity.
    """
    spans, class_logits = spans.float(), class_logits.float()
    padded, _ = pad_spans(targets.float(), counts)
    total = (
        -cost.classification * class_logits.sigmoid()[..., None]
        + cost.span * (spans[:, :, None] - padded[:, None]).abs().sum(-1)
        - cost.giou * pairwise_giou(to_start_end(spans), to_start_end(padded))
    )  # [B, Q, N]
    costs = total.cpu().numpy()
    if not np.isfinite(costs).all():
        raise DivergenceError(
            "expected finite predictions to match with the true moments, got NaN or infinity: training has "
            "diverged; lower the learning rate or the gradient clip, or check the features for NaN"
        )
    sequence, query, target = [], [], []
    first = 0
    for b, n in enumerate(counts):
        rows, columns = linear_sum_assignment(costs[b, :, :n])
        sequence += [b] * len(rows)
        query += rows.tolist()
        target += (first + columns).tolist()
        first += n
    return Match(*(torch.tensor(x, dtype=torch.long, device=spans.device) for x in (sequence, query, target)))
