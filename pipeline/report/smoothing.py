"""What temporal diffusion does to a run's features along time: equations (1) to (3), before and after.

The change at step t is the norm of x_{t+1} - x_t, in units of the root mean square norm of the video's raw features
less their mean, so that raw and diffused are on one scale.

Dimensions: Q queries, T clips, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...manifests.folds import group_of
from ...manifests.schema import Moment, Query
from ..evaluation.intervals import percentiles, resampled_means
from .judged import Judged, Opened, Say

Interval = tuple[float, float, float]
"""Value, low, high."""
PLACES = ("inside", "border", "outside")
"""Both clips in the same true window; a border between them; both in none."""


@dataclass(frozen=True)
class Example:
    """One query's video along time."""

    query: Query
    duration_s: float
    times_s: np.ndarray
    """[T - 1], between neighbouring clips."""
    raw: np.ndarray
    """[T - 1], the change there; with `diffused`."""
    diffused: np.ndarray
    raw_similarity: np.ndarray
    """[T, T], cosine of the features (less the mean of the video) of every pair of clips."""
    diffused_similarity: np.ndarray


@dataclass(frozen=True)
class Smoothing:
    """A run's features before and after temporal diffusion."""

    run: str
    steps: int
    """N."""
    dt: float
    d: float
    """As learned."""
    queries: int
    """That have a border of a true window between two clips, and clips inside."""
    raw: dict[str, Interval]
    """Place -> mean change over queries; with `diffused`."""
    diffused: dict[str, Interval]
    raw_ratio: Interval
    """Change at borders over change inside; with `diffused_ratio`."""
    diffused_ratio: Interval
    gain: Interval
    """The second less the first, of the same resamples."""
    example: Example | None
    """The first query whose one true window starts and ends within its video."""

    @property
    def spread_clips(self) -> float:
        """Standard deviation of what the steps make of a single clip, sqrt(2 N dt d), in clips."""
        return float(np.sqrt(2 * self.steps * self.dt * self.d))


def smoothings(judged: Judged, resamples: int, seed: int, say: Say) -> list[Smoothing]:
    """One for each run that diffuses along time."""
    out = []
    for run in judged.runs:
        if run.model.diffusion.d is not None:
            say(f"{run.name}: features before and after diffusion")
            found = _smoothing(run, judged, resamples, seed)
            out += [found] if found is not None else []
    return out


def _smoothing(run: Opened, judged: Judged, resamples: int, seed: int) -> Smoothing | None:
    asked = {query.qid for query in judged.queries}
    rows, sources, example = [], [], None
    features: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for query in run.dataset.queries:
        if query.qid not in asked or not query.windows:
            continue
        if query.vid not in features:
            features = {query.vid: _features(run, query.vid)}  # queries about one video follow each other
        times_s, raw, diffused = features[query.vid]
        if len(times_s) < 3:
            continue
        changes, places = _changes(raw, diffused), places_of(times_s.mean(1), query.windows)
        rows.append([_mean(change[places == place]) for change in changes for place in PLACES])
        sources.append(group_of(judged.pairs.dataset, query.vid))
        if example is None and len(query.windows) == 1 and (places == "border").sum() == 2:
            between = (times_s[:-1, 1] + times_s[1:, 0]) / 2
            example = Example(
                query, float(times_s[-1, 1]), between, *changes, _similarity(raw), _similarity(diffused)
            )  # fmt: skip
    table = np.array(rows).reshape(-1, 2 * len(PLACES))
    complete = np.isfinite(table[:, [0, 1, 3, 4]]).all(axis=1)
    if not complete.any():
        return None
    table = table[complete]
    means = resampled_means(table, np.array(sources)[complete], resamples, seed)
    value = [_mean(column) for column in table.T]
    low, high = percentiles(means)

    def over_inside(numbers: np.ndarray) -> np.ndarray:
        """[..., 6] -> [..., 3]: the ratio of raw and of diffused features, and what diffusion adds to it."""
        ratios = numbers[..., [1, 4]] / numbers[..., [0, 3]]
        return np.concatenate([ratios, ratios[..., 1:] - ratios[..., :1]], axis=-1)

    ratios = over_inside(np.array(value))
    ends = percentiles(over_inside(means))
    ratio = [(float(ratios[i]), float(ends[0][i]), float(ends[1][i])) for i in range(3)]
    intervals = [(value[i], float(low[i]), float(high[i])) for i in range(2 * len(PLACES))]
    diffusion = run.model.diffusion
    assert diffusion.d is not None
    return Smoothing(
        run.name, diffusion.steps, diffusion.dt, float(diffusion.d().detach().mean()), len(table),
        dict(zip(PLACES, intervals[:3], strict=True)), dict(zip(PLACES, intervals[3:], strict=True)),
        ratio[0], ratio[1], ratio[2], example,
    )  # fmt: skip


def places_of(centres_s: np.ndarray, windows: Sequence[Moment]) -> np.ndarray:
    """Where each of T - 1 steps between clip centres [T] is, of PLACES."""
    inside = np.array([(w.start_s <= centres_s) & (centres_s < w.end_s) for w in windows])  # [windows, T]
    changes = (inside[:, 1:] != inside[:, :-1]).any(axis=0)
    return np.where(changes, "border", np.where(inside[:, 1:].any(axis=0), "inside", "outside"))


def _features(run: Opened, vid: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times [T, 2], raw and diffused features [T, D] of a video, as the model has them."""
    import torch

    from ..loading.dataset import read_clips

    clips = read_clips(run.dataset.features.video, vid)
    values = clips.values[None].to(next(run.model.parameters()).device)
    with torch.no_grad():
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        raw = run.model.projected(values, mask, clips.positions[None].to(values.device))
        diffused = run.model.diffusion(raw, mask)
    return clips.times_s, raw[0].double().cpu().numpy(), diffused[0].double().cpu().numpy()


def _changes(raw: np.ndarray, diffused: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = np.sqrt(((raw - raw.mean(axis=0)) ** 2).sum(axis=1).mean())
    return tuple(np.linalg.norm(np.diff(x, axis=0), axis=1) / max(scale, 1e-12) for x in (raw, diffused))


def _similarity(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
