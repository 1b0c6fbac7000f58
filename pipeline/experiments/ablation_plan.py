"""What a sweep comes to on its features: the runs that are to be there, and what is refused before any is trained.

A folder belongs to one base on one set of features; variants and seeds may be added to it. What is there is found again
by its settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import Config, flat, parse_config
from ..evaluation.evaluate import Results
from ..loading.dataset import FeatureSet, MomentDataset, open_features
from ..loading.memory import free_memory
from ..model import RDMF, alike
from ..training.checkpoint import load_run_info, read_json
from ..training.describe import unlike
from ..training.run_folder import holds_checkpoint
from ..training.validation import with_validation
from .kept_results import find_kept
from .sweep import Sweep, Variant

PROCESS_BYTES = 1_500_000_000
"""Of one training, its features aside. Libraries take 0.5 GB, with the paper's model on videos of a minute 0.8."""
MEMORY_SHARE = 0.8
"""Of the free memory that all trainings together may take."""
SAME = ("base", "video_specs", "text_spec", "manifest_sha256")
"""What sweeps in one folder must have in common."""


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    variant: str
    seed: int
    config: Config
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"


@dataclass(frozen=True)
class Shared:
    """What all runs of a sweep have in common."""

    features: Path
    video_stores: tuple[str, ...]
    text_store: str | None
    split: str
    device: str
    threads: int
    command: str


