"""Guesses and broken inputs that a model must beat: what a number is worth is seen beside them.

random          windows drawn at random, knowing neither video nor sentence
centre prior    the middle of the video, as long as the median training window
any moment      a true moment of any query about the video, at random: knows what happens, not what is asked
other sentence  the same model, asked another video's sentence (the truth stays)
shuffled clips  the same model, the clips of every video in random order
"""

from __future__ import annotations

import numpy as np

from ..manifests.schema import Moment
from .dataset import MomentDataset
from .inference import KEEP, predict_dataset
from .model import RDMF
from .predictions import Prediction

CONTROLS = ("random", "centre prior", "any moment", "other sentence", "shuffled clips")


def control_predictions(
    name: str, model: RDMF, dataset: MomentDataset, iou_weight: float, max_clips: int, seed: int = 0
) -> list[Prediction]:
    """The predictions of one control on a split, reproducible by seed."""
    if name == "other sentence":
        return predict_dataset(model, dataset.with_texts_of_other_videos(seed), iou_weight, max_clips)
    if name == "shuffled clips":
        return predict_dataset(model, dataset, iou_weight, max_clips, order="shuffled", seed=seed)
    if name not in CONTROLS:
        raise ValueError(f"expected one of the controls {', '.join(CONTROLS)}, got {name!r}")
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


def _median_window_s(dataset: MomentDataset) -> float:
    manifest = dataset.features.manifest
    queries = manifest.split("train") if "train" in manifest.splits else dataset.queries
    return float(np.median([w.duration_s for q in queries for w in q.windows]))
