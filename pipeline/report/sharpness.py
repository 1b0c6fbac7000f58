"""How sharply saliency follows the true moments: its course across their borders, and its contrast.

Scores of different systems are on different scales, so each query's scores are first standardised over the clips of its
video: 0 is the mean of the video, 1 a standard deviation above it.

Dimensions: Q queries, S seeds, K offsets from a border in clips, the one just behind it being 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...manifests.schema import Moment
from ..evaluation.intervals import percentiles, resampled_means
from ..evaluation.pairing import Pairs
from .judged import Judged

REACH = 10
"""Clips shown on both sides of a border."""
OFFSETS = np.arange(-REACH, REACH)
ANNOTATORS = "annotators"
"""The name of the reference: the mean of the annotators' scores, treated alike."""

Interval = tuple[float, float, float]
"""Value, low, high."""


@dataclass(frozen=True)
class Profile:
    """One system's saliency around true moments, in standard deviations of a video's scores."""

    system: str
    queries: int
    """That have scored clips inside and outside of their true windows, and scores that are not all the same."""
    start: np.ndarray
    """[K, 3] mean, low and high at each offset from the start of a window; only its own clips count as inside, and
    only clips in no window as outside."""
    end: np.ndarray
    """[K, 3], the same around its end."""
    contrast: Interval
    """Mean inside less mean outside of the true windows."""
    rise: Interval | None
    """The step from the last clip before a window to its first; None where no window starts inside its video."""
    fall: Interval | None
    """The step from the last clip of a window to the first one after it."""


@dataclass(frozen=True)
class Sharpness:
    """All systems that score clips, the annotators last where there are some."""

    clip_seconds: float | None
    """Length of a clip; None where videos differ."""
    offsets: np.ndarray
    """int [K]: -REACH to REACH - 1."""
    profiles: tuple[Profile, ...]


def sharpness(judged: Judged, resamples: int, seed: int) -> Sharpness | None:
    """None where nobody scores clips or there are no true windows."""
    profiles = []
    for system in judged.systems:
        scores = [[p.saliency if p is not None else None for p in pairs.predictions] for pairs in system.pairs]
        profiles.append(_profile(system.name, judged.pairs, scores, resamples, seed))
    if any(profiles):
        rated = [
            None if q.saliency is None or not q.saliency.annotators else q.saliency.dense(clips).mean(1)
            for q, clips in zip(judged.queries, _clips_of(judged.pairs), strict=True)
        ]
        profiles.append(_profile(ANNOTATORS, judged.pairs, [rated], resamples, seed))
    found = tuple(profile for profile in profiles if profile is not None)
    lengths = np.unique(judged.pairs.clip_seconds)
    return Sharpness(float(lengths[0]) if len(lengths) == 1 else None, OFFSETS, found) if found else None


def standardised(scores: np.ndarray) -> np.ndarray | None:
    """Scores less their mean, in standard deviations; None where all are the same."""
    deviation = scores.std() if len(scores) else 0.0
    return (scores - scores.mean()) / deviation if deviation > 1e-9 * max(1.0, np.abs(scores).max()) else None


def around(z: np.ndarray, windows: Sequence[Moment], clip_seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over the windows of z [T] at each offset from their starts [K] and ends [K], and the contrast [1]; NaN
    where no clip counts."""
    centres = (np.arange(len(z)) + 0.5) * clip_seconds
    own = [np.flatnonzero((w.start_s <= centres) & (centres < w.end_s)) for w in windows]
    own = [clips for clips in own if len(clips)]
    inside = np.zeros(len(z), bool)
    for clips in own:
        inside[clips] = True
    at_start, at_end = np.full((2, len(own), len(OFFSETS)), np.nan)
    for i, clips in enumerate(own):
        first, behind = clips[0], clips[-1] + 1
        for row, at, before in ((at_start[i], first + OFFSETS, True), (at_end[i], behind + OFFSETS, False)):
            in_video = (at >= 0) & (at < len(z))
            outside = (at < first if before else at >= behind) & ~inside[at.clip(0, len(z) - 1)]
            usable = in_video & (outside | ((at >= first) & (at < behind)))
            row[usable] = z[at[usable]]
    contrast = float(z[inside].mean() - z[~inside].mean()) if inside.any() and not inside.all() else np.nan
    return _mean_of_rows(at_start), _mean_of_rows(at_end), np.array([contrast])


def _profile(
    name: str, pairs: Pairs, seeds: Sequence[Sequence[np.ndarray | None]], resamples: int, seed: int
) -> Profile | None:
    """Averages over seeds of each query first, then over queries."""
    k = len(OFFSETS)
    rows = np.full((len(seeds), len(pairs.queries), 2 * k + 1), np.nan)
    for s, scores in enumerate(seeds):
        for i, (query, given) in enumerate(zip(pairs.queries, scores, strict=True)):
            z = standardised(given) if given is not None and query.windows else None
            if z is not None:
                rows[s, i] = np.concatenate(around(z, query.windows, float(pairs.clip_seconds[i])))
    average = rows.mean(axis=0)
    counted = np.isfinite(average[:, -1])
    if not counted.any():
        return None
    start, end = average[:, :k], average[:, k : 2 * k]
    rise, fall = start[:, REACH] - start[:, REACH - 1], end[:, REACH - 1] - end[:, REACH]
    columns = np.column_stack([average, rise, fall])
    low, high = percentiles(resampled_means(columns, pairs.sources, resamples, seed))
    value = _mean_of_rows(columns)
    curve = np.stack([value, low, high], axis=1)

    def interval(at: int) -> Interval | None:
        return None if np.isnan(value[at]) else (float(value[at]), float(low[at]), float(high[at]))

    contrast = interval(2 * k)
    assert contrast is not None
    return Profile(
        name, int(counted.sum()), curve[:k], curve[k : 2 * k], contrast, interval(2 * k + 1), interval(2 * k + 2)
    )  # fmt: skip


def _mean_of_rows(rows: np.ndarray) -> np.ndarray:
    """Mean of each column over its numbers; NaN where there is none."""
    counts = np.isfinite(rows).sum(axis=0)
    sums = np.nansum(rows, axis=0)
    return np.divide(sums, counts, out=np.full(rows.shape[1], np.nan), where=counts > 0)


def _clips_of(pairs: Pairs) -> list[int]:
    """Whole clips of each video on the grid of the annotation; what is rated tells where the length is unknown."""
    out = []
    for query, duration_s, clip_seconds in zip(pairs.queries, pairs.duration_s, pairs.clip_seconds, strict=True):
        rated = max(query.saliency.clip_ids, default=-1) + 1 if query.saliency else 0
        out.append(max(1, rated if np.isnan(duration_s) else int(duration_s / clip_seconds)))
    return out
