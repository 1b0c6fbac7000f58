"""Train diffusion, fusion and heads on cached features, keep the best epoch by the validation split.

One run is one folder (see checkpoint.py). After every epoch everything that the next one depends on is written, so an
interrupted run resumes to the same weights.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..extract.encoders import usable_device
from ..heads.losses import LossWeights, Targets, total_loss
from ..heads.matcher import DivergenceError
from ..manifests.split import carve_validation
from .checkpoint import (
    RunInfo,
    load_run_info,
    read_json,
    read_tensors,
    restore_training_state,
    save_run_info,
    training_state,
    write_json,
    write_tensors,
)
from .config import Config, TrainingConfig
from .dataset import Batch, FeatureSet, MomentDataset, collate, open_features
from .inference import predict_dataset
from .model import RDMF, count_parameters
from .per_query import per_query


@dataclass(frozen=True)
class Progress:
    """Where training stands; what `train` reports after every step."""

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: dict[str, float]
    queries_per_s: float


@dataclass(frozen=True)
class TrainResult:
    """How training ended."""

    best_epoch: int
    best: dict[str, float]
    """Validation scores of the best epoch, fractions."""
    epochs: int
    parameters: int
    seconds: float
    """Of this call; resumed epochs are not in it."""


def train(
    features: Path,
    out: Path,
    config: Config,
    *,
    video_stores: Sequence[str] = (),
    text_store: str | None = None,
    resume: bool = False,
    device: str = "cpu",
    command: str = "",
    on_note: Callable[[str], None] = lambda sentence: None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda record: None,
) -> TrainResult:
    """Train a run into folder `out`.

    resume: go on with an interrupted run of the same config and features; a finished one is returned as it is.
    Raises ValueError on a folder in use, features that do not fit, or divergence (naming step, epoch and loss).
    """
    place = usable_device(device)
    feature_set, roles = with_validation(open_features(features, video_stores, text_store), config.training)
    training, validation = (MomentDataset(feature_set, roles[role].split()[0]) for role in ("train", "validation"))
    info = RunInfo(
        config=config, dataset=feature_set.manifest.dataset, clip_seconds=feature_set.manifest.clip_seconds,
        features=str(features), video_specs=tuple(s.spec for s in feature_set.video), text_spec=feature_set.text.spec,
        max_clips=max(len(feature_set.video[0].features(vid).values) for vid in {q.vid for q in training.queries}),
        splits=roles, versions=_versions(), command=command,
    )  # fmt: skip
    for dataset in (training, validation):
        if dataset.missing:
            on_note(
                f"{dataset.split}: {len(dataset.missing)} of {len(dataset.missing) + len(dataset)} queries have no "
                f"features and are left out ({next(iter(dataset.missing.values()))})"
            )
    if info.random_weights:
        on_note(f"note: RANDOM encoder weights made the features of {', '.join(info.random_weights)}")
    finished = _claim(out, info, resume)
    if finished is not None:
        on_note(f"{out} is finished already and left as it is")
        return finished

    torch.manual_seed(config.training.seed)
    model = RDMF(config.model, *feature_set.dims).to(place)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.training.lr, weight_decay=config.training.weight_decay)
    order = torch.Generator().manual_seed(config.training.seed)
    began, first_epoch = time.monotonic(), 1
    best: dict[str, Any] = {"epoch": 0, "score": -math.inf, "scores": {}}
    if (out / "last.safetensors").is_file():
        restore_training_state(read_tensors(out / "last.safetensors"), model, optimizer, order)
        state = read_json(out / "last.json", f"{out}/last.json is missing; train into another folder")
        first_epoch, best = state["epoch"] + 1, state["best"]
        on_note(f"going on after epoch {state['epoch']}")

    epoch = first_epoch - 1
    for epoch in range(first_epoch, config.training.epochs + 1):
        if epoch - best["epoch"] > config.training.patience and best["epoch"]:
            epoch -= 1
            break
        losses = _train_epoch(model, optimizer, training, order, config, epoch, on_step)
        scores = validate(model, validation, config, info.max_clips)
        record = {"epoch": epoch, "loss": losses, "validation": scores, "seconds": time.monotonic() - began}
        score = scores.get(config.training.select_by, scores.get("HL-mAP", -math.inf))
        if score > best["score"]:
            best = {"epoch": epoch, "score": score, "scores": scores}
            write_tensors(out / "best.safetensors", model.state_dict())
            write_json(out / "best.json", best)
        _log(out / "log.jsonl", record, keep_before=epoch)
        write_tensors(out / "last.safetensors", training_state(model, optimizer, order))
        write_json(out / "last.json", {"epoch": epoch, "best": best})
        on_epoch(record)
    result = TrainResult(best["epoch"], best["scores"], epoch, count_parameters(model), time.monotonic() - began)
    write_json(out / "result.json", result.__dict__)
    for name in ("last.safetensors", "last.json"):
        (out / name).unlink(missing_ok=True)
    return result


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


def validate(model: RDMF, dataset: MomentDataset, config: Config, max_clips: int) -> dict[str, float]:
    """Scores of a split as fractions: R1@0.5, R1@0.7, mIoU, mAP; HL-mAP where it has highlights and no moments."""
    model.eval()
    predictions = predict_dataset(model, dataset, config.model.moment.iou_share, max_clips)
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


def loss_of(model: RDMF, batch: Batch, weights: LossWeights) -> dict[str, Tensor]:
    """Equations (14) to (17) for one batch; 'total' is what is minimised."""
    output = model(batch.clips, batch.clip_mask, batch.positions, batch.words, batch.word_mask)
    targets = Targets(batch.spans, batch.span_counts, batch.saliency, batch.saliency_mask)
    return total_loss(output.moments, output.saliency_logits, targets, weights)


def _train_epoch(
    model: RDMF,
    optimizer: torch.optim.Optimizer,
    dataset: MomentDataset,
    order: torch.Generator,
    config: Config,
    epoch: int,
    on_step: Callable[[Progress], None],
) -> dict[str, float]:
    """One pass over the split; the mean of every loss term."""
    model.train()
    device = next(model.parameters()).device
    weights = LossWeights(**config.loss.model_dump())
    batches = list(_batches(len(dataset), config.training.batch, order))
    sums: dict[str, float] = {}
    began, done = time.monotonic(), 0
    for step, rows in enumerate(batches, 1):
        _set_lr(optimizer, config.training, (epoch - 1) * len(batches) + step, len(batches))
        batch = collate([dataset[row] for row in rows]).to(device)
        try:
            losses = loss_of(model, batch, weights)
        except DivergenceError as error:
            raise ValueError(f"epoch {epoch}, step {step}: {error}") from None
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.gradient_clip)
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not math.isfinite(float(norm)) or not math.isfinite(values["total"]):
            bad = ", ".join(name for name, value in values.items() if not math.isfinite(value)) or "the gradient"
            raise ValueError(
                f"training diverged at epoch {epoch}, step {step}: {bad} is not finite (queries "
                f"{', '.join(q.qid for q in batch.queries[:3])} ...); lower training.lr or the time steps"
            )
        optimizer.step()
        done += len(rows)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        rate = done / (time.monotonic() - began)
        on_step(Progress(epoch, config.training.epochs, step, len(batches), values, rate))
    return {name: value / len(batches) for name, value in sums.items()}


def _batches(count: int, size: int, order: torch.Generator) -> Iterator[list[int]]:
    rows = torch.randperm(count, generator=order).tolist()
    for start in range(0, count, size):
        yield rows[start : start + size]


def _set_lr(optimizer: torch.optim.Optimizer, training: TrainingConfig, step: int, steps_per_epoch: int) -> None:
    factor = min(1.0, step / training.warmup_steps) if training.warmup_steps else 1.0
    if training.schedule == "cosine":
        done = min(1.0, step / (steps_per_epoch * training.epochs))
        factor *= 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = training.lr * factor


def _claim(out: Path, info: RunInfo, resume: bool) -> TrainResult | None:
    """Make `out` this run's folder; the result where the same run has ended there already."""
    if not (out / "run.json").is_file():
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no run; give --out another folder")
        out.mkdir(parents=True, exist_ok=True)
        save_run_info(out, info)
        return None
    if not resume:
        raise ValueError(f"{out} holds a run already; give --out another folder, or --resume to go on with it")
    there = load_run_info(out)
    for what in ("config", "video_specs", "text_spec", "dataset", "splits"):
        if getattr(there, what) != getattr(info, what):
            raise ValueError(
                f"{out} holds a run with another {what}: {_difference(getattr(there, what), getattr(info, what))}; "
                "give --out another folder, or delete it"
            )
    if not (out / "result.json").is_file():
        return None
    return TrainResult(**read_json(out / "result.json", ""))


def _difference(old: Any, new: Any) -> str:
    """The first place where two settings differ."""
    if isinstance(old, Config) and isinstance(new, Config):
        a, b = _flat(old.model_dump()), _flat(new.model_dump())
        key = next(k for k in {**a, **b} if a.get(k) != b.get(k))
        return f"{key} is {a.get(key)} there, {b.get(key)} here"
    return f"{old} there, {new} here" if len(f"{old}{new}") < 200 else "they differ"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def _log(path: Path, record: dict[str, Any], keep_before: int) -> None:
    """Append an epoch; lines of epochs that a killed run logged but did not keep are dropped."""
    kept = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
    kept = [line for line in kept if line.endswith("\n") and json.loads(line)["epoch"] < keep_before]
    path.write_text("".join(kept) + json.dumps(record) + "\n", "utf-8")


def _versions() -> dict[str, str]:
    names = ("rdmf", "torch", "transformers", "numpy", "h5py", "pyarrow")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}
