"""Ask a model: examples in, moments in seconds and saliency out. One way for validation, evaluation and prediction.

A video much longer than any in training is read in windows of the training length that overlap by half: saliency is
averaged with weights that fall towards a window's ends, moments are pooled and near-duplicates suppressed.

Dimensions: T clips, Q decoder queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from ..heads.moment import moments
from ..heads.spans import temporal_nms
from .evaluation.predictions import Prediction
from .loading.dataset import Batch, Clips, Example, MomentDataset, collate
from .loading.resident import ResidentSplit
from .model import RDMF

READ_WHOLE = 1.25  # a video of up to this many times the longest training video is read in one go
DUPLICATE_IOU = 0.7  # of two windows this alike, found in different parts of a long video, one is kept
CUT_PENALTY = 0.5  # on the confidence of a moment that the end of a part cuts off; its other part has it whole
KEEP = 10  # the protocols look at no more
TOGETHER = 32  # parts of videos in a batch


@dataclass(frozen=True)
class Found:
    """What the model says of one sentence and one video."""

    windows: np.ndarray
    """float64 [KEEP or fewer, 3]: start_s, end_s, confidence in [0, 1]; most confident first."""
    saliency: np.ndarray
    """float64 [T], the probability that a clip is a highlight."""
    times_s: np.ndarray
    """float64 [T, 2], the clips."""


def ask(model: RDMF, examples: Iterable[Example], iou_weight: float, max_clips: int) -> Iterator[Found]:
    """Answer examples in order, parts of videos together. The model must be in evaluation mode."""
    pending: list[tuple[Example, list[slice]]] = []
    for example in examples:
        pending.append((example, cut(len(example.clips.values), max_clips)))
        if sum(len(parts) for _, parts in pending) >= TOGETHER:
            yield from _answer(model, pending, iou_weight)
            pending = []
    yield from _answer(model, pending, iou_weight)


def ask_resident(model: RDMF, split: ResidentSplit, iou_weight: float, max_clips: int) -> Iterator[Found]:
    """As `ask` answers a split's examples. Batches with a video to be cut are read example by example."""
    for rows in torch.arange(len(split)).split(TOGETHER):
        clips = split.lengths[rows].tolist()
        if any(len(cut(n, max_clips)) > 1 for n in clips):
            yield from ask(model, (split.dataset[row] for row in rows.tolist()), iou_weight, max_clips)
        else:
            answers = zip(rows.tolist(), clips, _run(model, split.batch(rows), iou_weight), strict=True)
            yield from (_merge(split.times_s(row), [slice(0, n)], [answer]) for row, n, answer in answers)


def predict_dataset(
    model: RDMF,
    dataset: MomentDataset,
    iou_weight: float,
    max_clips: int,
    order: str = "time",
    seed: int = 0,
    resident: ResidentSplit | None = None,
) -> list[Prediction]:
    """Predictions for a split. order 'shuffled' is a control: every video's clips in random order.

    resident: the dataset packed, for many predictions of the same split.
    """
    if order not in ("time", "shuffled"):
        raise ValueError(f"expected order 'time' or 'shuffled', got {order!r}")
    examples = (dataset[i] for i in range(len(dataset)))
    if order == "shuffled":
        rng = np.random.default_rng(seed)
        found = ask(model, (_shuffled(example, rng) for example in examples), iou_weight, max_clips)
    elif resident is not None:
        assert resident.dataset is dataset
        found = ask_resident(model, resident, iou_weight, max_clips)
    else:
        found = ask(model, examples, iou_weight, max_clips)
    return [
        Prediction(q.qid, f.windows, on_grid(f, q.saliency.clip_seconds if q.saliency else None), q.text, q.vid)
        for q, f in zip(dataset.queries, found, strict=True)
    ]


def on_grid(found: Found, clip_seconds: float | None) -> np.ndarray:
    """Saliency on the annotation's grid: an annotated clip takes the score of the clip that holds its centre."""
    end = found.times_s[-1, 1]
    if clip_seconds is None:
        return found.saliency
    centres = (np.arange(max(1, round(np.ceil(end / clip_seconds - 1e-3)))) + 0.5) * clip_seconds
    holds = np.searchsorted(found.times_s[:, 0], np.minimum(centres, end - 1e-6), side="right") - 1
    return found.saliency[holds]


def cut(clips: int, max_clips: int) -> list[slice]:
    """Parts of a video: the whole, or windows of `max_clips` that overlap by half and end with the video."""
    if clips <= READ_WHOLE * max_clips or max_clips < 2:
        return [slice(0, clips)]
    starts = [*range(0, clips - max_clips, max_clips // 2), clips - max_clips]
    return [slice(start, start + max_clips) for start in starts]


def _answer(model: RDMF, pending: Sequence[tuple[Example, list[slice]]], iou_weight: float) -> Iterator[Found]:
    if not pending:
        return
    parts = [_part(example, part) for example, slices in pending for part in slices]
    answers = iter(_run(model, collate(parts).to(next(model.parameters()).device), iou_weight))
    for example, slices in pending:
        yield _merge(example.clips.times_s, slices, list(islice(answers, len(slices))))


@torch.no_grad()
def _run(model: RDMF, batch: Batch, iou_weight: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each part in a batch: windows [Q, 3] in seconds from its start with their confidence, saliency [T]."""
    output = model(batch.clips, batch.clip_mask, batch.positions, batch.words, batch.word_mask)
    windows, confidence = moments(output.moments, iou_weight)
    spans = torch.cat([windows * batch.duration_s[:, None, None], confidence[..., None]], -1).double().cpu().numpy()
    scores = output.saliency_logits.sigmoid().double().cpu().numpy()
    return list(zip(spans, scores, strict=True))


def _part(example: Example, part: slice) -> Example:
    times = example.clips.times_s[part]
    clips = Clips(example.clips.values[part], times - times[0, 0])
    return replace(example, clips=clips, saliency=example.saliency[part])


def _merge(times_s: np.ndarray, slices: Sequence[slice], answers: Sequence[tuple[np.ndarray, np.ndarray]]) -> Found:
    total, weight = np.zeros(len(times_s)), np.zeros(len(times_s))
    pool = []
    for part, (windows, score) in zip(slices, answers, strict=True):
        times = times_s[part]
        start, end = times[0, 0], times[-1, 1]
        fade = np.minimum(np.arange(len(times)) + 1, np.arange(len(times), 0, -1)).astype(float)
        total[part] += fade * score[: len(times)]
        weight[part] += fade
        windows = windows + np.array([start, start, 0.0])
        edge = times[0, 1] - times[0, 0]
        cut_off = ((windows[:, 0] < start + edge) & (part.start > 0)) | (
            (windows[:, 1] > end - edge) & (part.stop < len(times_s))
        )
        windows[cut_off, 2] *= CUT_PENALTY
        pool.append(windows)
    found = np.concatenate(pool)
    found[:, :2] = found[:, :2].clip(0, times_s[-1, 1])
    if len(slices) == 1:
        best = np.argsort(-found[:, 2], kind="stable")
    else:
        best = temporal_nms(torch.from_numpy(found[:, :2]), torch.from_numpy(found[:, 2]), DUPLICATE_IOU).numpy()
    return Found(found[best[:KEEP]], total / weight, times_s)


def _shuffled(example: Example, rng: np.random.Generator) -> Example:
    order = torch.from_numpy(rng.permutation(len(example.clips.values)))
    return replace(example, clips=Clips(example.clips.values[order], example.clips.times_s))
