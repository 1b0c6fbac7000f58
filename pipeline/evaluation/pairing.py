"""Predictions beside the truth they are judged by: one row a query, in the order of the annotations.

Everything that could make two numbers incomparable is decided here, once: which split, which queries count,
what is missing. What is not refused is written into the notes of the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...manifests.folds import group_of
from ...manifests.schema import Manifest, Query
from . import metrics
from .predictions import Prediction


@dataclass(frozen=True, eq=False)
class Pairs:
    """Q queries of one split, each with its prediction."""

    dataset: str
    split: str
    queries: tuple[Query, ...]
    predictions: tuple[Prediction | None, ...]
    """None where a query was not predicted, which counts as wrong."""
    duration_s: np.ndarray
    """float64 [Q], NaN where unknown."""
    clip_seconds: np.ndarray
    """float64 [Q], a clip of the annotation's grid, or of the dataset's features where there is no saliency."""
    notes: list[str] = field(default_factory=list)

    @property
    def sources(self) -> np.ndarray:
        """[Q], the source video of each: what intervals resample, as segments of one are no independent draws."""
        return np.array([group_of(self.dataset, query.vid) for query in self.queries])

    @property
    def missing(self) -> list[str]:
        """Ids of the queries that were not predicted."""
        return [query.qid for prediction, query in self.rows() if prediction is None]

    @property
    def judges_moments(self) -> bool:
        """Whether there are predicted windows and true ones to compare."""
        predicted = any(p is not None and p.windows is not None for p in self.predictions)
        return predicted and any(q.windows for q in self.queries)

    @property
    def judges_highlights(self) -> bool:
        """Whether there are predicted clip scores and annotators' ones to compare."""
        predicted = any(p is not None and p.saliency is not None for p in self.predictions)
        return predicted and any(q.saliency is not None and q.saliency.annotators for q in self.queries)

    @cached_property
    def predicted_windows(self) -> np.ndarray:
        """[Q, P, 3] start, end, score as listed; NaN is padding."""
        none = np.empty((0, 3))
        rows = [none if p is None or p.windows is None else p.windows for p in self.predictions]
        return metrics.pad(rows, 3)

    @cached_property
    def true_windows(self) -> np.ndarray:
        """[Q, G, 2] start, end; NaN is padding."""
        rows = [np.array([(w.start_s, w.end_s) for w in q.windows]).reshape(-1, 2) for q in self.queries]
        return metrics.pad(rows, 2)

    @cached_property
    def score_counts(self) -> np.ndarray:
        """int64 [Q]: how many clip scores were predicted; -1 where the query has no list of them."""
        lists = [None if p is None else p.saliency for p in self.predictions]
        return np.array([-1 if scores is None else len(scores) for scores in lists], np.int64)

    @cached_property
    def saliency_clips(self) -> np.ndarray:
        """int64 [Q]: whole clips of the annotation's grid in each video, at least 1; 0 without saliency.

        Raises ValueError for a video of unknown duration."""
        out = np.zeros(len(self.queries), np.int64)
        for i, query in enumerate(self.queries):
            if query.saliency is not None and query.saliency.annotators:
                if np.isnan(self.duration_s[i]):
                    raise ValueError(
                        f"expected a duration of video {query.vid!r} in {self.dataset}, got none; highlight "
                        "metrics need it to count the clips"
                    )
                out[i] = max(1, int(self.duration_s[i] / query.saliency.clip_seconds))
        return out

    def rows(self) -> Iterator[tuple[Prediction | None, Query]]:
        """Each prediction with its query."""
        return zip(self.predictions, self.queries, strict=True)


