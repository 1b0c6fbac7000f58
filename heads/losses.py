"""The training loss: eqs. (14)-(17).

(14) saliency: binary cross-entropy of clip logits with targets in [0, 1].
(15) spans: smooth L1 of (centre, width), and 1 - gIoU, of the queries matched with a true moment.
(16) class: cross-entropy over {moment, no object}, 'no object' weighted down; regression of the IoU.
(17) the weighted sum. Every decoder layer is matched and scored by itself.

Dimensions: B sequences, T clips, Q queries, L decoder layers, M matched pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from .matcher import MatchCost, match, pad_spans
from .moment import MomentOutput
from .spans import giou, pairwise_iou, to_start_end

SPAN_BETA = 0.01  # smooth L1 is quadratic below it: 1% of the sequence. At 1 it would be a plain, weak L2
IOU_BETA = 0.1


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms of (17)."""

    span: float = 10.0
    """Smooth L1 of matched spans."""
    giou: float = 1.0
    """1 - gIoU of matched spans."""
    classification: float = 4.0
    """Cross-entropy of all queries."""
    iou: float = 1.0
    """Regression of the IoU, of all queries."""
    saliency: float = 4.0
    """Binary cross-entropy of all clips that have a target."""
    no_object: float = 0.1
    """Weight of an unmatched query in the cross-entropy, where a matched one weighs 1."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected a loss weight {f.name} >= 0, got {value}")

    @property
    def match_cost(self) -> MatchCost:
        return MatchCost(self.classification, self.span, self.giou)


@dataclass(frozen=True, slots=True)
class Targets:
    """What is true of a batch."""

    spans: Tensor
    """[sum(counts), 2]: true (centre, width) in [0, 1], of the first sequence, then of the second, ..."""
    counts: Sequence[int]
    """[B]: how many of them each sequence has; 0 is a sequence without the moment."""
    saliency: Tensor
    """[B, T] in [0, 1]."""
    saliency_mask: Tensor
    """bool [B, T]: clips that have a saliency target; False on padding and where no target can be derived."""

    def __post_init__(self) -> None:
        if tuple(self.spans.shape) != (sum(self.counts), 2):
            raise ValueError(f"expected {sum(self.counts)} true spans of 2 numbers, got {tuple(self.spans.shape)}")
        if self.saliency.shape != self.saliency_mask.shape or len(self.saliency) != len(self.counts):
            raise ValueError(
                f"expected saliency and its mask as [{len(self.counts)}, T], "
                f"got {tuple(self.saliency.shape)} and {tuple(self.saliency_mask.shape)}"
            )


def saliency_loss(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """(14): mean over the clips of mask [B, T], 0 if there are none; what other clips hold does not count."""
    logits, target = logits.float().masked_fill(~mask, 0), target.float().masked_fill(~mask, 0)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * mask).sum() / mask.sum().clamp(min=1)


def moment_losses(output: MomentOutput, targets: Targets, weights: LossWeights) -> dict[str, Tensor]:
    """(15) and (16) of every decoder layer: {'span', 'giou', 'class' (, 'iou')}, each [L], final layer first.

    The layers are stacked along the batch, so there is one matching for all of them. Span terms are means
    over matched pairs (smooth L1 over both coordinates too), the class term is the weighted mean over
    queries, as a softmax over two classes has it, and the IoU term the mean over queries. All queries learn
    their IoU with the best true span, 0 where there is none; the true IoU carries no gradient. There is no
    'iou' without the IoU head. Raises DivergenceError where predictions are NaN or infinite.
    """
    layers = [output, *output.auxiliary]
    n_layers, n_sequences = len(layers), len(targets.counts)
    class_logits = torch.cat([layer.class_logits for layer in layers]).float()  # [L * B, Q]
    spans = torch.cat([layer.spans for layer in layers]).float()  # [L * B, Q, 2]
    true_spans = targets.spans.float().repeat(n_layers, 1)
    counts = list(targets.counts) * n_layers
    pairs = match(class_logits, spans, true_spans, counts, weights.match_cost)

    predicted, true = spans[pairs.sequence, pairs.query], true_spans[pairs.target]  # [M, 2]
    per_layer = max(1, len(pairs.query) // n_layers)  # every layer has the same number of pairs

    def matched_mean(each: Tensor) -> Tensor:  # [M] -> [L]
        return each.new_zeros(n_layers).index_add(0, pairs.sequence // n_sequences, each) / per_layer

    is_moment = torch.zeros_like(class_logits)
    is_moment[pairs.sequence, pairs.query] = 1
    weight = is_moment + weights.no_object * (1 - is_moment)
    cross_entropy = F.binary_cross_entropy_with_logits(class_logits, is_moment, weight, reduction="none")
    weight_sum = weight.view(n_layers, -1).sum(1).clamp(min=1e-6)
    losses = {
        "span": matched_mean(F.smooth_l1_loss(predicted, true, reduction="none", beta=SPAN_BETA).mean(-1)),
        "giou": matched_mean(1 - giou(to_start_end(predicted), to_start_end(true))),
        "class": cross_entropy.view(n_layers, -1).sum(1) / weight_sum,
    }
    iou_logits = [layer.iou_logits for layer in layers if layer.iou_logits is not None]
    if iou_logits:
        padded, _ = pad_spans(true_spans, counts)  # padding has no width, so its IoU is 0
        best = pairwise_iou(to_start_end(spans.detach()), to_start_end(padded)).amax(-1)  # [L * B, Q]
        error = F.smooth_l1_loss(torch.cat(iou_logits).float().sigmoid(), best, reduction="none", beta=IOU_BETA)
        losses["iou"] = error.view(n_layers, -1).mean(1)
    return losses


def total_loss(
    output: MomentOutput, saliency_logits: Tensor, targets: Targets, weights: LossWeights
) -> dict[str, Tensor]:
    """(17): {'span', 'giou', 'class' (, 'iou'), 'saliency', 'auxiliary', 'total'}, each a scalar.

    The named terms are the final layer's, without their weights. 'auxiliary' is the weighted sum of the
    moment terms of all earlier layers, and 'total' everything that is to be minimised.
    """
    weight_of = {
        "span": weights.span,
        "giou": weights.giou,
        "class": weights.classification,
        "iou": weights.iou,
    }
    moment = moment_losses(output, targets, weights)
    by_layer = torch.stack([weight_of[name] * value for name, value in moment.items()]).sum(0)  # [L]
    saliency = saliency_loss(saliency_logits, targets.saliency, targets.saliency_mask)
    return {
        **{name: value[0] for name, value in moment.items()},
        "saliency": saliency,
        "auxiliary": by_layer[1:].sum(),
        "total": by_layer.sum() + weights.saliency * saliency,
    }
