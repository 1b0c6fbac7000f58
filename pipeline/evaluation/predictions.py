"""Predictions: the QVHighlights submission form, one JSON record a query, read strictly and written exactly.

    {"qid": 2579, "query": "...", "vid": "...", "pred_relevant_windows": [[start_s, end_s, score], ...],
     "pred_saliency_scores": [score of clip 0, score of clip 1, ...]}

The order of the windows is the ranking for recall; their scores are the ranking for average precision.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...manifests.files import atomic_file
from ...manifests.records import Record, identifier, json_records, listed, located, problem, shown

WINDOW_KEYS = ("pred_relevant_windows", "ranked_predicted_windows")
"""Names of the list of windows: the submission form's own, and the one of a public Charades-STA
evaluation."""
SALIENCY_KEY = "pred_saliency_scores"


@dataclass(frozen=True, eq=False, slots=True)
class Prediction:
    """What a model says about one query."""

    qid: str
    windows: np.ndarray | None
    """float64 [n, 3]: start and end in seconds, score; best first. None: the model does not retrieve
    moments."""
    saliency: np.ndarray | None = None
    """float64 [clips], higher is better, on the grid of the truth. None: the model does not score clips."""
    query: str = ""
    """The sentence; empty where the file does not say."""
    vid: str = ""
    """The video; empty where the file does not say. Checked against the truth otherwise."""
    source: str = ""
    """File name and line it came from, for messages."""

    def __post_init__(self) -> None:
        if self.windows is None and self.saliency is None:
            raise ValueError(f"expected windows or saliency scores for query {self.qid!r}, got neither")
        if self.windows is not None:
            windows = np.asarray(self.windows, np.float64)
            windows = windows if windows.size else np.empty((0, 3))
            object.__setattr__(self, "windows", windows)
            if windows.ndim != 2 or windows.shape[1] != 3:
                raise ValueError(f"expected windows [n, 3] for query {self.qid!r}, got {windows.shape}")
            # A regressed start may be a little below 0 and a rounded window empty: published files have both.
            bad = ~np.isfinite(windows).all(axis=1) | (windows[:, 0] > windows[:, 1]) | (windows[:, 1] < 0)
            if bad.any():
                raise ValueError(
                    "expected windows [start, end, score] of finite numbers with start <= end and end >= 0 s "
                    f"for query {self.qid!r}, got [{', '.join(f'{v:g}' for v in windows[bad.argmax()])}]; "
                    "times are seconds from the start of the video, the start comes first"
                )
        if self.saliency is not None:
            scores = np.asarray(self.saliency, np.float64)
            object.__setattr__(self, "saliency", scores)
            if scores.ndim != 1 or not np.isfinite(scores).all():
                raise ValueError(
                    f"expected finite saliency scores, one per clip, for query {self.qid!r}, got "
                    + (f"{scores[~np.isfinite(scores)][0]}" if scores.ndim == 1 else f"an array {scores.shape}")
                    + "; a model that gives such scores has diverged, or the list is nested"
                )

    @property
    def origin(self) -> str:
        """Where it came from, as messages name it."""
        return f"{self.source} (query {self.qid!r})" if self.source else f"query {self.qid!r}"

    def record(self) -> dict[str, Any]:
        """The JSON record; an id that is a plain number becomes one, as the official evaluator expects."""
        qid = int(self.qid) if self.qid.isdecimal() and str(int(self.qid)) == self.qid else self.qid
        out: dict[str, Any] = {"qid": qid, "query": self.query, "vid": self.vid}
        if self.windows is not None:
            out[WINDOW_KEYS[0]] = self.windows.tolist()
        if self.saliency is not None:
            out[SALIENCY_KEY] = self.saliency.tolist()
        return out


def read_predictions(path: Path | str) -> tuple[Prediction, ...]:
    """All predictions of a jsonl file. Raises ValueError of one sentence that names the file and line."""
    first: dict[str, str] = {}
    out = []
    for record in json_records(Path(path)):
        prediction = parse_prediction(record)
        if prediction.qid in first:
            got = f"{prediction.qid!r} again, after {first[prediction.qid]}"
            raise problem(record.source, "one prediction a query", got, "keep one of them")
        first[prediction.qid] = record.source
        out.append(prediction)
    return tuple(out)


def parse_prediction(record: Record) -> Prediction:
    """One prediction from a JSON record. Raises AnnotationError naming file and line."""
    source = record.source
    qid = identifier(record.required("qid"), "a qid", source)
    texts = {key: record.values.get(key, "") for key in ("query", "vid")}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise problem(source, f"{key} as text", shown(text))
    named = [key for key in WINDOW_KEYS if key in record.values]
    if len(named) > 1:
        raise problem(source, "one list of windows", " and ".join(named), "keep one of them")
    windows, scores = None, None
    for key in named:
        rows = listed(record.get(key), key, source)
        for row in rows:
            if not isinstance(row, list) or len(row) != 3:
                raise problem(source, f"[start, end, score] in {key}", shown(row))
            _check_numbers(row, key, source)
        windows = np.array(rows, np.float64)
    if SALIENCY_KEY in record.values:
        values = listed(record.get(SALIENCY_KEY), SALIENCY_KEY, source)
        _check_numbers(values, SALIENCY_KEY, source)
        scores = np.array(values, np.float64)
    with located(source):
        return Prediction(qid, windows, scores, texts["query"], texts["vid"], source)


def _check_numbers(values: list[Any], key: str, source: str) -> None:
    for value in values:
        if type(value) is not float and (type(value) is not int or abs(value) > 1e300):
            raise problem(source, f"numbers in {key}", shown(value))


def write_predictions(predictions: Iterable[Prediction], path: Path | str) -> None:
    """Write the submission form, whole or not at all."""
    lines = (json.dumps(prediction.record(), ensure_ascii=False) + "\n" for prediction in predictions)
    with atomic_file(Path(path)) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
