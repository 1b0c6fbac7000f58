"""The order of an epoch with `training.bucket`: batches of videos about equally long, so that little is padding.

The queries are shuffled, sorted by length inside chunks of `bucket` batches, cut into batches, and the batches are
shuffled. Several processes cut every batch between them: together they see what one process would see.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Share(NamedTuple):
    """What one process has of a batch."""

    rows: Tensor
    """int64 [b], b >= 1: queries."""
    weight: float
    """The share of the batch's queries, 1 in all over the processes. 0 where there were fewer queries than processes:
    the one row is then another's, there so that every process takes the same steps, and must not count."""


def epoch_batches(
    lengths: Tensor, batch_size: int, generator: torch.Generator, *, bucket: int = 50, rank: int = 0, world: int = 1
) -> list[Share]:
    """The batches of one epoch for process `rank` of `world`.

    lengths: int64 [queries], clips of each. batch_size: queries of a step of all processes together; the epoch's
    remainder is a batch too. bucket: batches among which lengths are sorted, 1 is a plain shuffle. Processes whose
    generators are in the same state get shares of the same batches.
    """
    if batch_size < 1 or bucket < 1 or not 0 <= rank < world:
        raise ValueError(
            f"expected a batch size and a bucket of at least 1 and a rank below the number of processes, "
            f"got {batch_size}, {bucket} and {rank} of {world}"
        )
    shuffled = torch.randperm(len(lengths), generator=generator)
    chunks = [rows[lengths[rows].argsort(stable=True)] for rows in shuffled.split(bucket * batch_size)]
    batches = [batch for chunk in chunks for batch in chunk.split(batch_size)]
    order = torch.randperm(len(batches), generator=generator)
    return [_share(batches[i], rank, world) for i in order.tolist()]


def _share(batch: Tensor, rank: int, world: int) -> Share:
    """Every world-th query, so that all processes have short and long ones."""
    mine = batch[rank::world]
    return Share(mine, len(mine) / len(batch)) if len(mine) else Share(batch[:1], 0.0)