def pair(
    predictions: Sequence[Prediction], truth: Manifest, split: str | None = None, allow_missing: bool = False
) -> Pairs:
    """Match predictions with the queries of one split by id.

    split: None takes the one that the predicted queries belong to. allow_missing: count a query without
    prediction as wrong instead of refusing. Raises ValueError for extra, duplicate or missing queries, for a
    prediction that names another video than the truth, and where only some predictions have windows or
    saliency scores.
    """
    by_qid: dict[str, Prediction] = {}
    for prediction in predictions:
        if prediction.qid in by_qid:
            raise ValueError(
                f"{prediction.origin}: expected one prediction a query, got a second one; keep one of them"
            )
        by_qid[prediction.qid] = prediction
    split = _split_of(by_qid, truth) if split is None else split
    queries = truth.split(split)
    known = {query.qid: query for query in queries}

    extra = [prediction for qid, prediction in by_qid.items() if qid not in known]
    if extra:
        raise ValueError(_about_extra(extra, len(by_qid), truth, split))
    for qid, prediction in by_qid.items():
        if prediction.vid and prediction.vid != known[qid].vid:
            raise ValueError(
                f"{prediction.origin}: expected video {known[qid].vid!r}, got {prediction.vid!r}; "
                "are these predictions for other annotations?"
            )
    _refuse_mixed(predictions)

    notes = []
    missing = [qid for qid in known if qid not in by_qid]
    if missing:
        if not allow_missing:
            raise ValueError(
                f"{file_of(predictions)}expected a prediction for each of the {len(known)} queries of {truth.dataset} "
                f"{split}, {len(missing)} are missing: {_some(missing)}; add them, or count them as wrong with "
                "--allow-missing"
            )
        notes.append(f"{len(missing)} of {len(known)} queries have no prediction and count as wrong")
    changed = Counter(finding.action for finding in truth.findings if finding.qid in known)
    notes += [f"reading the annotations: {count} times {action!r}" for action, count in changed.items()]
    durations = [truth.videos[query.vid].duration_s for query in queries]
    return Pairs(
        dataset=truth.dataset,
        split=split,
        queries=queries,
        predictions=tuple(by_qid.get(query.qid) for query in queries),
        duration_s=np.array([np.nan if d is None else d for d in durations], np.float64),
        clip_seconds=np.array([q.saliency.clip_seconds if q.saliency else truth.clip_seconds for q in queries]),
        notes=notes,
    )


def _split_of(by_qid: dict[str, Prediction], truth: Manifest) -> str:
    """The one split that the predicted queries belong to."""
    if len(truth.splits) == 1:
        return truth.splits[0]
    found = list(dict.fromkeys(query.split for query in truth.queries if query.qid in by_qid))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{file_of(list(by_qid.values()))}expected predictions for one split, got {', '.join(found)}; put each "
            "split into a file of its own"
        )
    raise ValueError(
        f"{file_of(list(by_qid.values()))}expected predictions for queries of {truth.dataset}, such as "
        f"{_some([query.qid for query in truth.queries])}, got {_some(list(by_qid)) or 'none'}; give the annotations "
        "that the predictions were made for"
    )


def _about_extra(extra: Sequence[Prediction], predicted: int, truth: Manifest, split: str) -> str:
    """What to say of predictions for queries that the split does not have."""
    elsewhere = {query.qid: query.split for query in truth.queries}
    splits = list(dict.fromkeys(elsewhere[p.qid] for p in extra if p.qid in elsewhere))
    if splits:
        advice = f"they are of split {' and '.join(splits)}: judge it with --split, or take them out"
    elif len(extra) == predicted:
        advice = "none is of this split: give the annotations that the predictions were made for"
    else:
        advice = "take them out, or give the annotations that they belong to"
    return (
        f"{extra[0].origin}: expected only queries of {truth.dataset} {split}, got {len(extra)} others: "
        f"{_some([p.qid for p in extra])}; {advice}"
    )


def _refuse_mixed(predictions: Sequence[Prediction]) -> None:
    """A file in which only some lines have windows (or scores) was put together wrongly."""
    for name in ("windows", "saliency"):
        without = [p for p in predictions if getattr(p, name) is None]
        if 0 < len(without) < len(predictions):
            what = "pred_relevant_windows" if name == "windows" else "pred_saliency_scores"
            raise ValueError(
                f"{without[0].origin}: expected {what} in every prediction or in none, "
                f"got {len(without)} of {len(predictions)} without; add them (an empty list of windows is one)"
            )


def file_of(predictions: Sequence[Prediction]) -> str:
    """'preds.jsonl: ' where the predictions were read from a file, to begin a sentence with."""
    source = next((p.source for p in predictions if p.source), "")
    return f"{source.rpartition(':')[0] or source}: " if source else ""


def _some(qids: Sequence[str], shown: int = 3) -> str:
    return ", ".join(repr(qid) for qid in qids[:shown]) + (", ..." if len(qids) > shown else "")
