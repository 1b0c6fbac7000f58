"""Intervals for means over seeds and queries: how far other videos and other seeds would move a number.

The mean over S seeds and the queries about V videos varies with both. Its variance is estimated as the sum of

    a    over videos: of the mean in the bootstrap over whole videos, seeds averaged query by query (V - 1 degrees)
    b    over seeds: of the S means, divided by S                                                  (S - 1 degrees)

and mean -+ t sqrt(a + b) is the interval, with t of (a + b)^2 / (a^2 / (V - 1) + b^2 / (S - 1)) degrees of freedom
(Satterthwaite, 1946, as in Welch's test). Noise of one seed on one query is in both parts, which errs on the wide side.
In simulations it held the truth 92 to 97 times in 100 with three seeds and 94 to 97 with five, whatever the share of
the seeds. With two seeds it was 87 to 97: take three. A bootstrap over three seeds and videos held it 78 to 94 times,
videos alone 37 to 93. With one seed there is no b, and the interval is about that one.

Dimensions: S seeds, Q queries, M numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from .intervals import LEVEL, RESAMPLES, resampled_means


class Estimates(NamedTuple):
    """[M] each; NaN where nothing counts."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """NaN, as low is, where all is about one video."""
    p: np.ndarray
    """Two-sided, of the mean being 0."""
    deviation: np.ndarray
    """Of the seeds' means (n - 1); NaN with one seed."""


def estimate(values: np.ndarray, videos: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Estimates:
    """Mean and interval of numbers, or of paired differences.

    values: [S, Q, M], NaN where a query does not count for a number. videos: [Q], the video of each query.
    """
    seeds, _, numbers = values.shape
    counted = np.isfinite(values).all(0)  # [Q, M]
    counts = counted.sum(0)
    per_seed = np.full((seeds, numbers), np.nan)
    np.divide(np.where(counted, values, 0).sum(1), counts, out=per_seed, where=counts > 0)
    mean = per_seed.mean(0)
    clusters = np.array([len(np.unique(videos[column])) for column in counted.T])
    few = np.maximum(clusters - 1, 1)
    resampled = resampled_means(values.mean(0), videos, resamples, seed)  # [R, M]
    over_videos = np.nanvar(np.where(counts > 0, resampled, 0), axis=0) * (few + 1) / few
    deviation = per_seed.std(0, ddof=1) if seeds > 1 else np.full(numbers, np.nan)
    over_seeds = np.nan_to_num(deviation**2 / seeds)
    variance = over_videos + over_seeds
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = variance**2 / (over_videos**2 / few + over_seeds**2 / max(seeds - 1, 1))
        certain = ~(variance > 0)
        degrees = np.where(certain, 1, degrees)
        half = np.where(certain, 0, stdtrit(degrees, (1 + LEVEL) / 2) * np.sqrt(variance))
        t = np.abs(mean) / np.sqrt(variance)
        p = np.where(certain, np.where(mean == 0, 1.0, 0.0), 2 * stdtr(degrees, -t))
    half, p = np.where(clusters > 1, half, np.nan), np.where(clusters > 1, p, 1.0)
    return Estimates(mean, mean - half, mean + half, p, deviation)
