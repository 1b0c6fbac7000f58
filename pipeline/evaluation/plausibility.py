"""Predictions from a file that would give a number, but hardly the one that was meant: named before they are judged.

Times in another unit than seconds, and lists of clip scores on another grid than the annotation's, pass every check of
form. Both are told by what they would mean.
"""

from __future__ import annotations

import numpy as np

from . import metrics
from .pairing import Pairs, file_of

UNITS = ("seconds", "clips", "fractions", "milliseconds")
"""What times may be given in; fractions are of the length of the video."""
FEWEST = 10
"""Queries with windows; of fewer nothing is concluded."""
BEYOND, SHARE = 1.05, 0.05
"""If the unit is right, windows end before this share of the video (and one unit), but for a few queries."""
GAIN, MARGIN = 1.5, 0.1
"""A unit is suspected when the IoU under it is so many times, and so much more than, that of the times as they are."""
CLIPS_OFF = 2
"""A list of scores may be this much longer or shorter than the video has clips (tails differ), or a quarter of it."""


def seconds_per_unit(pairs: Pairs, unit: str) -> np.ndarray:
    """float64 [Q], NaN where a length is unknown. Raises ValueError for a unit that is none of UNITS."""
    ones = np.ones(len(pairs.queries))
    known = {"seconds": ones, "clips": pairs.clip_seconds, "fractions": pairs.duration_s, "milliseconds": ones / 1000}
    if unit not in known:
        raise ValueError(f"expected times in {', '.join(UNITS)}, got {unit!r}")
    return known[unit]


def check_unit(pairs: Pairs) -> None:
    """Raise ValueError where nearly all windows lie in their videos, and fit the truth far better, in another unit."""
    judged = np.isfinite(pairs.predicted_windows[:, 0, 0]) & np.isfinite(pairs.true_windows[:, 0, 0])
    judged &= np.isfinite(pairs.duration_s)
    if judged.sum() < FEWEST:
        return
    times, truth = pairs.predicted_windows[judged, :5, :2], pairs.true_windows[judged]
    end, duration_s = pairs.predicted_windows[judged, :, 1], pairs.duration_s[judged]
    as_given = None
    for unit in UNITS[1:]:
        seconds = seconds_per_unit(pairs, unit)[judged]
        beyond = np.nanmax(end, axis=1) * seconds > BEYOND * duration_s + seconds
        if beyond.mean() > SHARE:
            continue
        as_given = _fit(times, truth) if as_given is None else as_given
        fits = _fit(times * seconds[:, None, None], truth)
        if fits >= max(GAIN * as_given, as_given + MARGIN):
            file = file_of([p for p in pairs.predictions if p is not None])
            raise ValueError(
                f"{file}expected windows in seconds, got times that look like {unit}: read so, they lie in their "
                f"videos and the best of the first five has an IoU of {fits:.2f} on average, against "
                f"{as_given:.2f} in seconds; say which with --times-in {unit} or --times-in seconds"
            )


def check_score_counts(pairs: Pairs, protocol: str) -> None:
    """Raise ValueError where a list of clip scores is far from having one for each clip of the video.

    Under protocol highlights a list may also stop with the labels, of which there is one a clip."""
    clips = pairs.duration_s / pairs.clip_seconds
    if protocol == "highlights":
        last = [max(q.saliency.clip_ids, default=-1) if q.saliency else -1 for q in pairs.queries]
        labels = np.array(last) + 1.0
        fewest, most = np.fmin(labels, clips), np.fmax(labels, clips)
    else:
        fewest = most = clips
    given = pairs.score_counts
    short = given < np.minimum(0.75 * fewest, fewest - CLIPS_OFF)
    long = given > np.maximum(1.25 * most, most + CLIPS_OFF)
    wrong = np.flatnonzero((given >= 0) & (short | long) & [q.saliency is not None for q in pairs.queries])
    if len(wrong):
        first = wrong[0]
        prediction = pairs.predictions[first]
        assert prediction is not None
        raise ValueError(
            f"{prediction.origin}: expected about {most[first]:.0f} saliency scores, one for each clip of "
            f"{pairs.clip_seconds[first]:g} s, got {given[first]} ({len(wrong)} such lists); score the clips of the "
            "annotation's grid"
        )


def _fit(times: np.ndarray, truth: np.ndarray) -> float:
    """Mean over queries of the best IoU of any listed window [q, P, 2] with any true one [q, G, 2]."""
    best = np.zeros(len(times))
    for rows, windows in metrics.by_count(truth):
        best[rows] = metrics.best_iou(times[rows], windows).max(axis=1)
    return float(best.mean())
