"""A few queries to look at: what the first system finds best, and where it is sure and wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .calibration import listed_windows
from .judged import Judged

SHOWN = 8
WRONG = 0.1
"""A window of a lower IoU shows another moment."""


@dataclass(frozen=True)
class Case:
    """One query with the first window for it."""

    query: int
    """Its place among the judged queries."""
    window: tuple[float, float]
    confidence: float
    iou: float


@dataclass(frozen=True)
class Cases:
    """Of one system (its first seed)."""

    system: str
    best: tuple[Case, ...]
    """Highest IoU, then the most confident."""
    worst: tuple[Case, ...]
    """Most confident among those with an IoU below WRONG."""
    wrong: int
    """How many queries have such a first window."""
    judged: int


def cases(judged: Judged) -> Cases | None:
    """None where the first system retrieves no moments."""
    system = judged.systems[0]
    pairs = system.pairs[0]
    confidence, iou = (column[:, 0] for column in listed_windows(pairs))
    counted = np.flatnonzero(np.isfinite(confidence) & np.isfinite(iou))
    if not len(counted):
        return None

    def case(i: int) -> Case:
        start, end, score = pairs.predicted_windows[i, 0]
        return Case(int(i), (float(start), float(end)), float(score), float(iou[i]))

    order = np.lexsort((-confidence[counted], -np.round(iou[counted], 4)))
    wrong = counted[iou[counted] < WRONG]
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return Cases(
        system.name, tuple(case(i) for i in counted[order][:SHOWN]), tuple(case(i) for i in surest[:SHOWN]),
        len(wrong), len(counted),
    )  # fmt: skip
