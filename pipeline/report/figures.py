"""The charts of the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .calibration import Reliability
from .grouped import Grouped
from .recall import RecallCurve
from .sharpness import ANNOTATORS, Sharpness
from .smoothing import Example
from .svg import REFERENCE, Axes, ticks

FEWEST = 5
"""A smaller group is in the table only."""
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def recall_chart(curves: Sequence[RecallCurve], names: Sequence[str]) -> str:
    """R1 against the IoU threshold, with bands."""
    top = max(float(np.nanmax(c.high if np.isfinite(c.high).any() else c.value)) for c in curves)
    axes = Axes(
        "R1 against the IoU that counts as found", (0.29, 0.96), (0, _upwards(100 * top)), "IoU threshold", "R1 (%)",
        width=620, height=360,
    )  # fmt: skip
    axes.grid([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], ticks(*axes.y))
    for curve in curves:
        axes.band(
            curve.thresholds.tolist(),
            (100 * curve.low).tolist(),
            (100 * curve.high).tolist(),
            names.index(curve.system),
        )
    for curve in curves:
        index, points = (
            names.index(curve.system),
            list(zip(curve.thresholds.tolist(), (100 * curve.value).tolist(), strict=True)),
        )
        axes.line([x for x, _ in points], [y for _, y in points], index)
        for x, y in points:
            axes.mark(x, y, index, 3.2)
    return axes.svg()


def group_chart(grouped: Grouped, name: str, heading: str, names: Sequence[str]) -> str | None:
    """A dot with its interval for each system in each group of FEWEST queries; None with fewer than two such groups."""
    groups = [
        group for group, queries in grouped.queries.items()
        if queries >= FEWEST
        and any(numbers[group].get(name, {}).get("value") is not None for numbers in grouped.numbers.values())
    ]  # fmt: skip
    if len(groups) < 2:
        return None
    step = max(34, 15 * len(names) + 12)
    axes = Axes(
        f"{heading} by {grouped.title}", (0, 100), (0, len(groups)), f"{heading} (%)",
        height=76 + step * len(groups), left=104,
    )  # fmt: skip
    axes.grid([0, 20, 40, 60, 80, 100])
    for row, group in enumerate(groups):
        middle = len(groups) - row - 0.5
        axes.label(middle, group, f"n = {grouped.queries[group]:,}")
        if row:
            axes.reference((0, 100), (middle + 0.5, middle + 0.5))
        for index, system in enumerate(names):
            interval = grouped.numbers[system][group].get(name, {})
            value, low, high = (interval.get(part) for part in ("value", "low", "high"))
            if value is None:
                continue
            y = middle + ((len(names) - 1) / 2 - index) * 15 / step
            if low is not None and high is not None:
                axes.whisker((100 * low, 100 * high), (y, y), index)
            axes.mark(100 * value, y, index)
    return axes.svg()


def reliability_chart(title: str, of: Sequence[Reliability], indices: Sequence[int]) -> str:
    """Mean IoU against confidence, bin by bin; on the diagonal the confidence is the expected IoU."""
    inside = all(each.error is not None for each in of)
    low, high = min(float(each.confidence.min()) for each in of), max(float(each.confidence.max()) for each in of)
    x = (0.0, 1.0) if inside else (low, high) if high > low else (low - 0.5, low + 0.5)
    axes = Axes(title, x, (0, 1), "confidence of the first window", "mean IoU", width=400, height=380)
    axes.grid(ticks(*x), ticks(0, 1))
    if inside:
        axes.reference((0, 1), (0, 1))
    for each, index in zip(of, indices, strict=True):
        _bins(axes, each, each.confidence, index)
    return axes.svg()


def ranked_chart(title: str, of: Sequence[Reliability], indices: Sequence[int]) -> str:
    """The same bins side by side: what they hold shows even where all confidences are alike."""
    axes = Axes(title, (0, 100), (0, 1), "first windows by confidence (%)", "mean IoU", width=400, height=380)
    axes.grid(ticks(0, 100), ticks(0, 1))
    for each, index in zip(of, indices, strict=True):
        _bins(axes, each, 100 * each.rank, index)
    return axes.svg()


def _bins(axes: Axes, each: Reliability, x: np.ndarray, index: int) -> None:
    axes.line(x.tolist(), each.iou.tolist(), index)
    for at, iou, low, high in zip(x.tolist(), each.iou.tolist(), each.low.tolist(), each.high.tolist(), strict=True):
        axes.whisker((at, at), (low, high), index)
        axes.mark(at, iou, index)


def profile_chart(found: Sharpness, border: str, names: Sequence[str]) -> str:
    """Mean saliency against the time from a border of the true windows: 'start' or 'end'."""
    curves = [profile.start if border == "start" else profile.end for profile in found.profiles]
    both = np.concatenate([curve for profile in found.profiles for curve in (profile.start, profile.end)])
    low, high = (0.5 * end for end in (np.floor(2 * np.nanmin(both)), np.ceil(2 * np.nanmax(both))))
    unit = found.clip_seconds or 1.0
    times = (found.offsets + 0.5) * unit
    reach = float(-found.offsets[0] * unit)
    label = f"{'seconds' if found.clip_seconds else 'clips'} from the {border} of a true window"
    axes = Axes(
        f"Saliency around the {border} of true windows", (-reach, reach), (low, high), label, "standard deviations"
    )
    axes.area((0, reach) if border == "start" else (-reach, 0), (low, high), "truth")
    axes.grid(ticks(-reach, reach, 5), ticks(low, high))
    axes.reference((0, 0), (low, high))
    for profile, curve in zip(found.profiles, curves, strict=True):
        if profile.system != ANNOTATORS:
            axes.band(times.tolist(), curve[:, 1].tolist(), curve[:, 2].tolist(), names.index(profile.system))
    for profile, curve in zip(found.profiles, curves, strict=True):
        index = REFERENCE if profile.system == ANNOTATORS else names.index(profile.system)
        axes.line(times.tolist(), curve[:, 0].tolist(), index)
        for x, y in zip(times.tolist(), curve[:, 0].tolist(), strict=True):
            if index != REFERENCE and np.isfinite(y):
                axes.mark(x, y, index, 2.6)
    return axes.svg()


def change_chart(example: Example) -> str:
    """How much the features change from clip to clip, raw (first series) and diffused (second)."""
    high = float(max(example.raw.max(), example.diffused.max())) * 1.05 or 1.0
    axes = Axes(
        "Change of the features from clip to clip", (0, example.duration_s), (0, high), "seconds", "relative change",
        width=900, height=260,
    )  # fmt: skip
    for window in example.query.windows:
        axes.area((window.start_s, min(window.end_s, example.duration_s)), (0, high), "truth")
    axes.grid(ticks(0, example.duration_s, 9), ticks(0, high, 5))
    for index, change in enumerate((example.raw, example.diffused)):
        axes.line(example.times_s.tolist(), change.tolist(), index)
        for x, y in zip(example.times_s.tolist(), change.tolist(), strict=True):
            axes.mark(x, y, index, 2.6)
    return axes.svg()


def similarity_chart(title: str, similarity: np.ndarray, example: Example) -> str:
    """Cosine similarity of every two clips: blue above 0, orange below, stronger the further from it."""
    axes = Axes(
        title, (0, example.duration_s), (example.duration_s, 0), "seconds", "seconds", width=430, height=430, top=40
    )
    colour = np.where(similarity[..., None] >= 0, BLUE, ORANGE)
    alpha = np.rint(255 * np.abs(similarity).clip(0, 1))[..., None]
    axes.image(np.concatenate([colour, alpha], axis=-1).astype(np.uint8))
    axes.grid(ticks(0, example.duration_s, 6), ticks(0, example.duration_s, 6), lines=False)
    margin = example.duration_s * 0.018
    for window in example.query.windows:
        span = (window.start_s, min(window.end_s, example.duration_s))
        axes.area(span, (-margin * 0.4, -margin), "true-window")
        for edge in span:
            axes.reference((edge, edge), (0, example.duration_s))
            axes.reference((0, example.duration_s), (edge, edge))
    return axes.svg()


def _upwards(value: float) -> float:
    """The next multiple of 10, at least 10 and at most 100."""
    return float(min(100, max(10, 10 * np.ceil(value / 10))))
