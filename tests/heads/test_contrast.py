"""Comparisons of saliency: written out, closed forms, finite differences, sampling, padding, parts of a batch."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from rdmf.heads.contrast import Pairs, margin_loss, negative_loss, rank_loss, sample_pairs

LENGTHS = [6, 4, 3]
OTHER = torch.tensor([True, False, True])


def batch(garbage: float | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, targets of whole grades, mask, logits of other sentences; padding as the heads leave it, or garbage."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < torch.tensor(LENGTHS)[:, None]
    logits, negative = (2 * torch.randn(3, 6, generator=generator) for _ in range(2))
    lowest = torch.finfo(torch.float32).min
    grades = torch.tensor([[0, 7, 12, 3, 0, 0], [5, 5, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
    target = (grades / 12).masked_fill(~mask, 0.0 if garbage is None else garbage)
    return (
        logits.masked_fill(~mask, lowest if garbage is None else garbage),
        target,
        mask,
        negative.masked_fill(~mask, lowest),
    )


def literal_rank(logits: Tensor, target: Tensor, mask: Tensor, negative: Tensor | None, other: Tensor | None) -> Tensor:
    """Sequence by sequence, grade by grade, clip by clip."""
    total = torch.zeros(())
    for b, n in enumerate(mask.sum(1).tolist()):
        scores = list(logits[b, :n] / 0.5)
        if negative is not None and (other is None or other[b]):
            scores += list(negative[b, :n] / 0.5)
        norm = torch.stack(scores).logsumexp(0)
        for grade in range(1, 12):
            good = [t for t in range(n) if round(12 * float(target[b, t])) >= grade]
            if good:
                total = total - sum(scores[t] - norm for t in good) / len(good) / 12
    return total / len(mask)


@pytest.mark.parametrize("other", [None, OTHER])
@pytest.mark.parametrize("with_negative", [False, True])
def test_rank_is_the_contrast_written_out(with_negative: bool, other: Tensor | None) -> None:
    logits, target, mask, negative = batch()
    inputs = [x.requires_grad_() for x in (logits, negative)]
    given = (negative if with_negative else None, other if with_negative else None)
    found, expected = rank_loss(logits, target, mask, *given), literal_rank(logits, target, mask, *given)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(found, inputs, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(expected, inputs, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert not a[~mask].any()


def test_rank_of_equal_scores_is_the_log_of_their_number_for_every_grade_that_some_clip_has() -> None:
    target, mask = torch.tensor([[12.0, 4.0, 0.0, 0.0]]) / 12, torch.ones(1, 4, dtype=torch.bool)
    alone = rank_loss(torch.full((1, 4), 3.0), target, mask)
    assert alone.item() == pytest.approx(11 * math.log(4) / 12, rel=1e-6)  # grades 1 to 11
    lower = rank_loss(torch.full((1, 4), 3.0), target / 2, mask)
    assert lower.item() == pytest.approx(6 * math.log(4) / 12, rel=1e-6)  # grades 1 to 6
    doubled = rank_loss(torch.full((1, 4), 3.0), target, mask, torch.full((1, 4), 3.0))
    assert doubled.item() == pytest.approx(11 * math.log(8) / 12, rel=1e-6)
    sure = rank_loss(torch.tensor([[60.0, 0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0, 0, 0]]), mask)
    assert sure.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("grade", range(13))
def test_every_whole_grade_is_met_by_its_own_target(grade: int) -> None:
    """7 / 12 * 12 is below 7 in some number formats."""
    target, mask = torch.tensor([[grade, 0]]) / 12, torch.ones(1, 2, dtype=torch.bool)
    loss = rank_loss(torch.zeros(1, 2), target, mask)
    assert loss.item() == pytest.approx(min(grade, 11) * math.log(2) / 12, rel=1e-6)


def test_margin_is_the_hinge_of_the_pairs_written_out() -> None:
    logits, target, mask, _ = batch()
    pairs = Pairs(torch.tensor([[2, 1], [1, 0], [0, 0]]), torch.tensor([[3, 0], [3, 2], [0, 0]]))
    expected = 0.0
    for b in (0, 1):  # the third has no clip inside
        for higher, lower in zip(pairs.higher[b], pairs.lower[b], strict=True):
            expected += max(0.0, 0.2 + float(logits[b, lower] - logits[b, higher]))
    assert margin_loss(logits, target, mask, pairs).item() == pytest.approx(expected / (3 * 2) * 2, rel=1e-6)


def test_margin_at_hand_made_values() -> None:
    target, mask = torch.tensor([[1.0, 0.5, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    pairs = Pairs(torch.tensor([[0, 1]]), torch.tensor([[1, 2]]))
    for scores, expected in (([3.0, 2.0, 1.0], 0.0), ([1.0, 1.0, 1.0], 0.4), ([1.0, 2.0, 1.9], 1.2 + 0.1)):
        loss = margin_loss(torch.tensor([scores]), target, mask, pairs)
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_negative_is_minus_the_log_of_one_minus_the_score_and_survives_a_sure_one() -> None:
    *_, mask, negative = batch()
    expected = sum(-math.log(1 - 1 / (1 + math.exp(-float(x)))) for x in negative[mask]) / 3
    assert negative_loss(negative).item() == pytest.approx(expected, rel=1e-5)
    some = sum(-math.log(1 - 1 / (1 + math.exp(-float(x)))) for b in (0, 2) for x in negative[b, mask[b]]) / 3
    assert negative_loss(negative, OTHER).item() == pytest.approx(some, rel=1e-5)
    sure = torch.full((1, 2), 200.0, requires_grad=True)
    loss = negative_loss(sure)
    loss.backward()
    assert loss.item() == 400
    assert torch.equal(sure.grad, torch.ones(1, 2))


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    logits, target, mask, negative = batch()
    pairs = sample_pairs(target, mask)
    losses = {
        "margin": lambda x: margin_loss(x, target, mask, pairs),
        "rank": lambda x: rank_loss(x, target, mask, negative, OTHER),
        "rank of the others": lambda x: rank_loss(logits, target, mask, x, OTHER),
        "negative": lambda x: negative_loss(x, OTHER),
    }
    for name, loss in losses.items():
        x = (negative if name in ("negative", "rank of the others") else logits).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x), x)
        for b, t in mask.nonzero().tolist():
            step = torch.zeros_like(x)
            step[b, t] = 1e-2
            slope = (loss(x + step) - loss(x - step)) / 2e-2
            assert gradient[b, t].item() == pytest.approx(slope.item(), abs=2e-3), name


def test_padding_holds_what_it_likes_and_makes_no_difference() -> None:
    logits, target, mask, negative = batch()
    dirty_logits, dirty_target, *_ = batch(float("nan"))
    pairs = Pairs(torch.tensor([[2, 1], [1, 0], [0, 0]]), torch.tensor([[3, 0], [3, 2], [0, 0]]))
    dirty_logits.requires_grad_()
    for clean, dirty in (
        (margin_loss(logits, target, mask, pairs), margin_loss(dirty_logits, dirty_target, mask, pairs)),
        (rank_loss(logits, target, mask, negative), rank_loss(dirty_logits, dirty_target, mask, negative)),
    ):
        assert torch.equal(clean, dirty)
        (gradient,) = torch.autograd.grad(dirty, dirty_logits)
        assert gradient.isfinite().all()
        assert not gradient[~mask].any()
    torch.manual_seed(0)
    for sampled in sample_pairs(dirty_target, mask):
        assert mask.gather(1, sampled)[:2].all()


def test_pairs_are_the_best_and_the_worst_inside_and_any_inside_and_outside_alike() -> None:
    torch.manual_seed(0)
    target = torch.tensor([0, 3, 12, 3, 12, 5, 0, 0]) / 12
    mask = torch.tensor([True] * 7 + [False])
    higher, lower = sample_pairs(target.expand(6000, 8), mask.expand(6000, 8))
    assert set(higher[:, 0].tolist()) == {4}  # of equals the last
    assert set(lower[:, 0].tolist()) == {1}  # of equals the first
    for drawn, among in ((higher[:, 1], {1, 2, 3, 4, 5}), (lower[:, 1], {0, 6})):
        times = Counter(drawn.tolist())
        assert set(times) == among
        assert all(count == pytest.approx(6000 / len(among), rel=0.1) for count in times.values())


def test_where_nothing_is_outside_the_hard_pair_counts_twice() -> None:
    target, mask = torch.tensor([[0.25, 1.0, 0.5]]), torch.ones(1, 3, dtype=torch.bool)
    higher, lower = sample_pairs(target, mask)
    assert higher.tolist() == [[1, 1]]
    assert lower.tolist() == [[0, 0]]


def test_what_has_nothing_to_compare_costs_nothing() -> None:
    logits, target, mask, negative = batch()
    none = torch.zeros_like(mask)
    assert margin_loss(logits, target, none).item() == 0
    assert margin_loss(logits, torch.zeros_like(target), mask).item() == 0
    assert rank_loss(logits, target, none, negative).item() == 0
    assert negative_loss(negative, torch.zeros(3, dtype=torch.bool)).item() == 0


def test_parts_of_a_batch_add_up_to_the_batch() -> None:
    logits, target, mask, negative = batch()
    pairs, count = sample_pairs(target, mask), torch.tensor(3.0)
    found = [0.0, 0.0, 0.0]
    for rows in (slice(0, 2), slice(2, 3)):
        own = (logits[rows], target[rows], mask[rows])
        found[0] += margin_loss(*own, Pairs(*(x[rows] for x in pairs)), count).item()
        found[1] += rank_loss(*own, negative[rows], OTHER[rows], count).item()
        found[2] += negative_loss(negative[rows], OTHER[rows], count).item()
    whole = [
        margin_loss(logits, target, mask, pairs), rank_loss(logits, target, mask, negative, OTHER),
        negative_loss(negative, OTHER),
    ]  # fmt: skip
    assert found == pytest.approx([x.item() for x in whole], rel=1e-6)


def test_no_step_depends_on_what_a_tensor_holds() -> None:
    """Tensors of the meta device hold nothing: whatever reads a value or makes a shape of one fails."""
    logits, target, mask, negative = (x.to("meta") for x in batch())
    logits.requires_grad_()
    other = OTHER.to("meta")
    loss = margin_loss(logits, target, mask) + rank_loss(logits, target, mask, negative, other)
    (loss + negative_loss(negative, other)).backward()
    assert logits.grad.shape == (3, 6)
