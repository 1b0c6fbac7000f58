"""Bootstrap intervals for means over queries, resampling whole source videos.

Queries of one video share its features and often its windows, and segments that were cut from one video (QVHighlights
has some three of each) share its scenes, so they are not independent draws; source videos are.

Dimensions: Q queries, M numbers, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .columns import mean

BLOCK = 4_000_000  # resampled videos held in memory at once
RESAMPLES = 1000
LEVEL = 0.95

Interval = dict[str, float | None]
"""'value', 'low' and 'high'; None where nothing counts."""


def resampled_means(values: np.ndarray, clusters: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """The mean of each column in each resample of the videos, drawn with replacement: float64 [R, M].

    values: [Q, M], NaN where a query does not count for a column. clusters: [Q], the video of each query. NaN
    where a resample has no value of a column. The same seed and videos give the same resamples.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    n_clusters = int(cluster.max(initial=-1)) + 1
    counted = np.isfinite(values)
    sums, counts = np.zeros((2, n_clusters, values.shape[1]))
    np.add.at(sums, cluster, np.where(counted, values, 0.0))
    np.add.at(counts, cluster, counted)

    rng = np.random.default_rng(seed)
    means = np.full((resamples, values.shape[1]), np.nan)
    block = max(1, BLOCK // max(1, n_clusters))
    for start in range(0, resamples if n_clusters else 0, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(n_clusters, size=(rows, n_clusters), dtype=np.int32)
        drawn += (n_clusters * np.arange(rows, dtype=np.int32))[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n_clusters).reshape(rows, -1).astype(np.float64)
        total = times @ counts
        np.divide(times @ sums, total, out=means[start : start + rows], where=total > 0)
    return means


def percentiles(means: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """The interval that holds the share `level` of resampled means [R, M]: (low [M], high [M]); NaN without any."""
    low, high = np.full((2, means.shape[1]), np.nan)
    some = np.isfinite(means).any(axis=0)
    tail = (1 - level) / 2
    if some.any():
        low[some], high[some] = np.nanquantile(means[:, some], [tail, 1 - tail], axis=0)
    return low, high


def bootstrap_means(
    values: np.ndarray, clusters: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the mean of each column: (low [M], high [M]); arguments as for `resampled_means`."""
    return percentiles(resampled_means(values, clusters, resamples, seed), level)


def intervals(
    columns: Mapping[str, np.ndarray], clusters: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Value, low and high of every named number, all from the same resamples; no low and high of a single video."""
    if not columns:
        return {}
    alone = {name for name, column in columns.items() if len(set(clusters[np.isfinite(column)].tolist())) < 2}
    low, high = bootstrap_means(np.stack(list(columns.values()), axis=1), clusters, resamples, seed)
    return {
        name: {
            "value": mean(column),
            "low": None if name in alone else float(low[i]),
            "high": None if name in alone else float(high[i]),
        }
        for i, (name, column) in enumerate(columns.items())
    }
