"""Proposals: the runs of clips above each level, against a loop; nothing else of the batch matters."""

import numpy as np
import pytest
import torch

from rdmf.heads.moment import MomentHead
from rdmf.heads.proposals import LEVELS, propose


def literal(saliency: np.ndarray, count: int) -> list[tuple[float, float, float]]:
    """(weight, centre, width) of every run, best first; one sequence without padding."""
    n = len(saliency)
    mean = [np.mean(saliency[max(0, t - 1) : t + 2]) for t in range(n)]
    height = (np.array(mean) - min(mean)) / (max(mean) - min(mean))
    found = []
    for level in LEVELS:
        start = None
        for t in range(n + 1):
            above = t < n and height[t] >= np.float32(level)
            if above and start is None:
                start = t
            if not above and start is not None:
                weight = height[start:t].mean() * np.sqrt(t - start)
                found.append((weight, (start + t) / 2 / n, (t - start) / n))
                start = None
    return sorted(set(found), reverse=True)[:count]


@pytest.mark.parametrize("seed", range(20))
def test_proposals_are_the_heaviest_runs_above_the_levels(seed):
    saliency = np.random.default_rng(seed).normal(size=30).astype(np.float32)
    expected = literal(saliency, 6)
    spans, found = (x[0] for x in propose(torch.from_numpy(saliency)[None], torch.ones(1, 30, dtype=torch.bool), 6))
    assert found.tolist() == [i < len(expected) for i in range(6)]
    for span, (_, centre, width) in zip(spans.tolist(), expected, strict=False):
        assert span == pytest.approx((centre, width), abs=1e-6)
    assert all(span == [0.5, 1.0] for span in spans.tolist()[len(expected) :])
    assert len({tuple(span) for span in spans.tolist()}) >= len(expected)  # no run twice


def test_the_scale_of_the_scores_and_padding_with_nan_do_not_matter():
    saliency, mask = torch.randn(3, 17), torch.ones(3, 17, dtype=torch.bool)
    alone = propose(saliency, mask, 5)
    torch.testing.assert_close(propose(40 * saliency - 7, mask, 5).spans, alone.spans, rtol=0, atol=1e-5)
    padded = torch.cat((saliency, torch.full((3, 9), torch.nan)), 1)
    torch.testing.assert_close(propose(padded, torch.nn.functional.pad(mask, (0, 9)), 5).spans, alone.spans)


def test_a_plateau_is_found_where_it_is():
    saliency = torch.full((1, 20), -3.0)
    saliency[0, 5:11] = 4.0
    centre, width = propose(saliency, torch.ones(1, 20, dtype=torch.bool), 1).spans[0, 0].tolist()
    assert centre == pytest.approx(8 / 20)
    assert 6 / 20 <= width <= 8 / 20  # smoothing reaches one clip further at low levels


@pytest.mark.parametrize("length", [1, 2, 3])
def test_flat_and_tiny_sequences_are_proposed_whole(length):
    spans, found = propose(torch.zeros(2, length), torch.ones(2, length, dtype=torch.bool), 4)
    assert not found.any()
    assert spans.tolist() == [[[0.5, 1.0]] * 4] * 2


def test_more_proposals_than_runs_are_filled_up_inside_the_sequence():
    spans, found = propose(torch.randn(4, 6), torch.ones(4, 6, dtype=torch.bool), 50)
    assert found.any(1).all()
    assert spans.shape == (4, 50, 2)
    assert (spans >= 0).all()
    assert (spans <= 1).all()
    assert spans[:, -1].tolist() == [[0.5, 1.0]] * 4


def test_nothing_waits_for_the_host():
    meta = torch.zeros(2, 9, device="meta")
    assert propose(meta, meta.bool(), 3).spans.shape == (2, 3, 2)


def test_a_plateau_is_proposed_once_per_width_and_a_decoder_fills_up_with_anchors():
    saliency, mask = torch.full((1, 75), -3.0), torch.ones(1, 75, dtype=torch.bool)
    saliency[0, 20:30] = 3.0
    spans, found = propose(saliency, mask, 10)
    known = [tuple(span) for span in spans[found].tolist()]
    assert len(set(known)) == len(known) < 10
    head = MomentHead(hidden=32, queries=10, heads=4, proposals=10).eval()
    seen = []
    head.place.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head(torch.randn(1, 75, 32), mask, torch.linspace(0, 1, 75)[None], saliency=saliency)
    assert len(seen[0][0].unique(dim=0)) == 10
