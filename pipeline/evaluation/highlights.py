"""Highlight detection metrics: how well scores per clip rank the clips that annotators liked.

Dimensions: Q queries, A annotators, T clips (the longest video; what lies beyond a video's own clips is NaN
in scores and False in labels).

Sources: `average_precision` and `hit_at_1` are the QVHighlights protocol (arXiv 2107.09609);
`top_average_precision` is that of UMT (arXiv 2203.12745) on TVSum and YouTube Highlights, which QD-DETR,
UniVTG and CG-DETR share.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from ...manifests.schema import Saliency

BLOCK = 200_000  # labels worked on at once: their arrays stay in the cache, which halves the time
LEVELS = {"Fair": 0.5, "Good": 0.75, "VeryGood": 1.0}
"""A clip is positive from this share of the scale on: 2, 3 and 4 on QVHighlights' scale of 0 to 4."""


def labels(saliency: Sequence[Saliency], clips: np.ndarray) -> np.ndarray:
    """Which clips each annotator called Fair, Good, VeryGood or better: bool [Q, 3, A, T].

    saliency: Q of them, with the same number of annotators. clips: int [Q], how many clips each video has;
    ratings beyond are left out, clips without a rating are negative.
    """
    rated = np.array([len(s.clip_ids) for s in saliency], np.int64)
    annotators = max((s.annotators for s in saliency), default=0)
    row = np.repeat(np.arange(len(saliency)), rated)
    clip = np.fromiter(chain.from_iterable(s.clip_ids for s in saliency), np.int64, rated.sum())
    flat = chain.from_iterable(chain.from_iterable(s.scores for s in saliency))
    ratings = np.fromiter(flat, np.float64, rated.sum() * annotators).reshape(-1, annotators)
    inside = clip < clips[row]
    dense = np.full((len(saliency), annotators, max(1, clips.max(initial=0))), -np.inf)
    dense[row[inside], :, clip[inside]] = ratings[inside]
    low, high = np.array([s.low for s in saliency]), np.array([s.high for s in saliency])
    needed = low[:, None] + (high - low)[:, None] * np.array(list(LEVELS.values()))  # [Q, 3]
    return dense[:, None] >= needed[:, :, None, None]


def fit(scores: Sequence[np.ndarray], clips: np.ndarray) -> np.ndarray:
    """Q score lists of any length as float64 [Q, T], cut to each video's clips, short ones filled with 0."""
    out = np.full((len(scores), max(1, clips.max(initial=0))), np.nan)
    for row, values, n in zip(out, scores, clips, strict=True):
        row[:n] = 0.0
        row[: min(n, len(values))] = values[:n]
    return out


def average_precision(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Interpolated average precision of scores [Q, T] against each annotator's labels [Q, A, T]: [Q, A].

    One point of the precision-recall curve per distinct score; precision is the best at that recall or
    beyond; the mean is over the distinct recalls reached, so clips that tie count once together. No positive
    clip: 0; all: 1.
    """
    rows = max(1, BLOCK // max(1, positive[0].size if len(positive) else 1))
    blocks = [slice(start, start + rows) for start in range(0, len(scores), rows)]
    parts = [_average_precision(scores[block], positive[block]) for block in blocks]
    return np.concatenate(parts) if parts else np.zeros(positive.shape[:2])


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    order = np.argsort(-scores, axis=1, kind="stable")  # NaN, the padding, stays last
    ranked = np.take_along_axis(scores, order, axis=1)
    ends_tie = np.ones(ranked.shape, bool)
    ends_tie[:, :-1] = ranked[:, :-1] != ranked[:, 1:]

    # The R pairs of query and annotator that have a positive clip, clips along the first axis: numpy accumulates
    # along it several times faster than along the last.
    query, annotator = np.nonzero(positive.any(axis=2))
    ends = ends_tie.T[:, query]  # [T, R]
    found = np.cumsum(positive[query, annotator, order.T[:, query]], axis=0, dtype=np.int32)
    at_end = np.where(ends, found, 0)
    precision = at_end / np.arange(1, len(found) + 1)[:, None]
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    before = np.zeros_like(at_end)
    np.maximum.accumulate(at_end[:-1], axis=0, out=before[1:])
    gains = at_end > before  # where recall rises
    out = np.zeros(positive.shape[:2])
    out[query, annotator] = (envelope * gains).sum(axis=0) / gains.sum(axis=0)
    return out


def hit_at_1(scores: Sequence[np.ndarray], positive: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """1 where the highest of the scores as given is a clip that any annotator has positive at a level, else 0.

    scores: Q lists of any length; ties go to the first clip; a clip beyond the video's own is a miss. positive: bool
    [Q, levels, A, T]. Returns float64 [Q, levels].
    """
    top = np.array([values.argmax() if len(values) else -1 for values in scores], np.int64)
    inside = (top >= 0) & (top < clips)
    chosen = positive[np.arange(len(top)), :, :, np.where(inside, top, 0)]  # [Q, levels, A]
    return (chosen.any(axis=2) & inside[:, None]).astype(np.float64)


def top_average_precision(scores: np.ndarray, saliency: Saliency, top: int = 5) -> np.ndarray:
    """Average precision of one video's clip scores [any length] per annotator, trapezoidal: [A].

    Graded ratings (TVSum): positive above the annotator's own median (the lower one of an even number), and
    only the `top` highest scored clips count, recall being relative to the positives among them. Ratings of
    two levels by one annotator (YouTube Highlights): positive above the lowest, and all clips count. Clips
    without a score come last; ties go to the first clip. No positive clip in the list: 0.
    """
    clips = max(saliency.clip_ids, default=-1) + 1
    ratings = saliency.dense(clips).T  # [A, T]
    graded = saliency.annotators > 1 or len(np.unique(ratings)) > 2
    bar = np.sort(ratings, axis=1)[:, (clips - 1) // 2, None] if graded else saliency.low
    order = np.argsort(-scores[:clips], kind="stable")
    order = np.concatenate([order, np.arange(len(order), clips)])
    hits = (ratings > bar)[:, order[: top if graded else clips]]  # [A, ranks]
    found = np.cumsum(hits, axis=1)
    precision = found / np.arange(1, hits.shape[1] + 1)
    recall = found / np.maximum(found[:, -1:], 1)
    before = np.concatenate([np.ones((len(hits), 1)), precision[:, :-1]], axis=1)
    return (np.diff(recall, axis=1, prepend=0) * (before + precision) / 2).sum(axis=1)
