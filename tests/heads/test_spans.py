"""Span geometry: closed forms, bounds, gradients, and NMS against its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.heads.spans import (
    giou,
    iou,
    pairwise_giou,
    pairwise_iou,
    temporal_nms,
    to_centre_width,
    to_start_end,
)


@st.composite
def windows(draw: st.DrawFn) -> torch.Tensor:
    """[n, 2] windows (start, end) in [-1, 2], some of zero width."""
    pairs = draw(st.lists(st.tuples(st.floats(-1, 2, width=32), st.floats(-1, 2, width=32)), min_size=1, max_size=6))
    return torch.tensor(pairs).sort(dim=1).values


def test_the_two_forms_are_inverse_to_each_other() -> None:
    start_end = torch.tensor([[[0.0, 1.0], [0.25, 0.5]], [[0.5, 0.5], [-0.5, 0.25]]])
    assert torch.equal(to_centre_width(start_end)[0, 1], torch.tensor([0.375, 0.25]))
    assert torch.equal(to_start_end(to_centre_width(start_end)), start_end)


@pytest.mark.parametrize(
    ("a", "b", "expected_iou", "expected_giou"),
    [
        ((0, 2), (0, 2), 1, 1),
        ((0, 2), (1, 3), 1 / 3, 1 / 3),  # overlapping: the hull is the union
        ((0, 4), (1, 2), 1 / 4, 1 / 4),
        ((0, 1), (1, 2), 0, 0),  # touching
        ((0, 1), (3, 4), 0, -1 / 2),  # 2 of the hull's 4 are covered
        ((0, 150), (30, 60), 1 / 5, 1 / 5),  # seconds do as well as shares
        ((1, 1), (1, 1), 0, 0),  # zero width
        ((0, 0), (1, 1), 0, -1),
    ],
)
def test_closed_forms(
    a: tuple[float, float], b: tuple[float, float], expected_iou: float, expected_giou: float
) -> None:
    x, y = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert iou(x, y).item() == pytest.approx(expected_iou, abs=1e-12)
    assert giou(x, y).item() == pytest.approx(expected_giou, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(windows(), windows())
def test_bounds_and_symmetry(a: torch.Tensor, b: torch.Tensor) -> None:
    plain, general = pairwise_iou(a, b), pairwise_giou(a, b)
    assert plain.shape == general.shape == (len(a), len(b))
    assert ((plain >= 0) & (plain <= 1)).all()
    assert ((general >= -1) & (general <= plain)).all()
    assert torch.allclose(plain, pairwise_iou(b, a).T)
    assert torch.allclose(general, pairwise_giou(b, a).T, atol=1e-6)


def test_pairwise_agrees_with_element_wise_for_batches() -> None:
    a, b = torch.rand(3, 4, 2).sort(-1).values, torch.rand(3, 5, 2).sort(-1).values
    table = pairwise_giou(a, b)
    assert table.shape == (3, 4, 5)
    for i in range(4):
        for j in range(5):
            assert torch.equal(table[:, i, j], giou(a[:, i], b[:, j]))


def test_gradients_are_right_and_finite_at_zero_width() -> None:
    a, b = torch.rand(2, 6, 2, dtype=torch.float64).sort(-1).values.unbind(0)
    assert torch.autograd.gradcheck(lambda x: giou(x, b), a.clone().requires_grad_())
    point = torch.tensor([[0.3, 0.3]], requires_grad=True)
    (giou(point, torch.tensor([[0.3, 0.3]])) + iou(point, torch.tensor([[0.2, 0.2]]))).sum().backward()
    assert torch.isfinite(point.grad).all()


def test_disjoint_spans_are_pulled_together_by_giou_alone() -> None:
    a, b = torch.tensor([0.0, 0.1], requires_grad=True), torch.tensor([0.7, 0.9])
    iou(a, b).backward()
    assert torch.equal(a.grad, torch.zeros(2))
    a.grad = None
    giou(a, b).backward()
    assert a.grad.sum() > 0  # moving the whole span right raises gIoU


def test_nms_keeps_the_most_confident_of_overlapping_windows() -> None:
    found = torch.tensor([[0, 10], [1, 11], [20, 30], [0, 10], [21, 30]], dtype=torch.float32)
    confidence = torch.tensor([0.5, 0.9, 0.3, 0.5, 0.4])
    assert temporal_nms(found, confidence, 0.5).tolist() == [1, 4]
    assert temporal_nms(found, confidence, 0.85).tolist() == [
        1,
        0,
        4,
    ]  # IoU 9/11 survives, the equal window not
    assert temporal_nms(found, confidence, 1.0).tolist() == [1, 0, 3, 4, 2]
    assert temporal_nms(found[:0], confidence[:0], 0.5).tolist() == []
    with pytest.raises(ValueError, match="threshold from 0 to 1"):
        temporal_nms(found, confidence, 1.5)


@settings(max_examples=30, deadline=None)
@given(windows(), st.floats(0, 1), st.randoms(use_true_random=False))
def test_nms_leaves_no_overlap_and_drops_nothing_without_cause(found, threshold, random) -> None:  # type: ignore[no-untyped-def]
    confidence = torch.tensor([random.random() for _ in found])
    kept = temporal_nms(found, confidence, threshold)
    overlap = pairwise_iou(found, found)
    dropped = set(range(len(found))) - set(kept.tolist())
    assert all(overlap[i, j] <= threshold for i in kept for j in kept if i != j)
    assert all(any(overlap[i, j] > threshold and confidence[j] >= confidence[i] for j in kept) for i in dropped)
    assert confidence[kept].tolist() == sorted(confidence[kept].tolist(), reverse=True)
