"""The numbers of every system by group of queries: kind, moment length, number of windows, length of the video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluation.groups import GROUPINGS, groups_of
from ..evaluation.intervals import Interval, intervals
from .judged import Judged

TITLES = {
    "kind": "kind of query", "length": "length of the true windows", "windows": "number of true windows",
    "duration": "length of the video",
}  # fmt: skip
"""The groupings, in the order of the report."""
MOST = 24
"""A grouping of more groups (kinds may be annotated in any words) is left out."""


@dataclass(frozen=True)
class Grouped:
    """One way to group the queries, and what each system reached in each group."""

    name: str
    title: str
    queries: dict[str, int]
    """Group -> how many queries; groups in their own order."""
    numbers: dict[str, dict[str, dict[str, Interval]]]
    """System -> group -> name of the number (see `columns`) -> value and interval, fractions."""


def groupings(judged: Judged, resamples: int, seed: int) -> list[Grouped]:
    """Every grouping that divides the queries; all in one group, or each in its own, says nothing."""
    out = []
    for name, title in TITLES.items():
        of_query, order = groups_of(judged.queries, judged.pairs.duration_s, name)
        groups = np.array(of_query, dtype=object)
        listed = [group for group in (*order, *dict.fromkeys(of_query)) if group in set(of_query)]
        rows = {group: groups == group for group in dict.fromkeys(listed)}
        if not 2 <= len(rows) <= MOST:
            continue
        numbers = {
            system.name: {
                group: intervals(
                    {n: column[at] for n, column in system.system.columns.items()}, judged.sources[at], resamples, seed
                )
                for group, at in rows.items()
            }
            for system in judged.systems
        }
        out.append(Grouped(name, title, {group: int(at.sum()) for group, at in rows.items()}, numbers))
    assert set(TITLES) == set(GROUPINGS)
    return out
