from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.pipeline.loading.batches import Share, epoch_batches

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=60).map(torch.tensor)
SIZES = st.integers(1, 17)
BUCKETS = st.integers(1, 6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_of(shares: list[Share]) -> list[int]:
    return [row for share in shares if share.weight for row in share.rows.tolist()]


@settings(deadline=None)
@given(LENGTHS, SIZES, BUCKETS, st.integers(0, 9))
def test_an_epoch_has_every_query_once_in_full_batches_and_one_remainder(lengths, size, bucket, seed):
    shares = epoch_batches(lengths, size, seeded(seed), bucket=bucket)
    assert sorted(rows_of(shares)) == list(range(len(lengths)))
    assert all(share.weight == 1 for share in shares)
    full, rest = divmod(len(lengths), size)
    assert sorted(len(share.rows) for share in shares) == sorted([size] * full + [rest] * (rest > 0))


@settings(deadline=None)
@given(LENGTHS, SIZES, BUCKETS, st.integers(1, 9))
def test_several_processes_see_together_what_one_sees(lengths, size, bucket, world):
    one = epoch_batches(lengths, size, seeded(), bucket=bucket)
    each = [epoch_batches(lengths, size, seeded(), bucket=bucket, rank=rank, world=world) for rank in range(world)]
    for batch, *shares in zip(one, *each, strict=True):  # as many steps on every rank
        assert sorted(rows_of(shares)) == sorted(batch.rows.tolist())
        assert sum(share.weight for share in shares) == pytest.approx(1)
        counts = [len(share.rows) if share.weight else 0 for share in shares]
        assert [share.weight for share in shares] == [count / len(batch.rows) for count in counts]
        assert max(counts) - min(counts) <= 1
        assert all(len(share.rows) for share in shares)  # also where the weight is 0


@settings(deadline=None)
@given(LENGTHS, SIZES, BUCKETS, st.integers(1, 5))
def test_the_order_follows_from_the_generator_which_every_process_moves_alike(lengths, size, bucket, world):
    generators = [seeded(3) for _ in range(world)]
    for rank, generator in enumerate(generators):
        epoch_batches(lengths, size, generator, bucket=bucket, rank=rank, world=world)
        assert torch.equal(generator.get_state(), generators[0].get_state())
    first, again = (epoch_batches(lengths, size, seeded(3), bucket=bucket) for _ in range(2))
    assert [share.rows.tolist() for share in first] == [share.rows.tolist() for share in again]


@settings(deadline=None)
@given(LENGTHS, SIZES)
def test_inside_a_chunk_no_batch_holds_lengths_that_another_one_s_lie_between(lengths, size):
    ranges = sorted(
        (int(lengths[share.rows].min()), int(lengths[share.rows].max()))
        for share in epoch_batches(lengths, size, seeded(), bucket=len(lengths))
    )
    assert all(a[1] <= b[0] for a, b in pairwise(ranges))


def padding(lengths: torch.Tensor, shares: list[Share]) -> float:
    """Padded clips for each real one."""
    return sum(len(s.rows) * int(lengths[s.rows].max()) for s in shares) / int(lengths.sum()) - 1


def test_sorting_in_chunks_saves_nearly_all_padding():
    lengths = torch.randint(5, 150, (4000,), generator=seeded(1))
    assert padding(lengths, epoch_batches(lengths, 32, seeded(), bucket=1)) > 0.5
    assert padding(lengths, epoch_batches(lengths, 32, seeded(), bucket=50)) < 0.05


def test_short_and_long_batches_alternate_and_every_epoch_is_another():
    lengths = torch.arange(1, 641)
    generator = seeded()
    first, second = (epoch_batches(lengths, 16, generator) for _ in range(2))
    longest = torch.tensor([int(lengths[s.rows].max()) for s in first]).float()
    order = torch.arange(len(longest)).float()
    assert abs(float(torch.corrcoef(torch.stack([longest, order]))[0, 1])) < 0.5  # 40 batches, 1 if sorted
    assert [s.rows.tolist() for s in first] != [s.rows.tolist() for s in second]


def test_queries_of_one_length_are_batched_at_random():
    lengths = torch.full((1000,), 75)
    rows = torch.cat([share.rows for share in epoch_batches(lengths, 10, seeded())])
    neighbours = (rows[1:] - rows[:-1]).abs() == 1
    assert neighbours.float().mean() < 0.02  # 0.002 at random


@pytest.mark.parametrize("wrong", [{"rank": 2, "world": 2}, {"rank": -1}, {"bucket": 0}, {"batch_size": 0}])
def test_what_makes_no_batches_is_refused(wrong):
    with pytest.raises(ValueError, match="expected a batch size"):
        epoch_batches(torch.ones(5, dtype=torch.int64), **{"batch_size": 2, "generator": seeded(), **wrong})
