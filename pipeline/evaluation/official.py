"""The official evaluators' own dictionaries, key by key, from the table of `per_query`.

qvhighlights           in percent with two decimals: moments (R1, mAP, by window length, mIoU) and highlights (mAP,
                       Hit@1 at three levels); Moment-DETR's keys and what CG-DETR added (R1 from 0.3, mIoU)
charades, activitynet  R@1 and R@5 at IoU 0.3, 0.5, 0.7, and mIoU, as fractions; TACoS too
highlights             mean average precision of clip scores over videos (TVSum: top 5), as a fraction
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import highlights, metrics
from .columns import RECALL_IOUS, mean, reached


def official_numbers(table: dict[str, np.ndarray], protocol: str) -> dict[str, Any]:
    """The dictionary of a protocol, in the official order; None where no query counts."""
    if protocol == "qvhighlights":
        return _qvhighlights(table)
    if protocol == "highlights":
        return {"mAP": mean(table["top_ap"])}
    return recalls(table) | {"mIoU": mean(table["iou"])}


def recalls(table: dict[str, np.ndarray]) -> dict[str, float | None]:
    """R@1 and R@5 at IoU 0.3, 0.5 and 0.7, as fractions."""
    tops = ((1, table["iou"]), (5, table["iou_at_5"]))
    return {f"R@{top}_IoU_{t}": mean(reached(column, t)) for top, column in tops for t in RECALL_IOUS}


def _qvhighlights(table: dict[str, np.ndarray]) -> dict[str, Any]:
    brief: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    if "iou" in table:
        parts["full"] = _moments(table)
        for name in metrics.LENGTHS_S:
            parts[name] = _moments(table, f"_{name}")
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


def _moments(table: dict[str, np.ndarray], length: str = "") -> dict[str, Any]:
    """One length range of the official dictionary."""
    iou, by_threshold = table["iou" + length], table["ap_by_threshold" + length]
    ap = {f"{t:g}": _percent(by_threshold[:, i]) for i, t in enumerate(metrics.AP_THRESHOLDS)}
    return {
        "MR-mIoU": _percent(iou),
        "MR-mAP": ap | {"average": _percent(table["ap" + length])},
        "MR-R1": {f"{t:g}": _percent(reached(iou, t)) for t in metrics.RECALL_THRESHOLDS},
    }


def _percent(values: np.ndarray) -> float | None:
    """Mean in percent, rounded as the official evaluator does."""
    value = mean(values)
    return None if value is None else float(f"{100 * value:.2f}")
