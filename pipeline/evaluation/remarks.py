"""What a reader of the numbers should know: how many queries count for what, and whatever was odd about the input."""

from __future__ import annotations

import numpy as np

from . import metrics
from .pairing import Pairs


def counts(table: dict[str, np.ndarray], missing: int = 0) -> dict[str, int]:
    """How many queries there are, were predicted, and count for which metric."""
    out = {
        "queries": len(table["qid"]),
        "videos": len(np.unique(table["vid"])),
        "predicted": len(table["qid"]) - missing,
    }
    for name, column in (("moments", "iou"), *((length, f"iou_{length}") for length in metrics.LENGTHS_S)):
        if column in table:
            out[name] = int(np.isfinite(table[column]).sum())
    for column in ("hl_ap", "top_ap"):
        if column in table:
            out["highlights"] = int(np.isfinite(table[column].reshape(len(table["qid"]), -1)[:, 0]).sum())
    return out


def notes(pairs: Pairs, table: dict[str, np.ndarray]) -> list[str]:
    """One sentence for each thing that was found."""
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
        clips, listed = pairs.saliency_clips, pairs.score_counts
        judged = (listed >= 0) & (clips > 0)
        found += [
            ((clips == 0).sum(), "queries have no saliency, so are left out of highlight metrics"),
            ((judged & (listed < clips)).sum(), "saliency lists are shorter than the video, filled with 0"),
            ((judged & (listed > clips + _unfinished(pairs))).sum(), "saliency lists are longer than the video, cut"),
        ]
    return [f"{count} {text}" for count, text in found if count]


def _unfinished(pairs: Pairs) -> np.ndarray:
    """int64 [Q]: 1 where a video ends within a clip: lists rightly have that clip, the protocol leaves it out."""
    seconds = np.array([1.0 if q.saliency is None else q.saliency.clip_seconds for q in pairs.queries])
    rest = np.mod(pairs.duration_s, seconds)
    return ((rest > 1e-3) & (seconds - rest > 1e-3)).astype(np.int64)
