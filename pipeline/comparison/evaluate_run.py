"""Evaluate a trained run on a split of cached features, alone or beside its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...extract.encoders import usable_device
from ...manifests import dataset as find_dataset
from ..evaluation.evaluate import Results, evaluate
from ..evaluation.predictions import Prediction, write_predictions
from ..inference import predict_dataset
from ..loading.dataset import MomentDataset, open_features
from ..model import RDMF
from ..training.checkpoint import RunInfo, load_best, load_run_info
from ..training.train import with_validation
from .controls import GUESSES, control_predictions, controls_of, guess


@dataclass(frozen=True)
class RunPredictions:
    """What a run says about a split."""

    info: RunInfo
    model: RDMF
    """With its best weights, in evaluation mode."""
    dataset: MomentDataset
    """The queries of the split that have features; those that have none are in its `missing`."""
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class RunResults:
    """A run's numbers, and those of its controls, on the same queries."""

    info: RunInfo
    run: Results
    controls: dict[str, Results]
    missing: dict[str, str]
    """Queries of the split that have no features, and why; they are left out of every number and counted in it."""
    predictions: tuple[Prediction, ...]

    def to_json(self) -> dict[str, Any]:
        """The official keys of the run at the top; what is ours, controls included, under 'rdmf'."""
        tree = self.run.to_json()
        tree["rdmf"] |= {
            "without_features": self.missing,
            "random_weights": self.info.random_weights,
            "features": [s.folder_name for s in (*self.info.video_specs, self.info.text_spec)],
            "controls": {name: results.to_json() for name, results in self.controls.items()},
        }
        return tree


def open_run(
    run: Path, split: str = "val", *, features: Path | None = None, device: str = "cpu"
) -> tuple[RunInfo, RDMF, MomentDataset]:
    """A run with its best weights, and the queries of a split on the features it was trained on.

    features: where the features are now, if not where the run was trained. Raises ValueError where they are not of
    the kind the run was trained on.
    """
    info = load_run_info(run)
    folder = features or Path(info.features)
    if features is None and not folder.is_dir():
        raise ValueError(
            f"the features that {run} was trained on are not at {folder}; give --features where they are now"
        )
    feature_set = open_features(folder, [s.folder_name for s in info.video_specs], info.text_spec.folder_name)
    feature_set, _ = with_validation(feature_set, info.config.training)
    return info, load_best(run, info).to(usable_device(device)), MomentDataset(feature_set, split)


def predict_run(run: Path, split: str = "val", *, features: Path | None = None, device: str = "cpu") -> RunPredictions:
    """Predict a split with a run's best weights. Arguments and errors as for `open_run`."""
    info, model, dataset = open_run(run, split, features=features, device=device)
    predictions = predict_dataset(model, dataset, info.config.model.moment.iou_share, info.max_clips)
    return RunPredictions(info, model, dataset, tuple(predictions))


def evaluate_run(
    run: Path,
    split: str = "val",
    *,
    features: Path | None = None,
    protocol: str | None = None,
    controls: Sequence[str] = (),
    device: str = "cpu",
    predictions_to: Path | None = None,
    **options: Any,
) -> RunResults:
    """Predict a split with a run's best weights and judge the predictions by the dataset's protocol.

    predictions_to: also write the predictions in the submission form, as they were judged. options: as `evaluate`
    takes them; they hold for the controls too. Raises ValueError as `predict_run` does.
    """
    found = predict_run(run, split, features=features, device=device)
    info, dataset = found.info, found.dataset
    protocol = protocol or find_dataset(info.dataset).protocol
    truth = dataset.manifest_of_usable()

    def judge(answers: Sequence[Prediction]) -> Results:
        return evaluate(answers, truth, protocol, split, trusted=True, **options)

    judged = judge(found.predictions)
    if predictions_to is not None:
        write_predictions(judged.predictions, predictions_to)
    iou_weight = info.config.model.moment.iou_share
    return RunResults(
        info, judged,
        {
            name: judge(control_predictions(name, found.model, dataset, iou_weight, info.max_clips))
            for name in controls_of(dataset, tuple(controls))
        },
        dataset.missing, judged.predictions,
    )  # fmt: skip


def evaluate_guesses(
    features: Path,
    split: str = "val",
    *,
    video_stores: Sequence[str] = (),
    text_store: str | None = None,
    protocol: str | None = None,
    **options: Any,
) -> dict[str, Results]:
    """What guesses reach on a split, before anything is trained. Stores as `train`, options as `evaluate` takes them.

    Raises ValueError where the folder has no features, or none of the split.
    """
    feature_set = open_features(features, video_stores, text_store)
    dataset = MomentDataset(feature_set, split)
    truth = dataset.manifest_of_usable()
    protocol = protocol or find_dataset(truth.dataset).protocol
    return {
        name: evaluate(guess(name, dataset), truth, protocol, split, trusted=True, **options)
        for name in controls_of(dataset, GUESSES)
    }
