"""The data of the query browser: every query with its truth and what each system says, small enough to embed.

Clip scores are written as one character a clip, its place in LEVELS being the score in 63rds of the scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..evaluation.groups import GROUPINGS
from ..evaluation.pairing import Pairs
from .calibration import listed_windows
from .judged import Judged, JudgedSystem

WINDOWS = 5
"""Predicted windows shown of each system."""
LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"


def browser_data(judged: Judged) -> dict[str, Any]:
    """JSON for `browser.js`.

    systems: name, number of seeds (the first is shown), whether clip scores are probabilities (otherwise they are
    scaled to each video's own range). queries: id, sentence, video, length in s or null, kind, seconds a clip, true
    windows [start, end, ...], annotators' scores ('' for none), and for each system its windows [start, end,
    confidence, IoU, ...], clip scores, and what it scored: the IoU of its first window, else the average precision of
    its clips.
    """
    pairs = judged.pairs
    kind_of = GROUPINGS["kind"][0]
    judged_by = next(name for name in ("iou", "top_ap", "hl_ap") if name in judged.results.table)
    shown = [_of_system(system, judged_by) for system in judged.systems]
    queries = []
    for i, (query, length) in enumerate(zip(pairs.queries, pairs.duration_s.tolist(), strict=True)):
        windows = [round(x, 2) for w in query.windows for x in (w.start_s, w.end_s)]
        queries.append([
            query.qid, query.text, query.vid, None if np.isnan(length) else round(length, 2), kind_of(query, length),
            round(float(pairs.clip_seconds[i]), 4), windows, _annotated(pairs, i), [each[i] for each in shown],
        ])  # fmt: skip
    return {
        "levels": LEVELS,
        "score": "IoU" if judged_by == "iou" else "AP",
        "systems": [[s.name, len(s.results), _are_probabilities(s.pairs[0])] for s in judged.systems],
        "queries": queries,
    }


def as_characters(scores: np.ndarray, low: float, high: float) -> str:
    """Scores on a scale as characters of LEVELS; all the lowest where the scale is a point."""
    share = (scores - low) / (high - low) if high > low else np.zeros(len(scores))
    return "".join(LEVELS[i] for i in np.rint(share.clip(0, 1) * (len(LEVELS) - 1)).astype(int).tolist())


def _of_system(system: JudgedSystem, judged_by: str) -> list[list[Any]]:
    """judged_by: the column of the table that says what a query scored; of levels, the last one."""
    pairs, table = system.pairs[0], system.results[0].table
    score = table[judged_by].reshape(len(pairs.queries), -1)[:, -1] if judged_by in table else None
    iou = listed_windows(pairs)[1]
    fixed = _are_probabilities(pairs)
    out: list[list[Any]] = []
    for i, (prediction, _) in enumerate(pairs.rows()):
        windows: list[float] = []
        scores = ""
        if prediction is not None and prediction.windows is not None:
            for (start, end, confidence), overlap in zip(prediction.windows[:WINDOWS].tolist(), iou[i], strict=False):
                found = 0.0 if np.isnan(overlap) else float(overlap)
                windows += [round(start, 2), round(end, 2), round(confidence, 3), round(found, 3)]
        if prediction is not None and prediction.saliency is not None and len(prediction.saliency):
            low, high = (0.0, 1.0) if fixed else (prediction.saliency.min(), prediction.saliency.max())
            scores = as_characters(prediction.saliency, float(low), float(high))
        known = score is not None and np.isfinite(score[i])
        out.append([windows, scores, round(float(score[i]), 4) if score is not None and known else None])
    return out


def _annotated(pairs: Pairs, i: int) -> str:
    """The annotators' mean as shares of their scale."""
    saliency, length = pairs.queries[i].saliency, pairs.duration_s[i]
    if saliency is None or not saliency.annotators:
        return ""
    rated = max(saliency.clip_ids, default=-1) + 1
    clips = rated if np.isnan(length) else max(1, int(length / saliency.clip_seconds))
    return as_characters(saliency.dense(clips).mean(1), saliency.low, saliency.high)


def _are_probabilities(pairs: Pairs) -> bool:
    scores = [p.saliency for p in pairs.predictions if p is not None and p.saliency is not None and len(p.saliency)]
    return bool(scores and min(s.min() for s in scores) >= 0 and max(s.max() for s in scores) <= 1)
