"""Everything that a report says, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...manifests.schema import Manifest
from ..comparison.compare import RESAMPLES as PAIRED_RESAMPLES
from ..comparison.compare import Comparison, compare
from ..comparison.seeds import Spread, over_runs
from ..evaluation import highlights
from ..evaluation.intervals import RESAMPLES, Interval, intervals
from .browser import browser_data
from .calibration import Reliability, reliabilities
from .examples import Cases, cases
from .grouped import Grouped, groupings
from .judged import Judged, Say, judge
from .recall import RecallCurve, recall_curves
from .settings import Differences, differences
from .sharpness import Sharpness, sharpness
from .smoothing import Smoothing, smoothings


@dataclass(frozen=True, eq=False)
class Report:
    """What was found; every part that the systems do not provide is None or empty."""

    judged: Judged
    resamples: int
    seed: int
    numbers: dict[str, dict[str, Interval]]
    """System -> name of the number (see `columns`) -> value and interval, fractions; the mean over seeds."""
    spread: dict[str, dict[str, Spread]]
    """System -> name -> mean and deviation over its seeds, for systems of several."""
    highest_hl_map: float | None
    """What HL-mAP at VeryGood could reach at most: annotators without such a clip count as 0."""
    comparison: Comparison | None
    recall: list[RecallCurve]
    groups: list[Grouped]
    differences: Differences | None
    reliabilities: list[Reliability]
    sharpness: Sharpness | None
    smoothings: list[Smoothing]
    cases: Cases | None
    browser: dict[str, Any]

    @property
    def names(self) -> list[str]:
        return [system.name for system in self.judged.systems]

    @property
    def protocol(self) -> str:
        return self.judged.results.protocol


def collect(
    systems: Sequence[str],
    truth: Manifest | None = None,
    protocol: str | None = None,
    split: str | None = None,
    *,
    allow_missing: bool = False,
    resamples: int = RESAMPLES,
    paired_resamples: int = PAIRED_RESAMPLES,
    seed: int = 0,
    features: Path | None = None,
    device: str = "cpu",
    say: Say = lambda sentence: None,
) -> Report:
    """Judge systems and find out everything that the report shows.

    systems: as `parse_systems` takes them, the first one being compared with the others. resamples: of intervals;
    paired_resamples: of the paired bootstrap. say: takes a few words on what is being done. Raises ValueError as
    `read_systems` does.
    """
    say("judging predictions")
    judged = judge(systems, truth, protocol, split, allow_missing=allow_missing, features=features, device=device)
    all_systems = [each.system for each in judged.systems]
    say("intervals, groups and comparison")
    several = {each.name: list(each.results) for each in judged.systems if len(each.results) > 1}
    comparison = None
    if len(all_systems) > 1:
        comparison = compare(all_systems[0], all_systems[1:], resamples=paired_resamples, seed=seed)
    return Report(
        judged=judged,
        resamples=resamples,
        seed=seed,
        numbers={each.name: intervals(each.columns, judged.sources, resamples, seed) for each in all_systems},
        spread={name: over_runs(results) for name, results in several.items()},
        highest_hl_map=_highest_hl_map(judged),
        comparison=comparison,
        recall=recall_curves(judged, resamples, seed),
        groups=groupings(judged, resamples, seed),
        differences=differences(judged),
        reliabilities=reliabilities(judged, resamples, seed, say),
        sharpness=sharpness(judged, resamples, seed),
        smoothings=smoothings(judged, resamples, seed, say),
        cases=cases(judged),
        browser=browser_data(judged),
    )


def _highest_hl_map(judged: Judged) -> float | None:
    """The mean over queries of the share of annotators that have any clip at VeryGood."""
    if "hl_ap" not in judged.results.table:
        return None
    shares = []
    for query, clips in zip(judged.queries, judged.pairs.saliency_clips, strict=True):
        if query.saliency is not None and clips:
            shares.append(highlights.labels([query.saliency], np.array([clips]))[0, -1].any(axis=1).mean())
    return float(np.mean(shares)) if shares else None
