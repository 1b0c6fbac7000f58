"""Does the confidence of the first window predict its IoU?

Dimensions: N first windows (of all queries and seeds), B bins.

reliability   mean IoU of the windows in bins of equal size by confidence
ECE           expected calibration error: sum over bins of n_b / N |mean confidence - mean IoU|
gap           mean confidence - mean IoU: above 0 is over-confident
Spearman      rank correlation of confidence and IoU; ranks are taken once, then videos are resampled
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation import metrics
from ..evaluation.columns import reached
from ..evaluation.intervals import percentiles, resampled_means
from ..evaluation.pairing import Pairs, pair
from .judged import Judged, Opened, Say

BINS = 10
FEWEST = 20
"""With fewer windows there is nothing to say."""
PARTS = {"p": 0.0, "iou": 1.0}
"""Confidences that are not a mixture, and the lambda of c = (1 - lambda) p + lambda iou that gives them."""


@dataclass(frozen=True)
class Reliability:
    """One confidence of one system."""

    system: str
    of: str
    """'c', the final confidence; of runs with an IoU head also 'p', class probability alone, and 'iou', the head alone.
    Each ranks the windows anew, so the first windows differ."""
    windows: int
    queries: int
    """First windows that count, one for each query and seed, and the queries they are about."""
    confidence: np.ndarray
    """[B], means of the bins; with `iou`, `low` and `high`, the mean IoU and its 95% interval."""
    rank: np.ndarray
    """[B], the share of first windows with a lower confidence, at the middle of the bin."""
    iou: np.ndarray
    low: np.ndarray
    high: np.ndarray
    spearman: tuple[float, float, float] | None
    """Value, low, high; None where confidence or IoU is constant."""
    spearman_listed: float | None
    """The same correlation over all listed windows."""
    error: float | None
    """ECE as a fraction; None where some confidence is outside [0, 1]."""
    gap: tuple[float, float, float] | None
    """Value, low, high as fractions; None where `error` is."""
    r1: float
    """R1@0.5 under this confidence."""


def reliabilities(judged: Judged, resamples: int, seed: int, say: Say) -> list[Reliability]:
    """The final confidence of every system, and the parts it is made of for runs with an IoU head."""
    out = []
    for system in judged.systems:
        found = [reliability(system.name, "c", system.pairs, resamples, seed)]
        if system.runs and all(run.info.config.model.moment.iou for run in system.runs):
            for part, share in PARTS.items():
                if all(run.info.config.model.moment.iou_share != share for run in system.runs):
                    say(f"{system.name}: asking for {part} alone")
                    pairs = [_asked_with(run, share, judged) for run in system.runs]
                    found.append(reliability(system.name, part, pairs, resamples, seed))
        out += [each for each in found if each is not None]
    return out


def reliability(
    system: str, of: str, seeds: Sequence[Pairs], resamples: int = 1000, seed: int = 0
) -> Reliability | None:
    """None where fewer than FEWEST first windows have a confidence and a truth."""
    listed = [listed_windows(pairs) for pairs in seeds]
    confidence = np.concatenate([c[:, 0] for c, _ in listed])
    iou = np.concatenate([found[:, 0] for _, found in listed])
    source = np.concatenate([pairs.sources for pairs in seeds])
    qid = np.concatenate([[query.qid for query in pairs.queries] for pairs in seeds])
    counted = np.isfinite(confidence) & np.isfinite(iou)
    confidence, iou, source, qid = confidence[counted], iou[counted], source[counted], qid[counted]
    if len(iou) < FEWEST:
        return None
    bins = quantile_bins(confidence)
    inside = np.arange(bins.max() + 1) == bins[:, None]  # [N, B]
    means = resampled_means(np.where(inside, iou[:, None], np.nan), source, resamples, seed)
    low, high = percentiles(means)
    probabilities = bool(confidence.min() >= 0 and confidence.max() <= 1)
    difference = resampled_means((confidence - iou)[:, None], source, resamples, seed)
    ends = [float(end[0]) for end in percentiles(difference)]
    error = float(np.abs((inside * (confidence - iou)[:, None]).mean(0)).sum())
    every = [np.concatenate([part[k].ravel() for part in listed]) for k in (0, 1)]
    both = np.isfinite(every[0]) & np.isfinite(every[1])
    all_listed = spearman(every[0][both], every[1][both])
    return Reliability(
        system, of, len(iou), len(np.unique(qid)),
        np.array([confidence[column].mean() for column in inside.T]),
        (np.cumsum(inside.sum(0)) - inside.sum(0) / 2) / len(iou),
        np.array([iou[column].mean() for column in inside.T]), low, high,
        _spearman_with_interval(confidence, iou, source, resamples, seed), all_listed,
        error if probabilities else None,
        (float((confidence - iou).mean()), ends[0], ends[1]) if probabilities else None,
        float(reached(iou, 0.5).mean()),
    )  # fmt: skip


def listed_windows(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and best IoU of every listed window [Q, P]; NaN at padding, the IoU also without true windows."""
    confidence = pairs.predicted_windows[..., 2]
    best = np.full(confidence.shape, np.nan)
    for rows, truth in metrics.by_count(pairs.true_windows):
        best[rows] = metrics.best_iou(pairs.predicted_windows[rows, :, :2], truth)
    return confidence, np.where(np.isfinite(confidence), best, np.nan)


def quantile_bins(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin of each of N values, 0 first; of about equal size, equal values in the same one, none empty."""
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1]


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Rank correlation of two lists; None where one is constant."""
    x, y = _centred_ranks(a), _centred_ranks(b)
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / scale if scale > 0 else None


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks less their mean; equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return ranks - ranks.mean()


def _spearman_with_interval(
    a: np.ndarray, b: np.ndarray, vid: np.ndarray, resamples: int, seed: int
) -> tuple[float, float, float] | None:
    value = spearman(a, b)
    if value is None:
        return None
    x, y = _centred_ranks(a), _centred_ranks(b)
    mean_x, mean_y, xx, yy, xy = resampled_means(np.stack([x, y, x * x, y * y, x * y], 1), vid, resamples, seed).T
    spread = (xx - mean_x**2) * (yy - mean_y**2)
    found = np.divide(xy - mean_x * mean_y, np.sqrt(spread.clip(0)), out=np.full(len(xy), np.nan), where=spread > 0)
    low, high = percentiles(found[:, None])
    return value, float(low[0]), float(high[0])


def _asked_with(run: Opened, share: float, judged: Judged) -> Pairs:
    """The run's predictions with another lambda, on the judged queries."""
    from ..inference import predict_dataset  # imports torch

    asked = {query.qid for query in judged.queries}
    predictions = predict_dataset(run.model, run.dataset, share, run.info.max_clips)
    return pair([p for p in predictions if p.qid in asked], judged.truth, allow_missing=True)
