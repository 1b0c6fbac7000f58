"""What each query scored: the table that metrics, intervals and comparisons of two runs are means of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...manifests import DATASETS, PROTOCOLS
from ...manifests.schema import Manifest, Saliency
from . import highlights, metrics
from .pairing import Pairs, pair
from .predictions import Prediction


def per_query(
    predictions: Sequence[Prediction],
    truth: Manifest,
    split: str | None = None,
    protocol: str | None = None,
    allow_missing: bool = False,
) -> dict[str, np.ndarray]:
    """One row a query, in the order of the annotations; fractions; NaN where the query does not count.

    Always `qid`, `vid` and `source` [Q], the video that this one was cut from: what intervals resample. With moments:
    `iou` [Q] (best IoU of the first window), `iou_at_5` [Q] (best of the first five), `ap_by_threshold` [Q, 10],
    `ap` [Q] (its mean); under protocol qvhighlights also `iou_short`, `ap_short` and so on: the same against just the
    true windows of that length. With highlights under protocol qvhighlights: `hl_ap` and `hl_hit1` [Q, 3] (Fair,
    Good, VeryGood); under protocol highlights: `top_ap` [Q]. Raises ValueError as `pair` does, and where truth and
    predictions share nothing that the protocol judges. `columns` names the numbers that are means of these.
    """
    pairs = pair(predictions, truth, split, allow_missing)
    return score_table(pairs, default_protocol(pairs) if protocol is None else protocol)


def default_protocol(pairs: Pairs) -> str:
    """The protocol of a known dataset; for other data the QVHighlights one, unless only saliency is
    annotated."""
    if pairs.dataset in DATASETS:
        return DATASETS[pairs.dataset].protocol
    return "qvhighlights" if any(query.windows for query in pairs.queries) else "highlights"


def score_table(pairs: Pairs, protocol: str) -> dict[str, np.ndarray]:
    """See `per_query`."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"expected a protocol of {', '.join(PROTOCOLS)}, got {protocol!r}")
    table = {
        "qid": np.array([query.qid for query in pairs.queries]),
        "vid": np.array([query.vid for query in pairs.queries]),
        "source": pairs.sources,
    }
    known = len(table)
    if pairs.judges_moments and protocol != "highlights":
        ranked = metrics.ranking(pairs.predicted_windows)
        table |= moment_scores(pairs.predicted_windows, ranked, pairs.true_windows)
        if protocol == "qvhighlights":
            for name, bounds in metrics.LENGTHS_S.items():
                truth = metrics.within_length(pairs.true_windows, *bounds)
                scores = moment_scores(pairs.predicted_windows, ranked, truth)
                table |= {f"{column}_{name}": values for column, values in scores.items()}
    if pairs.judges_highlights and protocol == "qvhighlights":
        table["hl_ap"], table["hl_hit1"] = _highlight_scores(pairs)
    if pairs.judges_highlights and protocol == "highlights":
        table["top_ap"] = np.array([_top_ap(p, q.saliency) for p, q in pairs.rows()])
    if len(table) == known:
        needed = {"qvhighlights": "windows or saliency scores", "highlights": "saliency scores"}
        raise ValueError(
            f"protocol {protocol!r} judges {needed.get(protocol, 'windows')}, which the predictions and "
            f"{pairs.dataset} {pairs.split} do not both have"
        )
    return table


def moment_scores(listed: np.ndarray, ranked: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """`iou`, `iou_at_5`, `ap_by_threshold` and `ap` of windows [Q, P, 3], as listed and as ranked, and true ones
    [Q, G, 2]; NaN without true windows."""
    best = np.full((len(truth), min(5, listed.shape[1])), np.nan)
    ap = np.full((len(truth), len(metrics.AP_THRESHOLDS)), np.nan)
    for rows, windows in metrics.by_count(truth):
        best[rows] = metrics.best_iou(listed[rows, :5, :2], windows)
        ap[rows] = metrics.average_precision(ranked[rows], windows)
    return {"iou": best[:, 0], "iou_at_5": best.max(axis=1), "ap_by_threshold": ap, "ap": ap.mean(axis=1)}


def _highlight_scores(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Average precision (mean of the annotators) and Hit@1 at the three levels: [Q, 3] each."""
    ap, hit = np.full((2, len(pairs.queries), len(highlights.LEVELS)), np.nan)
    annotators = np.array([q.saliency.annotators if q.saliency is not None else 0 for q in pairs.queries])
    for number in np.unique(annotators[annotators > 0]):
        at = np.flatnonzero(annotators == number)
        saliency = [s for i in at if (s := pairs.queries[i].saliency) is not None]
        clips = pairs.saliency_clips[at]
        listed = [_scores(pairs.predictions[i]) for i in at]
        missing = np.array([pairs.predictions[i] is None for i in at])
        positive = highlights.labels(saliency, clips)  # [q, 3, A, T]
        flat = positive.reshape(len(at), -1, positive.shape[-1])
        found = highlights.average_precision(highlights.fit(listed, clips), flat)
        ap[at] = found.reshape(positive.shape[:3]).mean(axis=2)
        hit[at] = highlights.hit_at_1(listed, positive, clips)
        ap[at[missing]] = 0.0
    return ap, hit


def _top_ap(prediction: Prediction | None, saliency: Saliency | None) -> float:
    if saliency is None or not saliency.annotators:
        return float("nan")
    if prediction is None:
        return 0.0
    return float(highlights.top_average_precision(_scores(prediction), saliency).mean())


def _scores(prediction: Prediction | None) -> np.ndarray:
    return np.empty(0) if prediction is None or prediction.saliency is None else prediction.saliency
