"""R1 against the IoU that counts as found: how exact the first window is.

Dimensions: Q queries, K thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluation.columns import mean, reached
from ..evaluation.intervals import bootstrap_means
from ..evaluation.metrics import RECALL_THRESHOLDS
from .judged import Judged


@dataclass(frozen=True)
class RecallCurve:
    """R1 of a system, as fractions, at each threshold [K]; averaged over seeds where there are several."""

    system: str
    thresholds: np.ndarray
    value: np.ndarray
    low: np.ndarray
    """With `high`, the 95% interval over videos."""
    high: np.ndarray


def recall_curves(judged: Judged, resamples: int, seed: int) -> list[RecallCurve]:
    """A curve for each system that retrieves moments."""
    out = []
    for system in judged.systems:
        tables = [result.table for result in system.results]
        if not all("iou" in table for table in tables):
            continue
        found = [np.stack([reached(table["iou"], t) for t in RECALL_THRESHOLDS], axis=1) for table in tables]
        average = np.mean(found, axis=0)  # [Q, K]
        low, high = bootstrap_means(average, judged.sources, resamples, seed)
        value = np.array([mean(column) for column in average.T], np.float64)
        out.append(RecallCurve(system.name, RECALL_THRESHOLDS, value, low, high))
    return out
