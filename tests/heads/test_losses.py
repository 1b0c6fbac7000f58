"""The loss: a literal reference, closed forms, masks, invariances, ablations, torch.compile."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rdmf.heads.contrast import negative_loss, rank_loss
from rdmf.heads.losses import LossWeights, Targets, batch_counts, moment_losses, saliency_loss, total_loss
from rdmf.heads.moment import MomentOutput
from rdmf.heads.spans import giou, iou, to_start_end

COUNTS = [2, 0, 1]
METHODS = ["batched", "host"]


def targets(counts: list[int] = COUNTS, seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    span_mask = torch.arange(max(1, *counts)) < torch.tensor(counts)[:, None]
    spans = torch.rand(*span_mask.shape, 2, generator=generator) * 0.4 + 0.2
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [False] * 6])
    return Targets(spans.masked_fill(~span_mask[..., None], 0), span_mask, torch.rand(3, 6, generator=generator), mask)


def own_spans(truth: Targets) -> list[Tensor]:
    return [spans[mask] for spans, mask in zip(truth.spans, truth.span_mask, strict=True)]


def outputs(
    layers: int = 2, queries: int = 4, iou_head: bool = True, dtype: torch.dtype = torch.float32
) -> MomentOutput:
    generator = torch.Generator().manual_seed(1)

    def one() -> MomentOutput:
        logits = torch.randn(3, queries, generator=generator).to(dtype).requires_grad_()
        spans = torch.rand(3, queries, 2, generator=generator).requires_grad_()
        scores = torch.randn(3, queries, generator=generator).to(dtype).requires_grad_() if iou_head else None
        return MomentOutput(logits, spans, scores)

    final = one()
    final.auxiliary = [one() for _ in range(layers - 1)]
    return final


def leaves(output: MomentOutput) -> list[Tensor]:
    layers = [output, *output.auxiliary]
    return [x for layer in layers for x in (layer.class_logits, layer.spans, layer.iou_logits) if x is not None]


def perfect(truth: Targets, queries: int = 4) -> MomentOutput:
    """Query t of a sequence is its true span t, sure of itself; the others are far off, and know it."""
    spans = torch.tensor([0.95, 0.02]).expand(3, queries, 2).clone()
    logits = torch.full((3, queries), -40.0)
    for b, own in enumerate(own_spans(truth)):
        spans[b, : len(own)] = own
        logits[b, : len(own)] = 40.0
    return MomentOutput(logits, spans.requires_grad_(), logits.clone())


def literal(output: MomentOutput, saliency_logits: Tensor, truth: Targets, weights: LossWeights) -> dict[str, Tensor]:
    """(14) to (17) as they are written: layer by layer, sequence by sequence, pair by pair."""
    layers = []
    for layer in [output, *output.auxiliary]:
        logits, spans = layer.class_logits.float(), layer.spans.float()
        span, overlap, cross_entropy, weight, iou_error = [], [], [], [], []
        for b, own in enumerate(own_spans(truth)):
            cost = torch.zeros(logits.shape[1], len(own))
            for q in range(logits.shape[1]):
                for t, true in enumerate(own):
                    cost[q, t] = (
                        -weights.classification * logits[b, q].sigmoid()
                        + weights.span * (spans[b, q] - true).abs().sum()
                        - weights.giou * giou(to_start_end(spans[b, q]), to_start_end(true))
                    ).detach()
            pairs = dict(zip(*(x.tolist() for x in linear_sum_assignment(cost.numpy())), strict=True))
            for q in range(logits.shape[1]):
                if q in pairs:
                    true = own[pairs[q]]
                    span.append(F.smooth_l1_loss(spans[b, q], true, beta=0.01))
                    overlap.append(1 - giou(to_start_end(spans[b, q]), to_start_end(true)))
                label, one = (1.0, 1.0) if q in pairs else (0.0, weights.no_object)
                cross_entropy.append(one * F.softplus((1 - 2 * label) * logits[b, q]))
                weight.append(one)
                if layer.iou_logits is not None:
                    best = max((iou(to_start_end(spans[b, q].detach()), to_start_end(t)) for t in own), default=0.0)
                    found = layer.iou_logits[b, q].float().sigmoid()
                    iou_error.append(F.smooth_l1_loss(found, torch.as_tensor(best), beta=0.1))
        zero = torch.zeros(())
        terms = {
            "span": torch.stack([zero, *span]).sum() / max(1, len(span)),
            "giou": torch.stack([zero, *overlap]).sum() / max(1, len(span)),
            "class": torch.stack(cross_entropy).sum() / sum(weight),
        }
        if iou_error:
            terms["iou"] = torch.stack(iou_error).mean()
        layers.append(terms)
    clips = truth.saliency_mask.nonzero().tolist()
    each = [F.binary_cross_entropy_with_logits(saliency_logits[b, t], truth.saliency[b, t]) for b, t in clips]
    saliency = torch.stack([torch.zeros(()), *each]).sum() / max(1, len(each))
    weight_of = {"span": weights.span, "giou": weights.giou, "class": weights.classification, "iou": weights.iou}
    sums = [torch.stack([weight_of[name] * value for name, value in terms.items()]).sum() for terms in layers]
    auxiliary = torch.stack([torch.zeros(()), *sums[1:]]).sum()
    total = sums[0] + auxiliary + weights.saliency * saliency
    return {**layers[0], "saliency": saliency, "auxiliary": auxiliary, "total": total}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("counts", "layers", "queries", "iou_head"),
    [([2, 0, 1], 3, 10, True), ([1, 1, 0], 1, 4, True), ([5, 1, 3], 2, 3, False), ([0, 0, 0], 2, 4, True)],
)
def test_values_and_gradients_are_those_of_the_literal_reference(
    counts: list[int], layers: int, queries: int, iou_head: bool, dtype: torch.dtype, method: str
) -> None:
    weights, truth = LossWeights(span=7.0, giou=2.0, no_object=0.3), targets(counts)
    output, logits = outputs(layers, queries, iou_head, dtype), torch.randn(3, 6, requires_grad=True)
    found, expected = total_loss(output, logits, truth, weights, method), literal(output, logits, truth, weights)
    assert list(found) == list(expected)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    inputs = [*leaves(output), logits]
    torch.testing.assert_close(
        torch.autograd.grad(found["total"], inputs, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(expected["total"], inputs, allow_unused=True, materialize_grads=True),
    )


def test_a_perfect_prediction_costs_nothing() -> None:
    truth = targets()
    sure = torch.where(truth.saliency > 0.5, 40.0, -40.0)
    truth = replace(truth, saliency=(sure > 0).float())
    losses = total_loss(perfect(truth), sure, truth, LossWeights())
    assert set(losses) == {"span", "giou", "class", "iou", "saliency", "auxiliary", "total"}
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in losses.values())


def test_the_order_of_the_true_moments_does_not_matter() -> None:
    truth = targets()
    swapped = replace(truth, spans=torch.cat((truth.spans[:1].flip(1), truth.spans[1:])))
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
    for b, own in enumerate(own_spans(truth)):
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
    none = replace(targets([0, 0, 0]), saliency_mask=torch.zeros(3, 6, dtype=torch.bool))
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
    truth = targets()
    with pytest.raises(ValueError, match=r"N >= 1, got \(3, 2, 2\) and \(3, 1\)"):
        replace(truth, span_mask=truth.span_mask[:, :1])
    with pytest.raises(ValueError, match=r"N >= 1, got \(3, 0, 2\) and \(3, 0\)"):
        replace(truth, spans=truth.spans[:, :0], span_mask=truth.span_mask[:, :0])
    with pytest.raises(ValueError, match="saliency and its mask"):
        replace(truth, saliency=torch.zeros(3, 7))
    with pytest.raises(ValueError, match=r"saliency and its mask as \[3, T\]"):
        replace(truth, saliency=torch.zeros(2, 6), saliency_mask=torch.zeros(2, 6, dtype=torch.bool))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("counts", [[1, 0, 1], [2, 0, 1]])
@pytest.mark.parametrize("field", ["class_logits", "spans", "iou_logits"])
def test_what_has_diverged_makes_the_total_nan(field: str, counts: list[int], method: str) -> None:
    output = outputs()
    value = getattr(output, field).detach().clone()
    value[0, 2] = float("nan")
    losses = total_loss(replace(output, **{field: value}), torch.randn(3, 6), targets(counts), LossWeights(), method)
    assert losses["total"].isnan()


def test_what_stands_in_the_padding_of_the_true_spans_does_not_matter() -> None:
    truth, logits = targets(), torch.randn(3, 6)
    padding = ~truth.span_mask[..., None]
    clean = total_loss(outputs(), logits, truth, LossWeights())
    for rubbish in (0.5, float("nan")):
        found = total_loss(
            outputs(), logits, replace(truth, spans=truth.spans.masked_fill(padding, rubbish)), LossWeights()
        )
        assert found == clean
    wider = replace(truth, spans=F.pad(truth.spans, (0, 0, 0, 3)), span_mask=F.pad(truth.span_mask, (0, 3)))
    torch.testing.assert_close(total_loss(outputs(), logits, wider, LossWeights()), clean)


@pytest.mark.parametrize("counts", [[1, 0, 1], [5, 1, 3]])
def test_no_step_depends_on_what_a_tensor_holds(counts: list[int]) -> None:
    """Tensors of the meta device hold nothing: whatever reads a value or makes a shape of one fails."""
    truth, output = targets(counts), outputs()
    on_meta = Targets(
        *(getattr(truth, name).to("meta") for name in ("spans", "span_mask", "saliency", "saliency_mask"))
    )
    layers = [
        MomentOutput(*(x.detach().to("meta").requires_grad_() for x in (o.class_logits, o.spans, o.iou_logits)))
        for o in (output, *output.auxiliary)
    ]
    logits = torch.randn(3, 6, device="meta", requires_grad=True)
    losses = total_loss(replace(layers[0], auxiliary=layers[1:]), logits, on_meta, LossWeights(), "batched")
    losses["total"].backward()
    assert layers[1].spans.grad.shape == (3, 4, 2)


@pytest.mark.parametrize("method", METHODS)
def test_it_compiles_without_a_break_and_gives_the_same(method: str) -> None:
    weights, logits = LossWeights(), torch.randn(3, 6)

    def loss(output: MomentOutput, spans: Tensor, mask: Tensor, saliency: Tensor, saliency_mask: Tensor) -> Tensor:
        return total_loss(output, logits, Targets(spans, mask, saliency, saliency_mask), weights, method)["total"]

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for counts in ([1, 0, 1], [2, 0, 1], [3, 4, 0], [5, 1, 7]):
        truth, output = targets(counts), outputs()
        inputs = (output, truth.spans, truth.span_mask, truth.saliency, truth.saliency_mask)
        found, expected = compiled(*inputs), loss(*inputs)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, leaves(output)), torch.autograd.grad(expected, leaves(output))
        )


@pytest.mark.parametrize("counts", [[2, 0, 1], [5, 1, 3], [0, 0, 0]])
def test_losses_and_gradients_of_parts_add_up_to_those_of_the_batch(counts: list[int]) -> None:
    weights, truth, output, logits = LossWeights(), targets(counts), outputs(), torch.randn(3, 6, requires_grad=True)

    def part(rows: slice) -> tuple[MomentOutput, Tensor, Targets]:
        own = [
            MomentOutput(layer.class_logits[rows], layer.spans[rows], layer.iou_logits[rows])
            for layer in (output, *output.auxiliary)
        ]
        fields = (truth.spans, truth.span_mask, truth.saliency, truth.saliency_mask)
        return replace(own[0], auxiliary=own[1:]), logits[rows], Targets(*(x[rows] for x in fields))

    parts = [part(slice(0, 2)), part(slice(2, 3))]
    whole = batch_counts(truth, 4)
    torch.testing.assert_close(sum(batch_counts(targets, 4) for *_, targets in parts), whole)
    found = [total_loss(*p, weights, counts=whole) for p in parts]
    expected = total_loss(output, logits, truth, weights)
    torch.testing.assert_close({name: found[0][name] + found[1][name] for name in expected}, expected)
    inputs = [*leaves(output), logits]
    torch.testing.assert_close(
        torch.autograd.grad(found[0]["total"] + found[1]["total"], inputs),
        torch.autograd.grad(expected["total"], inputs),
    )


def test_l1_spans_and_a_plain_class_mean_are_those_of_the_detr_family() -> None:
    truth, output = targets(), replace(outputs(layers=1), spans=perfect(targets()).spans + 0.03)
    weights = LossWeights(classification=1e-6, span_form="l1", class_mean="plain")  # queries 0.. are matched
    found = moment_losses(output, truth, weights)
    assert found["span"].item() == pytest.approx(0.03, rel=1e-5)  # smooth L1 would be 0.025
    cross_entropy = torch.zeros(())
    for b, count in enumerate(COUNTS):
        for q in range(4):
            two = torch.stack((output.class_logits[b, q], torch.zeros(())))
            label, weight = (0, 1.0) if q < count else (1, 0.1)
            cross_entropy = cross_entropy - weight * two.log_softmax(0)[label]
    assert found["class"].item() == pytest.approx(cross_entropy.item() / (3 * 4), rel=1e-5)
    assert found["giou"].item() == moment_losses(output, truth, LossWeights(classification=1e-6))["giou"].item()


def test_terms_that_weigh_something_are_reported_and_added_and_no_others() -> None:
    truth, output, logits = targets(), outputs(), torch.randn(3, 6)
    negative, other = torch.randn(3, 6), torch.tensor([True, False, True])
    given = {"negative_logits": negative, "other_video": other}
    extra = {"attention": torch.tensor(0.7), "alignment": torch.tensor(0.3), "orthogonality": torch.tensor(9.0)}
    plain = total_loss(output, logits, truth, LossWeights(), **given, extra=extra)
    assert plain == total_loss(output, logits, truth, LossWeights())
    weights = LossWeights(rank=2.0, negative=3.0, attention=5.0, alignment=7.0)
    assert weights.negatives
    assert LossWeights(attention=1.0).negatives
    assert not LossWeights(margin=1.0, alignment=1.0).negatives
    found = total_loss(output, logits, truth, weights, **given, extra=extra)
    assert set(found) - set(plain) == {"rank", "negative", "attention", "alignment"}
    expected = {
        "rank": rank_loss(logits, truth.saliency, truth.saliency_mask, negative, other),
        "negative": negative_loss(negative, other),
        "attention": extra["attention"], "alignment": extra["alignment"],
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-6)
    added = sum(getattr(weights, name) * value.item() for name, value in expected.items())
    assert found["total"].item() == pytest.approx(plain["total"].item() + added, rel=1e-5)


def test_the_margin_is_drawn_anew_at_every_step_and_only_where_it_weighs_something() -> None:
    truth, output, logits = targets(), outputs(), torch.randn(3, 6)
    state = torch.get_rng_state()
    total_loss(output, logits, truth, LossWeights(rank=1.0))
    assert torch.equal(torch.get_rng_state(), state)
    grades = torch.tensor([[1.0, 0, 0, 0, 0.5, 0]]).expand(3, -1)  # clips inside and outside to draw from
    truth = replace(truth, saliency=grades)
    drawn = {total_loss(output, logits, truth, LossWeights(margin=1.0))["margin"].item() for _ in range(20)}
    assert len(drawn) > 1


def test_terms_of_parts_add_up_with_the_counts_of_the_batch() -> None:
    weights, truth, output, logits, negative = (
        LossWeights(rank=1.0, negative=1.0), targets(), outputs(layers=1), torch.randn(3, 6), torch.randn(3, 6),
    )  # fmt: skip
    counts, sums = batch_counts(truth, 4), {}
    for rows in (slice(0, 2), slice(2, 3)):
        own = MomentOutput(output.class_logits[rows], output.spans[rows], output.iou_logits[rows])
        part = Targets(*(x[rows] for x in (truth.spans, truth.span_mask, truth.saliency, truth.saliency_mask)))
        found = total_loss(own, logits[rows], part, weights, counts=counts, negative_logits=negative[rows])
        sums = {name: sums.get(name, 0) + value for name, value in found.items()}
    torch.testing.assert_close(sums, total_loss(output, logits, truth, weights, negative_logits=negative))


def test_forms_and_weights_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="expected smooth_l1 or l1 as span_form of the loss, got 'l2'"):
        LossWeights(span_form="l2")
    with pytest.raises(ValueError, match="expected weighted or plain as class_mean of the loss, got 'sum'"):
        LossWeights(class_mean="sum")
    with pytest.raises(ValueError, match="loss weight margin >= 0, got -1"):
        LossWeights(margin=-1)


def test_no_step_of_the_further_terms_depends_on_what_a_tensor_holds() -> None:
    weights = LossWeights(span_form="l1", class_mean="plain", margin=1.0, rank=1.0, negative=1.0)
    truth, output = targets(), outputs(layers=1)
    on_meta = Targets(
        *(getattr(truth, name).to("meta") for name in ("spans", "span_mask", "saliency", "saliency_mask"))
    )
    layer = MomentOutput(*(x.detach().to("meta") for x in (output.class_logits, output.spans, output.iou_logits)))
    logits, negative = (torch.randn(3, 6, device="meta", requires_grad=True) for _ in range(2))
    other = torch.ones(3, dtype=torch.bool, device="meta")
    losses = total_loss(layer, logits, on_meta, weights, "batched", negative_logits=negative, other_video=other)
    losses["total"].backward()
    assert negative.grad.shape == (3, 6)
