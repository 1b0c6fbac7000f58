"""What is compared: files of predictions and runs, several of them as seeds of one system.

preds.jsonl                      a file of predictions, judged by the annotations
runs/rdmf                        a run: its best weights predict the split, on the features it was trained on
ours=runs/a,runs/b,runs/c        a name and its seeds, files or runs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...manifests.schema import Manifest
from ..evaluation.columns import columns
from ..evaluation.evaluate import Results, evaluate
from ..evaluation.predictions import read_predictions

if TYPE_CHECKING:
    from .evaluate_run import RunPredictions

EXPECTED = "expected a file of predictions or a run, or name=one,another"


@dataclass(frozen=True, eq=False)
class System:
    """One system's results on the queries of a split, a result for each seed."""

    name: str
    results: tuple[Results, ...]

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError(f"expected at least one result of {self.name!r}, got none")

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The named numbers that every seed has, query by query, averaged over the seeds: [Q] each."""
        seeds = [columns(result.table) for result in self.results]
        return {
            name: np.mean([seed[name] for seed in seeds], axis=0) for name in seeds[0] if all(name in s for s in seeds)
        }


def parse_systems(texts: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Name -> files and runs of what was written as above; a bare path is named by what tells it from the others.

    Raises ValueError for a path that does not exist, and as `name_systems` does."""
    named = name_systems(texts)
    absent = next((path for paths in named.values() for path in paths if not path.exists()), None)
    if absent is not None:
        raise ValueError(f"{EXPECTED}, got {str(absent)!r}")
    return named


def name_systems(texts: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """The same, wherever the paths lead. Raises ValueError for a name without paths, and for what comes twice."""
    given: list[tuple[str, tuple[Path, ...]]] = []
    for text in texts:
        name, equals, rest = text.partition("=")
        if equals and not Path(text).exists():
            given.append((name.strip(), tuple(Path(part.strip()) for part in rest.split(",") if part.strip())))
        else:
            given.append(("", (Path(text),)))
        if not given[-1][1]:
            raise ValueError(f"{EXPECTED}, got {text!r}")
    every = [path.resolve() for _, paths in given for path in paths]
    twice = next((path for path in every if every.count(path) > 1), None)
    if twice is not None:
        raise ValueError(
            f"expected different files or runs, got {twice.name!r} twice; a system cannot be its own baseline"
        )
    short = short_names([paths[0] for name, paths in given if not name])
    names = [name or short[paths[0]] for name, paths in given]
    again = next((name for name in names if names.count(name) > 1), None)
    if again is not None:
        raise ValueError(
            f"expected a different name for each system, got {again!r} twice; tell them apart as name=path"
        )
    return dict(zip(names, (paths for _, paths in given), strict=True))


def short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The shortest end of each path that no other has: 'cg_detr/preds.jsonl'; the folder alone where that is enough."""
    out = {}
    for path in paths:
        parts = path.resolve().parts
        ends = [p.resolve().parts for p in paths if p.resolve() != path.resolve()]
        kept = next((n for n in range(1, len(parts)) if all(parts[-n:] != e[-n:] for e in ends)), len(parts))
        tail = parts[-kept:]
        alone = kept > 1 and path.suffix and all(tail[0] not in e for e in ends)
        out[path] = tail[0] if alone else "/".join(tail)
    return out


def read_systems(
    named: Mapping[str, Sequence[Path]],
    truth: Manifest | None = None,
    protocol: str | None = None,
    split: str | None = None,
    *,
    allow_missing: bool = False,
    features: Path | None = None,
    device: str = "cpu",
) -> tuple[list[System], list[str]]:
    """Judge what `parse_systems` gave, all on the same queries, without intervals; and what to know about it.

    truth: what everything is judged by; None takes the annotations of the first run's features, less the queries that
    some run has no features for. split: None takes 'val' for runs, and for files alone the one that was predicted.
    features: where those of the runs are now, as for `open_run`.
    Raises ValueError where there is neither truth nor a run, and as `evaluate` does.
    """
    ran: dict[Path, RunPredictions] = {}
    for path in (path for paths in named.values() for path in paths if path.is_dir()):
        from .evaluate_run import predict_run  # imports torch

        split = split or "val"
        ran[path] = predict_run(path, split, features=features, device=device)
    if features is not None and not ran:
        raise ValueError("expected a run among the systems for --features, got files of predictions alone")
    left_out: set[str] = set()
    if truth is None:
        if not ran:
            raise ValueError("expected the annotations that the predictions are judged by, got none; add --annotations")
        left_out = {qid for run in ran.values() for qid in run.dataset.missing}
        manifest = next(iter(ran.values())).dataset.features.manifest
        truth = replace(manifest, queries=tuple(query for query in manifest.queries if query.qid not in left_out))

    def judge(path: Path, truth: Manifest) -> Results:
        predictions = ran[path].predictions if path in ran else read_predictions(path)
        kept = [prediction for prediction in predictions if prediction.qid not in left_out]
        return evaluate(
            kept, truth, protocol, split, allow_missing=allow_missing, trusted=path in ran, resamples=0
        )  # fmt: skip

    systems = [System(name, tuple(judge(path, truth) for path in paths)) for name, paths in named.items()]
    notes = [f"{len(left_out)} queries without features in some run are left out of all"] if left_out else []
    notes += [
        f"{system.name}: {note}"
        for system in systems
        for note in dict.fromkeys(note for result in system.results for note in result.rdmf["notes"])
    ]
    return systems, notes
