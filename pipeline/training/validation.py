"""The split that decides which epoch is kept, and how it is judged. Never test.

The scores are those of the QVHighlights protocol (evaluation/per_query.py), asked for as evaluation asks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...manifests.split import carve_validation
from ..config import Config, TrainingConfig
from ..evaluation.per_query import per_query
from ..inference import predict_dataset
from ..loading.dataset import FeatureSet, MomentDataset
from ..loading.resident import ResidentSplit
from ..model import RDMF


def with_validation(features: FeatureSet, training: TrainingConfig) -> tuple[FeatureSet, dict[str, str]]:
    """The features with a validation split, carved from train by video where the dataset has none. Never test."""
    manifest = features.manifest
    if "train" not in manifest.splits:
        raise ValueError(f"{manifest.dataset} has no split 'train'; it has {', '.join(manifest.splits)}")
    if "val" in manifest.splits and any(q.windows or q.saliency for q in manifest.split("val")):
        return features, {"train": "train", "validation": "val"}
    carved = carve_validation(manifest, training.validation, seed=0, target="val")
    share = f"val (carved: {training.validation:g} of the videos of train)"
    return FeatureSet(carved, features.video, features.text), {"train": "train", "validation": share}


def deciding(scores: Mapping[str, float], select_by: str) -> tuple[str, float]:
    """Which of the scores of `validate` decides, and its value: `select_by`, or HL-mAP where there are no moments."""
    name = select_by if select_by in scores else "HL-mAP"
    return name, scores.get(name, float("-inf"))


def validate(
    model: RDMF, dataset: MomentDataset, config: Config, max_clips: int, resident: ResidentSplit | None = None
) -> dict[str, float]:
    """Scores of a split as fractions: R1@0.5, R1@0.7, mIoU, mAP; HL-mAP where it has highlights and no moments.

    resident: the dataset, packed. Leaves the model in evaluation mode.
    """
    model.eval()
    predictions = predict_dataset(model, dataset, config.model.moment.iou_share, max_clips, resident=resident)
    truth = dataset.manifest_of_usable()
    if not any(query.windows for query in dataset.queries):
        return {"HL-mAP": float(np.nanmean(per_query(predictions, truth, dataset.split, "highlights")["top_ap"]))}
    table = per_query(predictions, truth, dataset.split, "qvhighlights")
    counts = np.isfinite(table["iou"])
    iou, ap = table["iou"][counts], table["ap"][counts]
    return {
        "R1@0.5": float((iou >= 0.5).mean()),
        "R1@0.7": float((iou >= 0.7).mean()),
        "mIoU": float(iou.mean()),
        "mAP": float(ap.mean()),
    }
