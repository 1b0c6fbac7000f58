"""Moment retrieval metrics, as the QVHighlights evaluator defines them, without a Python loop over queries.

Dimensions: Q queries, P listed predictions, G true windows, K IoU thresholds. Ragged lists are padded with
NaN, which overlaps with nothing. Times are seconds.

Source: the protocol of Moment-DETR's evaluator (arXiv 2107.09609), which QD-DETR and CG-DETR share; average
precision is the all-point interpolated one of VOC 2011, matched as in the ActivityNet detection task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

AP_THRESHOLDS = np.array([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
RECALL_THRESHOLDS = np.array([0.3, 0.35, 0.4, 0.45, *AP_THRESHOLDS])
MAX_RANKED = 10
"""Listed windows that count for average precision; later ones are ignored."""
LENGTHS_S = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0)}
"""A true window of `length` seconds belongs to the range with low < length <= high."""


def pad(rows: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Stack Q arrays [n_q, columns] into float64 [Q, max n_q (at least 1), columns], filled up with NaN."""
    counts = np.array([len(row) for row in rows], np.int64)
    out = np.full((len(rows), max(1, counts.max(initial=0)), columns), np.nan)
    if counts.any():
        out[np.arange(out.shape[1]) < counts[:, None]] = np.concatenate([row for row in rows if len(row)])
    return out


def iou(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of every prediction [Q, P, 2] with every true window [Q, G, 2]: [Q, P, G].

    0 where either is padding or both are empty."""
    start, end = predicted[:, :, None, 0], predicted[:, :, None, 1]
    true_start, true_end = truth[:, None, :, 0], truth[:, None, :, 1]
    inter = np.maximum(np.minimum(end, true_end) - np.maximum(start, true_start), 0)
    union = (end - start) + (true_end - true_start) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def best_iou(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of each prediction [Q, P, 2] with the true window [Q, G, 2] that it fits best: [Q, P].

    The evaluator chooses the window by `iou`, then divides by the hull of the two. On windows that meet this
    is the same number up to the last bit, and the last bit decides `IoU >= 0.7`, so it is done in that order
    here too.
    """
    chosen = iou(predicted, truth).argmax(axis=2)
    window = np.take_along_axis(truth, chosen[..., None], axis=1)
    (start, end), (true_start, true_end) = np.moveaxis(predicted, 2, 0), np.moveaxis(window, 2, 0)
    inter = np.maximum(np.minimum(end, true_end) - np.maximum(start, true_start), 0)
    hull = np.maximum(end, true_end) - np.minimum(start, true_start)
    return np.divide(inter, hull, out=np.zeros_like(inter), where=hull > 0)


def ranking(listed: np.ndarray) -> np.ndarray:
    """The first MAX_RANKED of the listed windows [Q, P, 3] (start, end, score), by descending score, ties as listed."""
    listed = listed[:, :MAX_RANKED]
    order = np.argsort(-listed[..., 2], axis=1, kind="stable")  # NaN, the padding, stays last
    return np.take_along_axis(listed, order[..., None], axis=1)


def average_precision(ranked: np.ndarray, truth: np.ndarray, thresholds: np.ndarray = AP_THRESHOLDS) -> np.ndarray:
    """Average precision of each query at each IoU threshold: [Q, K].

    ranked: [Q, P, 3] of `ranking`. truth: [Q, G, 2]. Going down the ranking, a prediction takes the free true
    window that it overlaps most, if their IoU reaches the threshold (of equal ones the last listed), and is a
    false positive otherwise. A query without true windows scores 0.
    """
    overlap = iou(ranked[..., :2], truth[:, ::-1])  # reversed, because argmax takes the first of equals
    n_true = np.isfinite(truth[..., 0]).sum(axis=1)
    hits = _match(overlap, thresholds)  # [Q, K, P]

    found = np.cumsum(hits, axis=2)
    precision = found / np.arange(1, hits.shape[2] + 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    recall = found / np.maximum(n_true, 1)[:, None, None]
    return (np.diff(recall, axis=2, prepend=0) * envelope).sum(axis=2)


def _match(overlap: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Greedy matching in ranked order: bool [Q, K, P] from the IoUs [Q, P, G].

    Few pairs of real data reach the lowest threshold, so the work is done on the queries that still have
    one."""
    n_queries, n_ranked, n_true = overlap.shape
    hits = np.zeros((n_queries, len(thresholds), n_ranked), bool)
    free = np.ones((n_queries, len(thresholds), n_true), bool)
    reaches = (overlap >= thresholds.min()).any(axis=2)  # [Q, P]
    for rank in range(n_ranked):
        rows = np.flatnonzero(reaches[:, rank])
        candidates = np.where(free[rows], overlap[rows, rank, None, :], -1.0)  # [rows, K, G]
        chosen = candidates.argmax(axis=2)
        best = np.take_along_axis(candidates, chosen[..., None], axis=2)[..., 0]
        row, level = np.nonzero(best >= thresholds)
        hits[rows[row], level, rank] = True
        free[rows[row], level, chosen[row, level]] = False
    return hits


def by_count(truth: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Queries with similar numbers of true windows: (rows [q], their windows [q, g, 2]) for few, more and many.

    Most queries have one window and a few have 25: apart, little work is done on padding. Windows keep their
    order; queries without any are in no group.
    """
    missing = np.isnan(truth[..., 0])
    truth = np.take_along_axis(truth, np.argsort(missing, axis=1, kind="stable")[..., None], axis=1)
    counts = (~missing).sum(axis=1)
    for fewest, most in ((1, 1), (2, 4), (5, truth.shape[1])):
        rows = np.flatnonzero((counts >= fewest) & (counts <= most))
        if len(rows):
            yield rows, truth[rows, :most]


def within_length(truth: np.ndarray, low_s: float, high_s: float) -> np.ndarray:
    """The true windows [Q, G, 2] whose length is in (low_s, high_s]; the others become padding."""
    length = truth[..., 1] - truth[..., 0]
    return np.where(((length > low_s) & (length <= high_s))[..., None], truth, np.nan)
