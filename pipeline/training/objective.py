"""What a batch costs: the model's answers beside the truth, by equations (14) to (17) and a baseline's own terms."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...fuse import CorrelationGuidedFusion
from ...heads.alignment import alignment_terms
from ...heads.losses import LossWeights, Targets, total_loss
from ..loading.dataset import Batch
from ..model import RDMF, Output


def targets_of(batch: Batch) -> Targets:
    return Targets(batch.spans, batch.span_mask, batch.saliency, batch.saliency_mask)


def loss_of(model: RDMF, batch: Batch, weights: LossWeights, counts: Tensor | None = None) -> dict[str, Tensor]:
    """'total' is what is minimised. counts: of the whole batch that this is a part of.

    Terms that compare sentences do so within a part: the next query's sentence is the other one.
    """
    output = model(batch.clips, batch.clip_mask, batch.positions, batch.words, batch.word_mask, weights.negatives)
    targets, other_video = targets_of(batch), batch.video != batch.video.roll(-1)
    extra: Mapping[str, Tensor] = {}
    if weights.guided:
        share = 1 if counts is None else len(batch.spans) / counts[2]  # of the whole batch's queries
        terms = _guidance_terms(model, output, targets, other_video)
        extra = {name: share * term for name, term in terms.items()}
    return total_loss(
        output.moments, output.saliency_logits, targets, weights, counts=counts,
        negative_logits=output.negative_logits, other_video=other_video, extra=extra,
    )  # fmt: skip


def _guidance_terms(model: RDMF, output: Output, targets: Targets, other_video: Tensor) -> Mapping[str, Tensor]:
    fusion, guidance = model.fusion, output.fused.guidance
    assert isinstance(fusion, CorrelationGuidedFusion), "the config asks for these terms of this fusion alone"
    assert guidance is not None
    relevant = targets.saliency_mask & (targets.saliency > 0)
    return alignment_terms(
        guidance, fusion.align(output.fused, relevant), targets.saliency, targets.saliency_mask,
        negative=None if output.negative is None else output.negative.guidance, other_video=other_video,
    )  # fmt: skip
