"""What a manifest holds, split by split, for printing."""

from __future__ import annotations

from dataclasses import dataclass

from .schema import Manifest


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One row of the summary."""

    split: str
    queries: int
    videos: int
    """Distinct videos that the queries are about."""
    windows: int
    unlabelled: int
    """Queries without a window: the truth is not published, or was dropped."""
    hours: float
    """Length of the videos whose length is known."""
    unknown_durations: int
    """Videos whose length is not known before they are measured."""


def summary(manifest: Manifest) -> list[SplitSummary]:
    """One row for each split, in the manifest's order."""
    rows = []
    for split in manifest.splits:
        queries = manifest.split(split)
        lengths = [manifest.videos[vid].duration_s for vid in {query.vid for query in queries}]
        known = [seconds for seconds in lengths if seconds is not None]
        rows.append(
            SplitSummary(
                split,
                queries=len(queries),
                videos=len(lengths),
                windows=sum(len(query.windows) for query in queries),
                unlabelled=sum(not query.windows for query in queries),
                hours=sum(known) / 3600,
                unknown_durations=len(lengths) - len(known),
            )
        )
    return rows
