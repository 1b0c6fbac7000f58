"""Changes to predicted windows before they are judged. All are off unless asked for, and noted in the result.

convert   times given in clips, fractions of the video or milliseconds, to seconds
clamp     to the video
round     to a grid, as the peers do to 2 s on QVHighlights; only where the true windows lie on that grid
suppress  near-duplicates (temporal non-maximum suppression)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from .predictions import Prediction


def convert_windows(predictions: Sequence[Prediction], seconds_per_unit: Mapping[str, float]) -> list[Prediction]:
    """The same predictions with times in seconds; seconds in a unit of time by query id."""
    return [_with(p, _times(p) * seconds_per_unit[p.qid]) for p in predictions]


def clamp_windows(predictions: Sequence[Prediction], duration_s: Mapping[str, float]) -> list[Prediction]:
    """The same predictions with windows clamped to [0, duration of the query's video]; durations by query id."""
    return [_with(p, _times(p).clip(0, duration_s[p.qid])) if p.qid in duration_s else p for p in predictions]


def round_windows(predictions: Sequence[Prediction], grid_s: float) -> list[Prediction]:
    """The same predictions with starts and ends on multiples of `grid_s` (halves to the even one, as the peers do).

    Only for data whose true windows lie on that grid: rounding to 2 s costs a perfect model 12 points of mIoU
    on Charades-STA."""
    if not (np.isfinite(grid_s) and grid_s > 0):
        raise ValueError(f"expected a grid of more than 0 s to round windows to, got {grid_s}")
    return [_with(p, np.round(_times(p) / grid_s) * grid_s) for p in predictions]


def suppress_windows(predictions: Sequence[Prediction], threshold: float) -> list[Prediction]:
    """The same predictions without windows whose IoU with a higher scored one is above `threshold`, best score first.

    Raises ValueError unless 0 <= threshold <= 1."""
    import torch  # takes seconds to import, and nothing else in an evaluation needs it

    from ...heads.spans import temporal_nms

    if not 0 <= threshold <= 1:
        raise ValueError(f"expected an NMS threshold from 0 to 1, got {threshold}")
    out = []
    for p in predictions:
        if p.windows is not None:
            windows = torch.from_numpy(p.windows.copy())
            kept = temporal_nms(windows[:, :2], windows[:, 2], threshold)
            p = replace(p, windows=windows[kept].numpy())
        out.append(p)
    return out


def _times(prediction: Prediction) -> np.ndarray:
    """[n, 2] start, end; none where the model does not retrieve moments."""
    return np.empty((0, 2)) if prediction.windows is None else prediction.windows[:, :2]


def _with(prediction: Prediction, times: np.ndarray) -> Prediction:
    if prediction.windows is None:
        return prediction
    return replace(prediction, windows=np.concatenate([times, prediction.windows[:, 2:]], axis=1))
