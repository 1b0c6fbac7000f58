"""The named numbers of an evaluation: each is the mean over queries of one column of the table of `per_query`.

    R1@0.5, R1@0.7, ...    the first window reaches that IoU          R5@0.5, ...   one of the first five does
    mIoU                   IoU of the first window                    mAP           MR-mAP over IoU 0.5 to 0.95
    mAP@0.5, mAP@0.75      at one IoU                                 mAP-short, mAP-middle, mAP-long
    HL-VeryGood-mAP, HL-VeryGood-Hit1, and so for Good and Fair       top-mAP       TVSum, YouTube Highlights

Whatever is done with numbers (intervals, groups, seeds, comparisons) is done with these columns, as fractions.
"""

from __future__ import annotations

import numpy as np

from . import highlights, metrics

RECALL_IOUS = (0.3, 0.5, 0.7)


def columns(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> float64 [Q], NaN where a query does not count; only what the table has."""
    out: dict[str, np.ndarray] = {}
    if "iou" in table:
        for top, best in ((1, table["iou"]), (5, table["iou_at_5"])):
            out |= {f"R{top}@{iou}": reached(best, iou) for iou in RECALL_IOUS}
        out |= {"mIoU": table["iou"], "mAP": table["ap"]}
        for iou in (0.5, 0.75):
            at = int(np.searchsorted(metrics.AP_THRESHOLDS, iou))
            out[f"mAP@{iou}"] = table["ap_by_threshold"][:, at]
        out |= {f"mAP-{name}": table[f"ap_{name}"] for name in metrics.LENGTHS_S if f"ap_{name}" in table}
    if "hl_ap" in table:
        for i, level in enumerate(highlights.LEVELS):
            out |= {f"HL-{level}-mAP": table["hl_ap"][:, i], f"HL-{level}-Hit1": table["hl_hit1"][:, i]}
    if "top_ap" in table:
        out["top-mAP"] = table["top_ap"]
    return out


def reached(iou: np.ndarray, threshold: float) -> np.ndarray:
    """1 where the IoU reaches the threshold, 0 where not, NaN where the query does not count."""
    return np.where(np.isnan(iou), np.nan, iou >= threshold)


def mean(values: np.ndarray) -> float | None:
    """Mean of the values that count; None if there is none."""
    counted = values[np.isfinite(values)]
    return float(counted.mean()) if counted.size else None


def select(table: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The table of some of its queries."""
    return {name: column[rows] for name, column in table.items()}
