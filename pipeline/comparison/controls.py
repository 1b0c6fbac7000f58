"""Guesses and broken inputs that a model must beat: what a number is worth is seen beside them.

random          windows drawn at random, knowing neither video nor sentence
centre prior    the middle of the video, as long as the median training window
any moment      a true moment of any query about the video, at random: knows what happens, not what is asked
cosine          clips whose features are like the sentence's, nothing learned; of the first video store that is as wide
other sentence  the same model, asked another video's sentence (the truth stays)
shuffled clips  the same model, the clips of every video in random order
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ...heads.proposals import propose
from ...manifests.schema import Moment
from ..evaluation.predictions import Prediction
from ..inference import KEEP, predict_dataset
from ..loading.dataset import MomentDataset
from ..loading.likeness import as_wide, likeness
from ..model import RDMF

GUESSES = ("random", "centre prior", "any moment", "cosine")
"""They know no model."""
BROKEN = ("other sentence", "shuffled clips")
CONTROLS = (*GUESSES, *BROKEN)


def controls_of(dataset: MomentDataset, names: tuple[str, ...] = CONTROLS) -> Iterator[str]:
    """Those of the names that the features allow."""
    return (name for name in names if name != "cosine" or as_wide(dataset.features) is not None)


def control_predictions(
    name: str, model: RDMF, dataset: MomentDataset, iou_weight: float, max_clips: int, seed: int = 0
) -> list[Prediction]:
    """The predictions of one control on a split, reproducible by seed."""
    if name == "other sentence":
        return predict_dataset(model, dataset.with_texts_of_other_videos(seed), iou_weight, max_clips)
    if name == "shuffled clips":
        return predict_dataset(model, dataset, iou_weight, max_clips, order="shuffled", seed=seed)
    return guess(name, dataset, seed)


def guess(name: str, dataset: MomentDataset, seed: int = 0) -> list[Prediction]:
    """The predictions of one of GUESSES on a split, reproducible by seed."""
    if name not in GUESSES:
        raise ValueError(f"expected one of the controls {', '.join(CONTROLS)}, got {name!r}")
    if name == "cosine":
        columns = as_wide(dataset.features)
        assert columns is not None, "controls_of leaves it out"
        return [_alike(dataset, row, columns) for row in range(len(dataset))]
    rng = np.random.default_rng(seed)
    width_s = _median_window_s(dataset)
    happens: dict[str, list[Moment]] = {query.vid: [] for query in dataset.queries}
    for query in dataset.queries:
        happens[query.vid] += query.windows
    out = []
    for i, query in enumerate(dataset.queries):
        clips = dataset[i].clips
        seconds, count = clips.duration_s, len(clips.values)
        if name == "random" or (name == "any moment" and not happens[query.vid]):
            windows = np.column_stack([np.sort(rng.uniform(0, seconds, (KEEP, 2)), axis=1), rng.random(KEEP)])
            windows = windows[np.argsort(-windows[:, 2])]
            saliency = rng.random(count)
        elif name == "any moment":
            order = rng.permutation(len(happens[query.vid]))[:KEEP]
            picked = [happens[query.vid][k] for k in order]
            windows = np.array([[w.start_s, w.end_s, 1 - rank / KEEP] for rank, w in enumerate(picked)])
            centres = clips.times_s.mean(1)
            saliency = ((picked[0].start_s <= centres) & (centres < picked[0].end_s)).astype(float)
        else:
            width = min(width_s, seconds)
            windows = np.array([[(seconds - width) / 2, (seconds + width) / 2, 1.0]])
            saliency = 1 - np.abs(np.linspace(-1, 1, count)) if count > 1 else np.ones(1)
        out.append(Prediction(query.qid, windows, saliency, query.text, query.vid))
    return out


def _alike(dataset: MomentDataset, row: int, columns: slice) -> Prediction:
    """Saliency is the cosine of a clip's features and the mean of the words'; windows are where it is high."""
    example = dataset[row]
    clips, query = example.clips, example.query
    saliency = likeness(example, columns)  # [T]
    proposals = propose(saliency[None], torch.ones(1, len(saliency), dtype=torch.bool), KEEP)
    spans = proposals.spans[0][: max(1, int(proposals.found.sum()))].double().numpy()
    start, end = spans[:, 0] - spans[:, 1] / 2, spans[:, 0] + spans[:, 1] / 2
    windows = np.column_stack([start * clips.duration_s, end * clips.duration_s, 1 - np.arange(len(spans)) / KEEP])
    return Prediction(query.qid, windows, (1 + saliency.double().numpy()) / 2, query.text, query.vid)


def _median_window_s(dataset: MomentDataset) -> float:
    manifest = dataset.features.manifest
    queries = manifest.split("train") if "train" in manifest.splits else dataset.queries
    return float(np.median([w.duration_s for q in queries for w in q.windows]))
