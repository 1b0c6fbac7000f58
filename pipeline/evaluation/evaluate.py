"""Evaluation: predictions and truth in, the official evaluators' numbers out.

Protocols (see `official`)
    qvhighlights  moments and highlights, in percent with two decimals, under the official evaluator's keys
    charades      R@1 and R@5 at IoU 0.3, 0.5, 0.7, and mIoU, as fractions; TACoS too
    activitynet   the same numbers
    highlights    mean average precision of clip scores (TVSum: top 5), as a fraction

What the official evaluators do not say (intervals, groups, counts, what was missing) is under the key `rdmf`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...manifests.schema import Manifest
from . import plausibility, remarks
from .columns import columns, mean, select
from .groups import by_group, groups_of
from .intervals import RESAMPLES, intervals
from .official import official_numbers, recalls
from .pairing import Pairs, pair
from .per_query import default_protocol, score_table
from .post_processing import clamp_windows, convert_windows, round_windows, suppress_windows
from .predictions import Prediction, read_predictions
from .truth import read_truth


@dataclass(frozen=True, eq=False)
class Results:
    """The numbers of one evaluation."""

    protocol: str
    metrics: dict[str, Any]
    """The official keys, in the official order; None where no query counts."""
    rdmf: dict[str, Any]
    """Ours: protocol, split, counts, missing queries, notes, intervals, groups."""
    table: dict[str, np.ndarray]
    """What each query scored, see `per_query`."""
    predictions: tuple[Prediction, ...] = ()
    """What was judged, after whatever changed it, in the order of the annotations."""

    @property
    def numbers(self) -> dict[str, float | None]:
        """Every named number as a fraction, see `columns`."""
        return {name: mean(column) for name, column in columns(self.table).items()}

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
    trusted: bool = False,
    times_in: str | None = None,
    clamp: bool = False,
    round_to_s: float | None = None,
    nms_threshold: float | None = None,
    by: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Results:
    """Judge predictions by a manifest.

    protocol: see above; None takes the one that fits what the truth has. split: None takes the one that was
    predicted. allow_missing: queries without prediction count as wrong instead of being refused. trusted: rdmf
    made the predictions, so their units are not doubted. times_in: the unit of their times; None expects seconds
    and refuses what looks like another. clamp (to the video), round_to_s (to a grid), nms_threshold (suppress
    windows of a higher IoU with a better one): change the windows first. by: groupings to report too, see
    `groups`. resamples: of the intervals; 0: none. Raises ValueError saying what does not fit.
    """
    pairs = pair(predictions, truth, split, allow_missing)
    protocol = default_protocol(pairs) if protocol is None else protocol
    if not trusted:
        plausibility.check_score_counts(pairs, protocol)
        if times_in is None and protocol != "highlights":
            plausibility.check_unit(pairs)
    pairs = _post_processed(pairs, times_in, clamp, round_to_s, nms_threshold)
    table = score_table(pairs, protocol)
    ours: dict[str, Any] = {
        "protocol": protocol,
        "dataset": pairs.dataset,
        "split": pairs.split,
        "counts": remarks.counts(table, len(pairs.missing)),
        "missing": pairs.missing,
        "notes": pairs.notes + remarks.notes(pairs, table),
    }
    if protocol == "qvhighlights" and "iou" in table:
        ours["fractions"] = recalls(table) | {"mIoU": mean(table["iou"]), "mAP": mean(table["ap"])}
    if protocol == "highlights":
        ours["by_sentence"] = _by_sentence(pairs, table)
    if resamples:
        ours["interval"] = f"95% bootstrap over source videos, {resamples} resamples, seed {seed}; fractions"
        ours["intervals"] = intervals(columns(table), table["source"], resamples, seed)
    for name in by:
        groups, order = groups_of(pairs.queries, pairs.duration_s, name)
        found = by_group(table, groups, order, resamples, seed)
        ours.setdefault("groups", {})[name] = {group: numbers.to_json() for group, numbers in found.items()}
    judged = tuple(p for p in pairs.predictions if p is not None)
    return Results(protocol, official_numbers(table, protocol), ours, table, judged)


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


def _post_processed(
    pairs: Pairs, times_in: str | None, clamp: bool, round_to_s: float | None, nms_threshold: float | None
) -> Pairs:
    """The pairs with their windows changed as asked, each change noted."""
    if times_in is not None and times_in != "seconds":
        seconds = _by_qid(pairs, plausibility.seconds_per_unit(pairs, times_in))
        kept = [p for p in pairs.predictions if p is not None]
        unknown = [p for p in kept if p.qid not in seconds]
        if unknown:
            raise ValueError(f"{unknown[0].origin}: expected a video of known length to read {times_in}, got none")
        pairs = _changed(pairs, convert_windows(kept, seconds), f"converted from {times_in} to seconds")
    kept = [p for p in pairs.predictions if p is not None]
    if clamp:
        kept = clamp_windows(kept, _by_qid(pairs, pairs.duration_s))
        pairs = _changed(pairs, kept, "clamped to the video")
    if round_to_s is not None:
        kept = round_windows(kept, round_to_s)
        pairs = _changed(pairs, kept, f"rounded to multiples of {round_to_s:g} s")
    if nms_threshold is not None:
        kept = suppress_windows(kept, nms_threshold)
        pairs = _changed(pairs, kept, f"thinned by non-maximum suppression at IoU {nms_threshold:g}")
    return pairs


def _changed(pairs: Pairs, predictions: Sequence[Prediction], how: str) -> Pairs:
    by_qid = {prediction.qid: prediction for prediction in predictions}
    return replace(
        pairs,
        predictions=tuple(by_qid.get(query.qid) for query in pairs.queries),
        notes=[*pairs.notes, f"predicted windows were {how} before scoring"],
    )


def _by_qid(pairs: Pairs, values: np.ndarray) -> Mapping[str, float]:
    """The known ones of Q values by query id."""
    return {q.qid: float(v) for q, v in zip(pairs.queries, values, strict=True) if np.isfinite(v)}


def _by_sentence(pairs: Pairs, table: dict[str, np.ndarray]) -> dict[str, Any]:
    """mAP of each sentence and the mean of them.

    The sentence of a YouTube Highlights video is its domain, for which the peers report a number each, and their
    mean. TVSum's videos have a sentence each (and a domain each in the peers' validation split)."""
    sentences = np.array([query.text for query in pairs.queries], dtype=object)
    found = {text: mean(select(table, sentences == text)["top_ap"]) for text in dict.fromkeys(sentences.tolist())}
    counted = [value for value in found.values() if value is not None]
    return {"mAP": found, "mean": float(np.mean(counted)) if counted else None}
