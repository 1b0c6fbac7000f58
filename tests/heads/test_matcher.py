"""The matcher against brute force over all assignments."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rdmf.heads.matcher import MatchCost, match
from rdmf.heads.spans import giou, to_start_end

COST = MatchCost(classification=4.0, span=10.0, giou=1.0)
METHODS = ["batched", "host", None]


def random_batch(counts: list[int], queries: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class logits, predicted spans, true spans and their mask; padding holds rubbish."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(counts), queries, generator=generator)
    spans = torch.rand(len(counts), queries, 2, generator=generator)
    n = max(1, *counts)
    mask = torch.arange(n) < torch.tensor(counts)[:, None]
    return logits, spans, torch.rand(len(counts), n, 2, generator=generator), mask


def pair_cost(logit: Tensor, span: Tensor, true: Tensor, cost: MatchCost) -> float:
    """The cost of one pair, from its definition."""
    overlap = giou(to_start_end(span), to_start_end(true))
    distance = (span - true).abs().sum()
    return float(-cost.classification * logit.sigmoid() + cost.span * distance - cost.giou * overlap)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_no_assignment_is_cheaper_for_any_sequence(seed: int, method: str | None) -> None:
    counts, queries = [2, 0, 3, 1], 5
    logits, spans, targets, mask = random_batch(counts, queries, seed)
    found = match(logits, spans, targets, mask, COST, method)
    assert torch.equal(found.mask, mask)
    for b, n in enumerate(counts):
        table = [[pair_cost(logits[b, q], spans[b, q], targets[b, t], COST) for t in range(n)] for q in range(queries)]
        cheapest = min(
            sum(table[q][t] for t, q in enumerate(chosen)) for chosen in itertools.permutations(range(queries), n)
        )
        chosen = found.query[b, :n].tolist()
        assert len(set(chosen)) == n
        assert sum(table[q][t] for t, q in enumerate(chosen)) == pytest.approx(cheapest, abs=1e-4)


@pytest.mark.parametrize("spans_of_batch", [1, 3])
def test_each_part_of_the_cost_decides_when_it_stands_alone(spans_of_batch: int) -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0]])
    spans = torch.tensor([[[0.9, 0.1], [0.5, 0.9], [0.55, 0.1]]])
    targets = torch.tensor([[[0.5, 0.4]] * spans_of_batch])
    mask = torch.arange(spans_of_batch)[None] == 0
    for method in METHODS:
        chosen = {
            name: match(
                logits, spans, targets, mask, MatchCost(**{"classification": 0, "span": 0, "giou": 0, name: 1}), method
            ).query[0, 0]
            for name in ("classification", "span", "giou")
        }
        assert chosen["classification"] == 0
        assert chosen["span"] == 2  # |0.05| + |0.3| < |0| + |0.5|
        assert chosen["giou"] == 1  # 0.4 / 0.9 > 0.1 / 0.4


@pytest.mark.parametrize("method", METHODS)
def test_a_sequence_with_more_moments_than_queries_matches_the_best(method: str | None) -> None:
    logits, spans, targets, mask = random_batch([5, 1], 2, 0)
    found = match(logits, spans, targets, mask, COST, method)
    assert found.mask.sum(1).tolist() == [2, 1]
    assert sorted(found.query[0, found.mask[0]].tolist()) == [0, 1]
    table = [[pair_cost(logits[0, q], spans[0, q], targets[0, t], COST) for t in range(5)] for q in range(2)]
    cheapest = min(table[0][t] + table[1][s] for t, s in itertools.permutations(range(5), 2))
    pairs = zip(found.query[0].tolist(), range(5), found.mask[0].tolist(), strict=True)
    assert sum(table[q][t] for q, t, matched in pairs if matched) == pytest.approx(cheapest, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_any_moment_matches_nothing(method: str | None) -> None:
    found = match(*random_batch([0, 0], 3, 0), COST, method)
    assert not found.mask.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("counts", [[1, 1], [2, 3]])
def test_what_has_diverged_is_still_matched_one_to_one(counts: list[int], bad: float, method: str | None) -> None:
    logits, spans, targets, mask = random_batch(counts, 3, 0)
    spans[1, 2, 0], logits[0] = bad, bad
    found = match(logits, spans, targets, mask, COST, method)
    assert torch.equal(found.mask, mask)
    for query, own in zip(found.query, mask, strict=True):
        assert len(set(query[own].tolist())) == own.sum()
        assert set(query[own].tolist()) <= {0, 1, 2}
    assert 2 in found.query[1, mask[1]]  # where it makes the loss NaN