@dataclass(frozen=True)
class Plan:
    """A sweep on its features, checked; nothing is trained yet."""

    sweep: Sweep
    out: Path
    shared: Shared
    runs: tuple[Run, ...]
    """Each once, though variants may share them."""
    refused: dict[str, str]
    """Variants that the model does not take, and what it says."""
    said: dict[str, Any]
    """What sweep.json says."""
    validation: str
    """The split that every run's epoch is chosen on."""
    random_weights: tuple[str, ...]
    """Stores that encoders with random weights made."""
    unlike: tuple[str, ...]
    """What is to be said of variants that compare features of different spaces."""
    feature_bytes: int
    """That one run holds."""

    def kept(self, run: Run) -> Results | None:
        return find_kept(run.folder, self.shared.split)

    @property
    def notes(self) -> list[str]:
        """What to know about all numbers."""
        flattered = []
        if self.validation == self.shared.split:
            chosen = self.sweep.base.training.select_by
            flattered = [f"each run's epoch was chosen on this very split (by {chosen}), which flatters all of them"]
        return flattered + self.notes_on_features

    @property
    def notes_on_features(self) -> list[str]:
        notes = []
        if self.random_weights:
            notes = [f"RANDOM encoder weights made the features of {', '.join(self.random_weights)}"]
        return [*notes, *self.unlike]

    def at_once(self, to_do: int) -> int:
        """How many runs of `to_do` the cores and the memory of this machine allow at once; at least one."""
        from dask.system import CPU_COUNT

        room = MEMORY_SHARE * free_memory(torch.device("cpu")) / (PROCESS_BYTES + self.feature_bytes)
        return max(1, min(to_do, CPU_COUNT // self.shared.threads, int(room)))


def prepare(
    sweep: Sweep,
    features: Path,
    out: Path,
    *,
    video_stores: Sequence[str] = (),
    text_store: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    command: str = "",
) -> Plan:
    """Look whether a sweep fits its features and its folder. Raises ValueError where it does not."""
    features, out = features.absolute(), out.absolute()  # workers may have another working directory
    feature_set, roles = with_validation(open_features(features, video_stores, text_store), sweep.base.training)
    if not any(query.windows or query.saliency for query in MomentDataset(feature_set, sweep.split).queries):
        raise ValueError(f"expected annotations of split {sweep.split!r} to judge by, got none; take another split")
    runs, refused = [], {}
    models: dict[str, str | None] = {}
    for variant in sweep.variants:
        if variant.folder not in models:
            models[variant.folder] = complaint = _refusal(variant.config, feature_set)
            if complaint is None:
                runs += [_run(out, variant, seed) for seed in sweep.seeds]
        if (complaint := models[variant.folder]) is not None:
            refused[variant.name] = complaint
    said = {
        "format": 1, "command": command, "split": sweep.split, "seeds": list(sweep.seeds),
        "variants": {v.name: {"folder": v.folder, "set": difference(sweep.base, v.config)} for v in sweep.variants},
        "base": sweep.base.model_dump(), "video_specs": [asdict(store.spec) for store in feature_set.video],
        "text_spec": asdict(feature_set.text.spec),
        "manifest_sha256": hashlib.sha256((features / "manifest.parquet").read_bytes()).hexdigest(),
    }  # fmt: skip
    shared = Shared(features, tuple(video_stores), text_store, sweep.split, device, threads, command)
    plan = Plan(
        sweep, out, shared, tuple(runs), refused, json.loads(json.dumps(said)), roles["validation"].split()[0],
        tuple(feature_set.random_weights),
        _unlike([v for v in sweep.variants if v.name not in refused], MomentDataset(feature_set, "train")),
        _bytes(feature_set, ("train", roles["validation"].split()[0])),
    )  # fmt: skip
    refuse_another(plan)
    return plan


def difference(base: Config, config: Config) -> dict[str, Any]:
    """The settings in which a config differs from the base, those left out because None."""
    a, b = (flat(each.model_dump(exclude_none=True)) for each in (base, config))
    return {key: value for key, value in b.items() if key not in a or a[key] != value}


def _run(out: Path, variant: Variant, seed: int) -> Run:
    return Run(variant.name, seed, variant.seeded(seed), out / variant.folder / f"seed-{seed}")


def _refusal(config: Config, features: FeatureSet) -> str | None:
    try:
        RDMF(config.model, *features.dims)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def _unlike(variants: Sequence[Variant], training: MomentDataset) -> tuple[str, ...]:
    told, width = [v.config.model for v in variants if v.config.model.relevance], training.features.dims[1]
    models = {repr(alike(model, width)): model for model in told}
    return tuple(said for model in models.values() if (said := unlike(model, training)) is not None)


def _bytes(features: FeatureSet, splits: Sequence[str]) -> int:
    queries = [query for split in splits for query in MomentDataset(features, split).queries]
    vids, qids = {q.vid for q in queries}, {q.qid for q in queries}
    clips = sum(store.entry(vid).rows * store.spec.dim for store in features.video for vid in vids)
    return 2 * (clips + sum(features.text.entry(qid).rows for qid in qids) * features.text.spec.dim)


def refuse_another(plan: Plan) -> None:
    """Raises ValueError where the folder is not this sweep's, or a run in it has other settings."""
    out = plan.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give --out another folder")
    if out.is_dir() and any(not each.name.startswith(".") for each in out.iterdir()):
        there = read_json(out / "sweep.json", f"{out} is not empty and holds no sweep; give --out another folder")
        if isinstance(there.get("base"), dict):  # settings that are newer than the folder have their defaults there
            there["base"] = parse_config(there["base"], f"{out / 'sweep.json'}: base").model_dump(mode="json")
        for what in SAME:
            if there.get(what) != plan.said[what]:
                raise ValueError(
                    f"{out} holds a sweep with another {what}{_where(there.get(what), plan.said[what])}; "
                    "give --out another folder, or delete it"
                )
    for run in plan.runs:
        if holds_checkpoint(run.folder) and (found := load_run_info(run.folder).config) != run.config:
            where = _where(found.model_dump(), run.config.model_dump())
            raise ValueError(f"{run.folder} holds a run with other settings{where}; give --out another folder")


def _where(there: Any, here: Any) -> str:
    """': model.hidden is 32 there, 64 here', where both are settings."""
    if not isinstance(there, dict) or not isinstance(here, dict):
        return ""
    a, b = flat(there), flat(here)
    key = next((key for key in {**a, **b} if a.get(key) != b.get(key)), None)
    return f": {key} is {a.get(key)} there, {b.get(key)} here" if key else ""
