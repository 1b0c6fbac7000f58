"""The training loss: eqs. (14)-(17).

(14) saliency: binary cross-entropy of clip logits with targets in [0, 1].
(15) spans: smooth L1 of (centre, width), and 1 - gIoU, of the queries matched with a true moment.
(16) class: cross-entropy over {moment, no object}, 'no object' weighted down; regression of the IoU.
(17) the weighted sum. Every decoder layer is matched and scored by itself.

The published baselines minimise the same with other forms (L1 spans, a plain mean of the class term) and with more
terms, each added where it weighs anything: comparisons of saliency (contrast.py), and what others compute (`extra`).

Nothing here waits for the host: every shape depends on the shapes of the inputs alone.

Dimensions: B sequences, T clips, Q queries, L decoder layers, N the most true spans of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from .contrast import margin_loss, negative_loss, rank_loss
from .matcher import MatchCost, match
from .moment import MomentOutput
from .spans import giou, pairwise_iou, to_start_end

SPAN_BETA = 0.01  # smooth L1 is quadratic below it: 1% of the sequence. At 1 it would be a plain, weak L2
IOU_BETA = 0.1
SPAN_FORMS, CLASS_MEANS = ("smooth_l1", "l1"), ("weighted", "plain")


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms of (17), and the forms of two."""

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
    span_form: str = "smooth_l1"
    """'smooth_l1', or 'l1'."""
    class_mean: str = "weighted"
    """The class term is divided by the queries' weights, or with 'plain' by their number."""
    margin: float = 0.0
    """Hinge of sampled pairs of clips."""
    rank: float = 0.0
    """Rank-aware contrast of clips by their grades."""
    negative: float = 0.0
    """Saliency of clips for another video's sentence."""
    attention: float = 0.0
    """CG-DETR's: attention to words as saliency, ..."""
    alignment: float = 0.0
    """... alignment of moments and sentences, ..."""
    distillation: float = 0.0
    """... distillation of how alike moment and words are into that attention, ..."""
    orthogonality: float = 0.0
    """... and of its dummies."""

    def __post_init__(self) -> None:
        for name, forms in (("span_form", SPAN_FORMS), ("class_mean", CLASS_MEANS)):
            if getattr(self, name) not in forms:
                raise ValueError(f"expected {' or '.join(forms)} as {name} of the loss, got {getattr(self, name)!r}")
        for f in fields(self):
            if f.name in ("span_form", "class_mean"):
                continue
            value = getattr(self, f.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected a loss weight {f.name} >= 0, got {value}")

    @property
    def match_cost(self) -> MatchCost:
        return MatchCost(self.classification, self.span, self.giou)

    @property
    def negatives(self) -> bool:
        """Whether a term needs each video's saliency for another video's sentence."""
        return max(self.rank, self.negative, self.attention) > 0

    @property
    def guided(self) -> bool:
        """Whether a term is about the correlation-guided fusion."""
        return max(self.attention, self.alignment, self.distillation, self.orthogonality) > 0


@dataclass(frozen=True, slots=True)
class Targets:
    """What is true of a batch."""

    spans: Tensor
    """[B, N, 2]: true (centre, width) in [0, 1], those of the sequence first, then padding of 0; N >= 1."""
    span_mask: Tensor
    """bool [B, N]: True = a true span; a sequence without the moment has none."""
    saliency: Tensor
    """[B, T] in [0, 1]."""
    saliency_mask: Tensor
    """bool [B, T]: clips that have a saliency target; False on padding and where no target can be derived."""

    def __post_init__(self) -> None:
        if self.span_mask.ndim != 2 or not self.span_mask.shape[1] or self.spans.shape != (*self.span_mask.shape, 2):
            raise ValueError(
                "expected true spans [B, N, 2] and their mask [B, N] with N >= 1, "
                f"got {tuple(self.spans.shape)} and {tuple(self.span_mask.shape)}"
            )
        if self.saliency.shape != self.saliency_mask.shape or len(self.saliency) != len(self.span_mask):
            raise ValueError(
                f"expected saliency and its mask as [{len(self.span_mask)}, T], "
                f"got {tuple(self.saliency.shape)} and {tuple(self.saliency_mask.shape)}"
            )


def batch_counts(targets: Targets, queries: int) -> Tensor:
    """What the terms are means over, float32 [3]: matched pairs of a layer, clips with a target, sequences.

    Counts add up. So do the losses and gradients of the parts of a batch, if each is given the counts of the whole.
    """
    pairs = targets.span_mask.sum(1).clamp(max=queries).sum()
    return torch.stack([pairs, targets.saliency_mask.sum(), torch.full_like(pairs, len(targets.spans))]).float()


def saliency_loss(logits: Tensor, target: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    """(14): mean over the clips of mask [B, T], 0 if there are none; what other clips hold does not count.

    `count` is how many clips there are, where these are not all.
    """
    logits, target = logits.float().masked_fill(~mask, 0), target.float().masked_fill(~mask, 0)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * mask).sum() / (mask.sum() if count is None else count).clamp(min=1)


def moment_losses(
    output: MomentOutput,
    targets: Targets,
    weights: LossWeights,
    method: str | None = None,
    counts: Tensor | None = None,
) -> dict[str, Tensor]:
    """(15) and (16) of every decoder layer: {'span', 'giou', 'class' (, 'iou')}, each [L], final layer first.

    The layers are stacked along the batch, so there is one matching for all of them, by `method` (see `assign`). Span
    terms are means over matched pairs (that of the coordinates over both too), the class term is the weighted mean over
    queries, as a softmax over two classes has it, or their plain mean, and the IoU term the mean over queries. All
    queries learn their IoU with the best true span, 0 where there is none; the true IoU carries no gradient. There is
    no 'iou' without the IoU head. Predictions that are NaN or infinite make losses that are. `counts` are those of the
    whole batch (`batch_counts`), where this is a part of it.
    """
    layers = [output, *output.auxiliary]
    n_layers = len(layers)
    class_logits = torch.cat([layer.class_logits for layer in layers]).float()  # [L * B, Q]
    spans = torch.cat([layer.spans for layer in layers]).float()  # [L * B, Q, 2]
    mask = targets.span_mask.repeat(n_layers, 1)  # [L * B, N]
    true = targets.spans.float().repeat(n_layers, 1, 1).masked_fill(~mask[..., None], 0)  # [L * B, N, 2]
    query, matched = match(class_logits, spans, true, mask, weights.match_cost, method)
    predicted = spans.gather(1, query[..., None].expand_as(true))  # [L * B, N, 2]

    queries = class_logits.shape[1]
    pairs, _, sequences = (batch_counts(targets, queries) if counts is None else counts).unbind()

    def matched_mean(each: Tensor) -> Tensor:  # [L * B, N] -> [L]
        return each.masked_fill(~matched, 0).view(n_layers, -1).sum(1) / pairs.clamp(min=1)

    slot = query.masked_fill(~matched, queries)  # what has no query marks one more, which is cut off
    is_moment = F.pad(torch.zeros_like(class_logits), (0, 1)).scatter(1, slot, 1.0)[:, :queries]
    weight = is_moment + weights.no_object * (1 - is_moment)
    cross_entropy = F.binary_cross_entropy_with_logits(class_logits, is_moment, weight, reduction="none")
    rest = weights.no_object if weights.class_mean == "weighted" else 1.0
    weight_sum = (pairs + rest * (sequences * queries - pairs)).clamp(min=1e-6)
    beta = SPAN_BETA if weights.span_form == "smooth_l1" else 0.0  # at 0 it is L1
    losses = {
        "span": matched_mean(F.smooth_l1_loss(predicted, true, reduction="none", beta=beta).mean(-1)),
        "giou": matched_mean(1 - giou(to_start_end(predicted), to_start_end(true))),
        "class": cross_entropy.view(n_layers, -1).sum(1) / weight_sum,
    }
    iou_logits = [layer.iou_logits for layer in layers if layer.iou_logits is not None]
    if iou_logits:
        best = pairwise_iou(to_start_end(spans.detach()), to_start_end(true)).amax(-1)  # padding has no width: IoU 0
        error = F.smooth_l1_loss(torch.cat(iou_logits).float().sigmoid(), best, reduction="none", beta=IOU_BETA)
        losses["iou"] = error.view(n_layers, -1).sum(1) / (sequences * queries).clamp(min=1)
    return losses


def total_loss(
    output: MomentOutput,
    saliency_logits: Tensor,
    targets: Targets,
    weights: LossWeights,
    method: str | None = None,
    counts: Tensor | None = None,
    *,
    negative_logits: Tensor | None = None,
    other_video: Tensor | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """(17): {'span', 'giou', 'class' (, 'iou'), 'saliency', ..., 'auxiliary', 'total'}, each a scalar.

    The named terms are the final layer's, without their weights. 'auxiliary' is the weighted sum of the
    moment terms of all earlier layers, and 'total' everything that is to be minimised.
    `method` and `counts` as in `moment_losses`.

    Those of 'margin', 'rank' and 'negative' that weigh more than 0 come in between, and so do those of `extra`, which
    are given as scalars. negative_logits [B, T]: saliency with another sentence, where `weights.negatives`; other_video
    bool [B]: whether it is another video's (None: all are).
    """
    weight_of = {
        "span": weights.span,
        "giou": weights.giou,
        "class": weights.classification,
        "iou": weights.iou,
    }
    moment = moment_losses(output, targets, weights, method, counts)
    by_layer = torch.stack([weight_of[name] * value for name, value in moment.items()]).sum(0)  # [L]
    saliency = saliency_loss(
        saliency_logits, targets.saliency, targets.saliency_mask, None if counts is None else counts[1]
    )
    more = {name: value for name, value in (extra or {}).items() if getattr(weights, name) > 0}
    labelled, sequences = (targets.saliency, targets.saliency_mask), None if counts is None else counts[2]
    if weights.margin > 0:
        more["margin"] = margin_loss(saliency_logits, *labelled, count=sequences)
    if weights.rank > 0:
        more["rank"] = rank_loss(saliency_logits, *labelled, negative_logits, other_video, sequences)
    if weights.negative > 0:
        assert negative_logits is not None, "a weight of 'negative' asks for negative_logits"
        more["negative"] = negative_loss(negative_logits, other_video, sequences)
    total = by_layer.sum() + weights.saliency * saliency
    for name, value in more.items():
        total = total + getattr(weights, name) * value
    return {
        **{name: value[0] for name, value in moment.items()},
        "saliency": saliency,
        **more,
        "auxiliary": by_layer[1:].sum(),
        "total": total,
    }
