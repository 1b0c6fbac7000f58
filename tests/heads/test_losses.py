"""The loss: closed forms, masks, invariances, ablations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rdmf.heads.losses import LossWeights, Targets, moment_losses, saliency_loss, total_loss
from rdmf.heads.matcher import DivergenceError
from rdmf.heads.moment import MomentOutput
from rdmf.heads.spans import iou, to_start_end

COUNTS = [2, 0, 1]


def targets(seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    spans = torch.rand(3, 2, generator=generator) * 0.4 + 0.2
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [False] * 6])
    return Targets(spans, COUNTS, torch.rand(3, 6, generator=generator), mask)


def outputs(layers: int = 2, queries: int = 4, iou_head: bool = True) -> MomentOutput:
    generator = torch.Generator().manual_seed(1)

    def one() -> MomentOutput:
        logits = torch.randn(3, queries, generator=generator).requires_grad_()
        spans = torch.rand(3, queries, 2, generator=generator).requires_grad_()
        scores = torch.randn(3, queries, generator=generator).requires_grad_() if iou_head else None
        return MomentOutput(logits, spans, scores)

    final = one()
    final.auxiliary = [one() for _ in range(layers - 1)]
    return final


def perfect(truth: Targets, queries: int = 4) -> MomentOutput:
    """Query t of a sequence is its true span t, sure of itself; the others are far off, and know it."""
    spans = torch.tensor([0.95, 0.02]).expand(3, queries, 2).clone()
    logits = torch.full((3, queries), -40.0)
    for b, own in enumerate(truth.spans.split(list(truth.counts))):
        spans[b, : len(own)] = own
        logits[b, : len(own)] = 40.0
    return MomentOutput(logits, spans.requires_grad_(), logits.clone())


def test_a_perfect_prediction_costs_nothing() -> None:
    truth = targets()
    sure = torch.where(truth.saliency > 0.5, 40.0, -40.0)
    truth = replace(truth, saliency=(sure > 0).float())
    losses = total_loss(perfect(truth), sure, truth, LossWeights())
    assert set(losses) == {"span", "giou", "class", "iou", "saliency", "auxiliary", "total"}
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in losses.values())


def test_the_order_of_the_true_moments_does_not_matter() -> None:
    truth = targets()
    swapped = replace(truth, spans=truth.spans[[1, 0, 2]])
    logits = torch.randn(3, 6)
    first = total_loss(outputs(), logits, truth, LossWeights())
    second = total_loss(outputs(), logits, swapped, LossWeights())
    assert all(torch.allclose(first[k], second[k], atol=1e-6) for k in first)


def test_the_total_is_the_weighted_sum_and_every_layer_counts_by_itself() -> None:
    weights, truth, output = LossWeights(), targets(), outputs(layers=3)
    logits = torch.randn(3, 6)
    losses = total_loss(output, logits, truth, weights)

    def weighted(layer: MomentOutput) -> torch.Tensor:
        alone = moment_losses(replace(layer, auxiliary=[]), truth, weights)
        return 10 * alone["span"] + alone["giou"] + 4 * alone["class"] + alone["iou"]

    assert losses["auxiliary"].item() == pytest.approx(sum(weighted(x).item() for x in output.auxiliary), rel=1e-5)
    expected = weighted(output) + losses["auxiliary"] + 4 * losses["saliency"]
    assert losses["total"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_class_term_is_the_two_class_cross_entropy_with_a_weighted_no_object() -> None:
    truth, output = targets(), outputs(layers=1)
    labels = torch.ones(3, 4, dtype=torch.long)  # 1: no object
    forced = replace(output, spans=perfect(truth).spans)  # so that queries 0.. are matched
    labels[0, :2], labels[2, 0] = 0, 0
    two = torch.stack((forced.class_logits, torch.zeros(3, 4)), -1).view(-1, 2)
    expected = F.cross_entropy(two, labels.view(-1), weight=torch.tensor([1.0, 0.1]))
    weights = LossWeights(classification=1e-6)  # the class cost of matching out of the way
    assert moment_losses(forced, truth, weights)["class"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_every_query_learns_its_best_true_iou_and_the_truth_has_no_gradient() -> None:
    truth, output = targets(), outputs(layers=1)
    best = torch.zeros(3, 4)
    for b, own in enumerate(truth.spans.split(COUNTS)):
        for q in range(4):
            each = [iou(to_start_end(output.spans[b, q]), to_start_end(t)).item() for t in own]
            best[b, q] = max(each, default=0.0)
    assert best.max() > 0
    knows = replace(output, iou_logits=torch.logit(best, eps=1e-7).requires_grad_())
    term = moment_losses(knows, truth, LossWeights())["iou"].sum()
    assert term.item() == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(
        moment_losses(output, truth, LossWeights())["iou"].sum(), output.spans, allow_unused=True
    )
    assert gradient is None


def test_queries_without_any_moment_are_all_no_object() -> None:
    none = Targets(torch.zeros(0, 2), [0, 0, 0], torch.zeros(3, 6), torch.zeros(3, 6, dtype=torch.bool))
    output = outputs()
    losses = total_loss(output, torch.randn(3, 6), none, LossWeights())
    assert losses["span"].item() == losses["giou"].item() == losses["saliency"].item() == 0
    assert losses["class"].item() == pytest.approx(F.softplus(output.class_logits).mean().item(), rel=1e-5)
    losses["total"].backward()
    assert (output.class_logits.grad > 0).all()  # every one is pushed down
    assert torch.isfinite(output.iou_logits.grad).all()


def test_without_the_iou_head_there_is_no_iou_term() -> None:
    losses = total_loss(outputs(iou_head=False), torch.randn(3, 6), targets(), LossWeights())
    assert "iou" not in losses
    assert torch.isfinite(losses["total"])


def test_saliency_is_the_mean_cross_entropy_of_the_clips_that_have_a_target() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0]], requires_grad=True)
    target, mask = torch.tensor([[0.25, 1.0, float("nan")]]), torch.tensor([[True, True, False]])
    loss = saliency_loss(logits, target, mask)
    assert loss.item() == pytest.approx((math.log(2) + math.log1p(math.exp(-2))) / 2, rel=1e-6)
    loss.backward()
    assert logits.grad[0, 2] == 0
    assert torch.isfinite(logits.grad).all()
    assert saliency_loss(logits, target, torch.zeros_like(mask)).item() == 0


def test_padding_of_clips_does_not_change_the_saliency_loss() -> None:
    truth, logits = targets(), torch.randn(3, 6)
    more = F.pad(logits, (0, 5), value=torch.finfo(torch.float32).min)
    padded = saliency_loss(more, F.pad(truth.saliency, (0, 5)), F.pad(truth.saliency_mask, (0, 5)))
    assert torch.allclose(padded, saliency_loss(logits, truth.saliency, truth.saliency_mask), rtol=1e-6)


def test_bad_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="loss weight giou >= 0, got -1"):
        LossWeights(giou=-1)
    with pytest.raises(ValueError, match="expected 4 true spans"):
        replace(targets(), counts=[2, 1, 1])
    with pytest.raises(ValueError, match="saliency and its mask"):
        replace(targets(), saliency=torch.zeros(3, 7))
    output = outputs()
    output.class_logits = output.class_logits * float("nan")
    with pytest.raises(DivergenceError):
        total_loss(output, torch.randn(3, 6), targets(), LossWeights())
