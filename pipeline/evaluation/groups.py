"""The numbers of an evaluation by group of queries: by window length, number of windows, video length, kind of query.

A query is in one group. (The lengths of the QVHighlights protocol are another thing: they filter the true windows of
a query, which then counts in up to three of them; see `MR-short-mAP`.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...manifests.schema import Query
from . import metrics
from .columns import columns, mean, select
from .intervals import RESAMPLES, Interval, intervals


@dataclass(frozen=True, eq=False)
class GroupNumbers:
    """The numbers of some of the queries."""

    queries: int
    videos: int
    numbers: dict[str, float | None]
    """Name -> fraction, as `columns` names them; None where no query of the group counts."""
    intervals: dict[str, Interval]
    """Of the same names, over the group's videos; empty without resamples."""

    def to_json(self) -> dict[str, Any]:
        return {
            "queries": self.queries, "videos": self.videos, "numbers": self.numbers, "intervals": self.intervals,
        }  # fmt: skip


def by_group(
    table: dict[str, np.ndarray],
    groups: Sequence[str],
    order: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, GroupNumbers]:
    """The numbers of each group of a table of `per_query`.

    groups: the group of each query, in the order of the table. order: how the groups are listed; others follow as
    they come. resamples: of the intervals; 0: none. Raises ValueError unless there is one group for each query.
    """
    if len(groups) != len(table["qid"]):
        raise ValueError(f"expected a group for each of the {len(table['qid'])} queries, got {len(groups)}")
    names = np.array(groups, dtype=object)
    listed = [name for name in dict.fromkeys([*order, *groups]) if name in set(groups)]
    return {name: _numbers(select(table, names == name), resamples, seed) for name in listed}


def _numbers(table: dict[str, np.ndarray], resamples: int, seed: int) -> GroupNumbers:
    named = columns(table)
    return GroupNumbers(
        len(table["qid"]),
        len(np.unique(table["vid"])),
        {name: mean(column) for name, column in named.items()},
        intervals(named, table["source"], resamples, seed) if resamples else {},
    )


# Ways to group queries. Each takes the queries and their videos' lengths in seconds (NaN: unknown).


def length_of(query: Query, duration_s: float) -> str:
    """The length range (of the QVHighlights protocol) that all true windows of the query are in."""
    found = {_range(w.duration_s) for w in query.windows}
    return "no window" if not found else found.pop() if len(found) == 1 else "mixed"


def _range(seconds: float) -> str:
    return next((name for name, (low, high) in metrics.LENGTHS_S.items() if low < seconds <= high), "over 150 s")


def windows_of(query: Query, duration_s: float) -> str:
    """How many true windows the query has."""
    count = len(query.windows)
    return "no window" if not count else "1 window" if count == 1 else "2 to 4" if count < 5 else "5 or more"


DURATIONS_S = {30: "up to 30 s", 60: "30 to 60 s", 120: "1 to 2 min", 180: "2 to 3 min", 300: "3 to 5 min"}


def duration_of(query: Query, duration_s: float) -> str:
    """How long the video is."""
    if np.isnan(duration_s):
        return "unknown"
    return next((name for longest, name in DURATIONS_S.items() if duration_s <= longest), "over 5 min")


def kind_of(query: Query, duration_s: float) -> str:
    """What the sentence asks for: as annotated, else as the rules of `query_kinds` read it."""
    from . import query_kinds

    return query.kind or query_kinds.kind_of(query.text)


Grouping = Callable[[Query, float], str]
GROUPINGS: Mapping[str, tuple[Grouping, tuple[str, ...]]] = {
    "length": (length_of, (*metrics.LENGTHS_S, "over 150 s", "mixed", "no window")),
    "windows": (windows_of, ("1 window", "2 to 4", "5 or more", "no window")),
    "duration": (duration_of, (*DURATIONS_S.values(), "over 5 min", "unknown")),
    "kind": (kind_of, ("action", "object", "scene", "documented")),
}
"""Name -> (the group of a query, the order in which groups are listed)."""


def groups_of(queries: Sequence[Query], duration_s: np.ndarray, by: str) -> tuple[list[str], tuple[str, ...]]:
    """The group of each query and the order of the groups. Raises ValueError for a grouping there is not."""
    if by not in GROUPINGS:
        raise ValueError(f"expected a grouping of {', '.join(GROUPINGS)}, got {by!r}")
    grouping, order = GROUPINGS[by]
    return [grouping(query, float(s)) for query, s in zip(queries, duration_s, strict=True)], order
