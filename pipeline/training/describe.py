"""What a run says of itself before it begins: all that is needed to repeat it, and what users should know of it."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from ..config import Config, ModelConfig
from ..loading.dataset import FeatureSet, MomentDataset
from ..loading.likeness import told_apart
from ..model import alike
from .checkpoint import RunInfo
from .parallel import World

TELLING = 0.55
"""Share of pairs of clips that likeness puts in the right order, below which `model.relevance` says next to nothing."""


def describe(
    folder: Path, features: FeatureSet, roles: dict[str, str], training: MomentDataset, config: Config, command: str,
    world: World,
) -> RunInfo:  # fmt: skip
    """The run that `command` asks for, on the features in `folder`."""
    manifest = features.manifest
    return RunInfo(
        config=config, dataset=manifest.dataset, clip_seconds=manifest.clip_seconds, features=str(folder),
        video_specs=tuple(s.spec for s in features.video), text_spec=features.text.spec,
        max_clips=max(len(features.video[0].features(vid).values) for vid in {q.vid for q in training.queries}),
        splits=roles, versions=versions(), command=command,
        manifest_sha256=hashlib.sha256((folder / "manifest.parquet").read_bytes()).hexdigest(),
        machine={
            "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else str(world.device),
            "threads": torch.get_num_threads(), "processes": world.size, "platform": platform.platform(),
        },
    )  # fmt: skip


def versions() -> dict[str, str]:
    names = ("rdmf", "torch", "transformers", "numpy", "h5py", "pyarrow")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def remarks(info: RunInfo, splits: Iterable[MomentDataset]) -> Iterator[str]:
    """Sentences on queries that are left out and on encoders that know nothing, or nothing of each other."""
    splits = list(splits)
    for dataset in splits:
        if dataset.missing:
            yield (
                f"{dataset.split}: {len(dataset.missing)} of {len(dataset.missing) + len(dataset)} queries have no "
                f"features and are left out ({next(iter(dataset.missing.values()))})"
            )
    if info.random_weights:
        yield f"note: RANDOM encoder weights made the features of {', '.join(info.random_weights)}"
    if (said := unlike(info.config.model, splits[0])) is not None:
        yield f"note: {said}"


def unlike(model: ModelConfig, training: MomentDataset) -> str | None:
    """A sentence, where `model.relevance` compares encoders that have nothing in common, as far as training shows."""
    if not model.relevance:
        return None
    share = told_apart(training, alike(model, training.features.dims[1]))
    if not share < TELLING:
        return None
    return (
        f"model.relevance compares features that hardly tell a moment's clips from others ({share:.2f} of pairs in the "
        "right order, 0.5 is chance): are the encoders of one space, and is model.relevance_from right?"
    )


def changes(then: RunInfo, now: RunInfo) -> list[str]:
    """What a run that is gone on with began with other than now, and what rounds otherwise for it."""
    pairs = ((then.machine, now.machine), (then.versions, now.versions))
    return [key for old, new in pairs for key, value in new.items() if old.get(key, value) != value]
