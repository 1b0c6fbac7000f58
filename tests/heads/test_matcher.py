"""The matcher against brute force over all assignments."""

from __future__ import annotations

import itertools

import pytest
import torch

from rdmf.heads.matcher import DivergenceError, MatchCost, match, pad_spans
from rdmf.heads.spans import giou, to_start_end

COST = MatchCost(classification=4.0, span=10.0, giou=1.0)


def random_batch(counts: list[int], queries: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(counts), queries, generator=generator)
    spans = torch.rand(len(counts), queries, 2, generator=generator)
    return logits, spans, torch.rand(sum(counts), 2, generator=generator)


def pair_cost(logit: torch.Tensor, span: torch.Tensor, true: torch.Tensor, cost: MatchCost) -> float:
    """The cost of one pair, from its definition."""
    overlap = giou(to_start_end(span), to_start_end(true))
    distance = (span - true).abs().sum()
    return float(-cost.classification * logit.sigmoid() + cost.span * distance - cost.giou * overlap)


@pytest.mark.parametrize("seed", range(5))
def test_no_assignment_is_cheaper_for_any_sequence(seed: int) -> None:
    counts, queries = [2, 0, 3, 1], 5
    logits, spans, targets = random_batch(counts, queries, seed)
    found = match(logits, spans, targets, counts, COST)
    assert found.sequence.tolist() == [0, 0, 2, 2, 2, 3]
    assert sorted(found.target.tolist()) == list(range(6))
    first = 0
    for b, n in enumerate(counts):
        table = [
            [pair_cost(logits[b, q], spans[b, q], targets[first + t], COST) for t in range(n)] for q in range(queries)
        ]
        cheapest = min(
            sum(table[q][t] for t, q in enumerate(chosen)) for chosen in itertools.permutations(range(queries), n)
        )
        mine = found.sequence == b
        pairs = list(zip(found.query[mine].tolist(), (found.target[mine] - first).tolist(), strict=True))
        assert len({q for q, _ in pairs}) == n
        assert sum(table[q][t] for q, t in pairs) == pytest.approx(cheapest, abs=1e-4)
        first += n


def test_each_part_of_the_cost_decides_when_it_stands_alone() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0]])
    spans = torch.tensor([[[0.9, 0.1], [0.5, 0.9], [0.55, 0.1]]])
    targets = torch.tensor([[0.5, 0.4]])
    chosen = {
        name: match(logits, spans, targets, [1], MatchCost(**{"classification": 0, "span": 0, "giou": 0, name: 1}))
        for name in ("classification", "span", "giou")
    }
    assert chosen["classification"].query.tolist() == [0]
    assert chosen["span"].query.tolist() == [2]  # |0.05| + |0.3| < |0| + |0.5|
    assert chosen["giou"].query.tolist() == [1]  # 0.4 / 0.9 > 0.1 / 0.4


def test_a_sequence_with_more_moments_than_queries_matches_the_best() -> None:
    logits, spans, targets = random_batch([5], 2, 0)
    found = match(logits, spans, targets, [5], COST)
    assert sorted(found.query.tolist()) == [0, 1]
    assert len(set(found.target.tolist())) == 2


def test_a_batch_without_any_moment_matches_nothing() -> None:
    logits, spans, targets = random_batch([0, 0], 3, 0)
    assert [len(x) for x in match(logits, spans, targets, [0, 0], COST)] == [0, 0, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_is_named(bad: float) -> None:
    logits, spans, targets = random_batch([1, 1], 3, 0)
    spans[1, 2, 0] = bad
    with pytest.raises(DivergenceError, match="training has diverged"):
        match(logits, spans, targets, [1, 1], COST)


def test_padding_puts_every_span_in_its_own_row() -> None:
    spans = torch.arange(6.0).view(3, 2)
    padded, valid = pad_spans(spans, [2, 0, 1])
    assert valid.tolist() == [[True, True], [False, False], [True, False]]
    assert torch.equal(padded[valid], spans)
    assert pad_spans(spans[:0], [0, 0])[0].shape == (2, 1, 2)
