"""Evaluation: predictions and truth in, the official evaluators' numbers out.

Protocols
    qvhighlights  moments (R1, mAP, by window length, mIoU) and highlights (mAP, Hit@1 at three levels), in
    percent
                  with two decimals, under the official evaluator's keys
    charades      R@1 and R@5 at IoU 0.3, 0.5, 0.7, and mIoU, as fractions; TACoS too
    activitynet   the same numbers
    highlights    mean average precision of clip scores (TVSum: top 5), as a fraction

What the official evaluators do not say (intervals, counts, what was missing) is under the key `rdmf`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..manifests.schema import Manifest
from . import highlights, metrics
from .intervals import bootstrap_means
from .pairing import Pairs, pair
from .per_query import default_protocol, moment_scores, score_table
from .predictions import Prediction, clamp_windows, read_predictions, round_windows
from .truth import read_truth


@dataclass(frozen=True, eq=False)
class Results:
    """The numbers of one evaluation."""

    protocol: str
    metrics: dict[str, Any]
    """The official keys, in the official order; None where no query counts."""
    rdmf: dict[str, Any]
    """Ours: protocol, split, counts, missing queries, notes, intervals."""
    table: dict[str, np.ndarray]
    """What each query scored, see `per_query`."""

    def to_json(self) -> dict[str, Any]:
        """Official keys at the top level, ours under 'rdmf'."""
        return {**self.metrics, "rdmf": self.rdmf}


def evaluate(
    predictions: Sequence[Prediction],
    truth: Manifest,
    protocol: str | None = None,
    split: str | None = None,
    *,
    allow_missing: bool = False,
    clamp: bool = False,
    round_to_s: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Results:
    """Judge predictions by a manifest.

    protocol: see above; None takes the one that fits what the truth has. split: None takes the one that was
    predicted. allow_missing: queries without prediction count as wrong instead of being refused. clamp (to
    the video), round_to_s (to a grid): change the windows first, as the peers do on QVHighlights. resamples:
    of the intervals; 0: none. Raises ValueError saying what does not fit.
    """
    pairs = pair(predictions, truth, split, allow_missing)
    if clamp:
        lengths = {q.qid: s for q, s in zip(pairs.queries, pairs.duration_s, strict=True) if np.isfinite(s)}
        pairs = _changed(pairs, clamp_windows(predictions, lengths), "clamped to the video")
    if round_to_s is not None:
        kept = [p for p in pairs.predictions if p is not None]
        pairs = _changed(pairs, round_windows(kept, round_to_s), f"rounded to multiples of {round_to_s:g} s")
    protocol = default_protocol(pairs) if protocol is None else protocol
    table = score_table(pairs, protocol)
    if protocol == "qvhighlights":
        official = _qvhighlights(pairs, table)
    elif protocol == "highlights":
        official = {"mAP": _mean(table["top_ap"])}
    else:
        official = _recalls(table) | {"mIoU": _mean(table["iou"])}
    ours: dict[str, Any] = {
        "protocol": protocol,
        "dataset": pairs.dataset,
        "split": pairs.split,
        "counts": _counts(pairs, table),
        "missing": pairs.missing,
        "notes": pairs.notes + _notes(pairs, table),
    }
    if protocol == "qvhighlights" and "iou" in table:
        means = {"mIoU": _mean(table["iou"]), "mAP": _mean(table["ap"])}
        ours["fractions"] = _recalls(table) | means
    if resamples:
        ours["interval"] = f"95% bootstrap over videos, {resamples} resamples, seed {seed}; fractions"
        ours["intervals"] = _intervals(table, resamples, seed)
    return Results(protocol, official, ours, table)


def evaluate_files(
    predictions_path: Path | str,
    annotations_path: Path | str,
    protocol: str | None = None,
    split: str | None = None,
    dataset: str | None = None,
    **options: Any,
) -> Results:
    """`evaluate` on files: predictions as jsonl, annotations and `dataset` as `read_truth` takes them."""
    predictions = read_predictions(predictions_path)
    return evaluate(predictions, read_truth(annotations_path, dataset), protocol, split, **options)


def _qvhighlights(pairs: Pairs, table: dict[str, np.ndarray]) -> dict[str, Any]:
    """The official evaluator's dictionary, with CG-DETR's additions (R1 from 0.3, mIoU)."""
    brief: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    if "iou" in table:
        parts["full"] = _moments(table)
        for name, (low_s, high_s) in metrics.LENGTHS_S.items():
            true = metrics.within_length(pairs.true_windows, low_s, high_s)
            kept = np.isfinite(true[..., 0]).any(axis=1)
            parts[name] = _moments(moment_scores(pairs.predicted_windows[kept], true[kept]))
            brief[f"MR-{name}-mAP"] = parts[name]["MR-mAP"]["average"]
        full = parts["full"]
        brief |= {"MR-full-mAP": full["MR-mAP"]["average"], "MR-full-mIoU": full["MR-mIoU"]}
        brief |= {f"MR-full-mAP@{t}": full["MR-mAP"][t] for t in ("0.5", "0.75")}
        brief |= {f"MR-full-R1@{t}": full["MR-R1"][t] for t in ("0.3", "0.5", "0.7")}
        brief = dict(sorted(brief.items()))
    if "hl_ap" in table:
        for i, level in enumerate(highlights.LEVELS):
            scores = {"HL-mAP": _percent(table["hl_ap"][:, i]), "HL-Hit1": _percent(table["hl_hit1"][:, i])}
            parts[f"HL-min-{level}"] = scores
            brief |= {f"HL-min-{level}-{key[3:]}": value for key, value in scores.items()}
    return {"brief": brief, **dict(sorted(parts.items()))}


def _moments(scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """One length range of the official dictionary."""
    counted = scores["iou"][np.isfinite(scores["iou"])]
    ap = {f"{t:g}": _percent(scores["ap_by_threshold"][:, i]) for i, t in enumerate(metrics.AP_THRESHOLDS)}
    return {
        "MR-mIoU": _percent(counted),
        "MR-mAP": ap | {"average": _percent(scores["ap"])},
        "MR-R1": {f"{t:g}": _percent(counted >= t) for t in metrics.RECALL_THRESHOLDS},
    }


def _recalls(table: dict[str, np.ndarray]) -> dict[str, float | None]:
    """R@1 and R@5 at IoU 0.3, 0.5 and 0.7, as fractions."""
    out = {}
    for top, column in ((1, table["iou"]), (5, table["iou_at_5"])):
        for threshold in (0.3, 0.5, 0.7):
            out[f"R@{top}_IoU_{threshold}"] = _mean(_reached(column, threshold))
    return out


def _intervals(table: dict[str, np.ndarray], resamples: int, seed: int) -> dict[str, dict[str, float | None]]:
    """Value, low and high of the headline numbers."""
    columns: dict[str, np.ndarray] = {}
    if "iou" in table:
        for threshold in (0.5, 0.7):
            columns[f"R1@{threshold}"] = _reached(table["iou"], threshold)
        columns |= {"mIoU": table["iou"], "mAP": table["ap"]}
    if "hl_ap" in table:
        for i, level in enumerate(highlights.LEVELS):
            columns |= {f"HL-{level}-mAP": table["hl_ap"][:, i], f"HL-{level}-Hit1": table["hl_hit1"][:, i]}
    if "top_ap" in table:
        columns["top-mAP"] = table["top_ap"]
    low, high = bootstrap_means(np.stack(list(columns.values()), axis=1), table["vid"], resamples, seed)
    return {
        name: {"value": _mean(column), "low": _number(low[i]), "high": _number(high[i])}
        for i, (name, column) in enumerate(columns.items())
    }


def _counts(pairs: Pairs, table: dict[str, np.ndarray]) -> dict[str, int]:
    """How many queries there are, were predicted, and count for which metric."""
    counts = {
        "queries": len(pairs.queries),
        "videos": len(set(table["vid"].tolist())),
        "predicted": len(pairs.queries) - len(pairs.missing),
    }
    if "iou" in table:
        counts["moments"] = int(np.isfinite(table["iou"]).sum())
        for name, bounds in metrics.LENGTHS_S.items():
            kept = metrics.within_length(pairs.true_windows, *bounds)
            counts[name] = int(np.isfinite(kept[..., 0]).any(axis=1).sum())
    for column in ("hl_ap", "top_ap"):
        if column in table:
            counts["highlights"] = int(np.isfinite(table[column].reshape(len(pairs.queries), -1)[:, 0]).sum())
    return counts


def _notes(pairs: Pairs, table: dict[str, np.ndarray]) -> list[str]:
    """What a reader of the numbers should know, one sentence each."""
    found: list[tuple[int, str]] = []
    if "iou" in table:
        start, end = pairs.predicted_windows[..., 0], pairs.predicted_windows[..., 1]
        length = pairs.true_windows[..., 1] - pairs.true_windows[..., 0]
        empty = [p for p in pairs.predictions if p is not None and (p.windows is None or not len(p.windows))]
        found += [
            (np.isnan(table["iou"]).sum(), "queries have no true window, so are left out of moment metrics"),
            (len(empty), "predictions list no window and count as wrong"),
            ((start < 0).sum(), "predicted windows start before 0 s"),
            ((start == end).sum(), "predicted windows are empty (start = end) and overlap nothing"),
            ((end > pairs.duration_s[:, None]).sum(), "predicted windows end after the video"),
            ((length > 150).sum(), "true windows are longer than 150 s, so in no length range"),
        ]
    if "hl_ap" in table:
        clips = pairs.saliency_clips
        lists = [None if p is None else () if p.saliency is None else p.saliency for p in pairs.predictions]
        listed = np.array([-1 if scores is None else len(scores) for scores in lists])
        judged = (listed >= 0) & (clips > 0)
        found += [
            ((clips == 0).sum(), "queries have no saliency, so are left out of highlight metrics"),
            ((judged & (listed < clips)).sum(), "saliency lists are shorter than the video, filled with 0"),
            ((judged & (listed > clips)).sum(), "saliency lists are longer than the video and were cut"),
        ]
    return [f"{count} {text}" for count, text in found if count]


def _changed(pairs: Pairs, predictions: Sequence[Prediction], how: str) -> Pairs:
    by_qid = {prediction.qid: prediction for prediction in predictions}
    return replace(
        pairs,
        predictions=tuple(by_qid.get(query.qid) for query in pairs.queries),
        notes=[*pairs.notes, f"predicted windows were {how} before scoring"],
    )


def _reached(iou: np.ndarray, threshold: float) -> np.ndarray:
    """1 where the IoU reaches the threshold, 0 where not, NaN where the query does not count."""
    return np.where(np.isnan(iou), np.nan, iou >= threshold)


def _mean(values: np.ndarray) -> float | None:
    """Mean of the values that count; None if there is none."""
    counted = values[np.isfinite(values)]
    return float(counted.mean()) if counted.size else None


def _percent(values: np.ndarray) -> float | None:
    """The same in percent, rounded as the official evaluator does."""
    mean = _mean(values)
    return None if mean is None else float(f"{100 * mean:.2f}")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
