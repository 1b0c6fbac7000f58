"""Bootstrap intervals for means over queries, resampling whole videos.

Queries of one video share its features and often its windows, so they are not independent draws; videos are.
"""

from __future__ import annotations

import numpy as np

BLOCK = 4_000_000  # resampled videos held in memory at once


def bootstrap_means(
    values: np.ndarray, clusters: np.ndarray, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the mean of each column: (low [M], high [M]).

    values: [Q, M], NaN where a query does not count for a column. clusters: [Q], the video of each query. A
    column without any value gives NaN.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    n_clusters, n_columns = int(cluster.max(initial=-1)) + 1, values.shape[1]
    counted = np.isfinite(values)
    sums, counts = np.zeros((2, n_clusters, n_columns))
    np.add.at(sums, cluster, np.where(counted, values, 0.0))
    np.add.at(counts, cluster, counted)

    rng = np.random.default_rng(seed)
    means = []
    block = max(1, BLOCK // max(1, n_clusters))
    for start in range(0, resamples if n_clusters else 0, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(n_clusters, size=(rows, n_clusters), dtype=np.int32)
        drawn += (n_clusters * np.arange(rows, dtype=np.int32))[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n_clusters).reshape(rows, -1).astype(np.float64)
        total = times @ counts
        means.append(np.divide(times @ sums, total, out=np.full_like(total, np.nan), where=total > 0))
    if not means or not counted.any():
        return np.full(n_columns, np.nan), np.full(n_columns, np.nan)
    low, high = np.full((2, n_columns), np.nan)
    stacked = np.concatenate(means)
    some = counted.any(axis=0)
    tail = (1 - level) / 2
    low[some], high[some] = np.nanquantile(stacked[:, some], [tail, 1 - tail], axis=0)
    return low, high
