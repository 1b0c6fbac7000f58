"""What a cross-validation found, as files that travel: whoever has them need not train those models again.

<out>/results/<model>.parquet    one model: what each query scored in its test, with every seed, and all its trainings

A file is plain Parquet, sealed (manifests/sealed.py). Its rows are fold, seed, qid and the columns of
evaluation/per_query.py; the rest is JSON under the key `rdmf` of its metadata (`Contents`).

They count for a model on a fold where nothing else would come out: the same settings of all trials, the same first
seed (which tunes), the same features by their fingerprints, the same queries in the same parts with the same
annotations. What a model is called does not matter. Of one model there may be several files, say of other seeds: they
add up where they were tuned to the same scores. Everything that is read is checked; nothing in a file is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from ...manifests import PROTOCOLS
from ...manifests.files import annotations_sha256, atomic_file
from ...manifests.folds import group_of
from ...manifests.schema import Manifest
from ...manifests.sealed import is_sealed, sealed
from ..config import parse_config
from ..evaluation.columns import columns
from ..evaluation.evaluate import Results
from ..evaluation.official import official_numbers
from .crossval_plan import CrossvalPlan, Model
from .kept_results import from_arrow, to_arrow

FORMAT = 1
ENDING = ".parquet"
OF_QUERIES = ("qid", "vid", "source")
"""What a table says of a query beside its scores; a file has the first, the annotations the others."""
_KEY = b"rdmf"


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    score: float
    """Of its best epoch on the validation part, a fraction."""
    judge: str
    """Which score that is."""
    parameters: int
    seconds: float | None
    """None where it left no log of its time."""


class Training(BaseModel):
    """One training of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    fold: int
    trial: int
    seed: int
    score: float
    judge: str
    parameters: int
    seconds: float | None


class Tested(BaseModel):
    """One test of a file, beside its rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    fold: int
    seed: int
    missing: tuple[str, ...]
    notes: tuple[str, ...]


class Contents(BaseModel):
    """What a file says beside its rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: int
    model: str
    """Its name where it was trained."""
    trials: tuple[dict[str, Any], ...]
    """Their settings, whole."""
    first_seed: int
    protocol: str
    dataset: str
    features: tuple[str, ...]
    """The stores: encoders with their fingerprints, the sentences' last."""
    annotations: dict[int, str]
    """By fold: the SHA-256 of its queries, their parts and annotations (manifests/files.py)."""
    scores: dict[int, tuple[float | None, ...]]
    """By fold: of each trial on the validation part; None where it failed."""
    trainings: tuple[Training, ...]
    tests: tuple[Tested, ...]


@dataclass(frozen=True)
class OnFold:
    """What is known of one model on one fold."""

    scores: tuple[float | None, ...]
    trained: dict[tuple[int, int], Trained] = field(default_factory=dict)
    """By trial and seed."""
    results: dict[int, Results] = field(default_factory=dict)
    """By seed, of the trial that won."""

    def with_more(self, other: OnFold) -> OnFold:
        """And what another file knows beside it. Where tuning came out otherwise, on another processor, nothing."""
        if other.scores != self.scores:
            return self
        return OnFold(self.scores, other.trained | self.trained, other.results | self.results)


@dataclass(frozen=True)
class KnownFile:
    """One model's file, checked."""

    path: Path
    contents: Contents
    table: dict[str, np.ndarray]
    settings: tuple[dict[str, Any], ...] | None
    """Of the trials as this version has them; None where it does not know some."""


def read_known(folder: Path) -> list[KnownFile]:
    """The files of a folder. Raises ValueError where there are none, or one is damaged or something else."""
    if not folder.is_dir():
        raise ValueError(f"expected a folder of results (<out>/results of a benchmark), got {folder}")
    files = [_read(path) for path in sorted(folder.glob(f"*{ENDING}")) if path.name[0] != "."]
    if not files:
        raise ValueError(f"expected files of results in {folder}, as benchmarks leave them in <out>/results, got none")
    return files


def fitting(
    files: Sequence[KnownFile], plan: CrossvalPlan, folds: Sequence[Manifest], features: Sequence[str]
) -> tuple[dict[tuple[int, int], OnFold], list[str]]:
    """What is known of a plan, by fold and model; and notes: whose results are used, and why those of others are not.

    folds: the manifest of each. features: the names of the stores, as in `Contents`.
    """
    known: dict[tuple[int, int], OnFold] = {}
    used, notes = [], []
    annotations = [annotations_sha256(manifest) for manifest in folds]
    for number, model in enumerate(plan.models):
        settings = _settings(model)
        for file in files:
            if file.settings != settings:
                why = "they are of other settings" if file.contents.model == model.name else None
            else:
                why = _unlike(file.contents, plan, annotations, features)
            if why:
                notes.append(f"results of {model.name} in {file.path} are not used: {why}")
            elif why is not None:
                for k, digest in enumerate(annotations):
                    if file.contents.annotations.get(k) == digest:
                        found = _on_fold(file, k, folds[k])
                        known[k, number] = known.get((k, number), found).with_more(found)
                used.append(model.name)
    if used:
        notes.append(f"not trained here as far as known before: {'; '.join(dict.fromkeys(used))}")
    return known, notes


def write_results(
    path: Path, model: Model, plan: CrossvalPlan, folds: Mapping[int, str], features: Sequence[str],
    known: Mapping[int, OnFold],
) -> None:  # fmt: skip
    """A file of one model; it is replaced whole.

    folds: of each the SHA-256 of its annotations. known: by fold; at least one result among them.
    """
    tests = [(fold, seed, found) for fold, on in sorted(known.items()) for seed, found in sorted(on.results.items())]
    said = Contents(
        format=FORMAT, model=model.name, trials=_settings(model), first_seed=plan.seeds[0],
        protocol=tests[0][2].protocol, dataset=tests[0][2].rdmf["dataset"], features=tuple(features),
        annotations={fold: folds[fold] for fold in known}, scores={fold: on.scores for fold, on in known.items()},
        trainings=tuple(
            Training(fold=fold, trial=trial, seed=seed, **trained.__dict__)
            for fold, on in sorted(known.items()) for (trial, seed), trained in sorted(on.trained.items())
        ),
        tests=tuple(
            Tested(fold=fold, seed=seed, missing=found.rdmf["missing"], notes=found.rdmf["notes"])
            for fold, seed, found in tests
        ),
    )  # fmt: skip
    names = [n for n in tests[0][2].table if n not in OF_QUERIES and all(n in found.table for *_, found in tests)]
    sizes = [len(found.table["qid"]) for *_, found in tests]
    all_tests: dict[str, np.ndarray] = {
        "fold": np.repeat(np.array([fold for fold, *_ in tests], np.int32), sizes),
        "seed": np.repeat(np.array([seed for _, seed, _ in tests], np.int64), sizes),
    }
    all_tests |= {name: np.concatenate([found.table[name] for *_, found in tests]) for name in ("qid", *names)}
    table = to_arrow(all_tests).replace_schema_metadata({_KEY: said.model_dump_json().encode()})
    with atomic_file(path) as temporary:
        temporary.write_bytes(sealed(table, compression="zstd", compression_level=19))


def _read(path: Path) -> KnownFile:
    data = path.read_bytes()
    try:
        header = json.loads((pq.read_schema(pa.BufferReader(data)).metadata or {}).get(_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError, RecursionError):
        raise ValueError(f"expected results of a model in {path}, got no Parquet file that can be read") from None
    if not isinstance(header, dict) or "trials" not in header:
        raise ValueError(f"expected results of a model in {path}, got another Parquet file")
    if header.get("format") != FORMAT:
        raise ValueError(f"expected results of format {FORMAT} in {path}, got {header.get('format')!r}")
    if not is_sealed(data):
        raise ValueError(f"{path} is damaged or was changed by another tool; take it from its source again")
    try:
        said = Contents.model_validate_json(json.dumps(header))
        table = from_arrow(pq.read_table(pa.BufferReader(data)))
        _check(said, table)
    except (ValidationError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path} holds no results that can be read: {str(error).splitlines()[0]}") from None
    try:
        settings = tuple(_seedless(parse_config(trial, str(path)).model_dump(mode="json")) for trial in said.trials)
    except ValueError:
        settings = None
    return KnownFile(path, said, table, settings)


def _check(said: Contents, table: dict[str, np.ndarray]) -> None:
    """Raises ValueError where a file contradicts itself, KeyError or IndexError where it lacks columns."""
    if said.protocol not in PROTOCOLS:
        raise ValueError(f"expected a protocol of {', '.join(PROTOCOLS)}, got {said.protocol!r}")
    if not said.scores.keys() == said.annotations.keys() or any(
        len(scores) != len(said.trials) for scores in said.scores.values()
    ):
        raise ValueError("expected scores of each trial on each fold")
    tests = {(test.fold, test.seed) for test in said.tests}
    if tests != set(zip(table["fold"].tolist(), table["seed"].tolist(), strict=True)) or not tests:
        raise ValueError("expected rows of just the folds and seeds that were tested")
    for name, column in table.items():
        if name not in ("fold", "seed", "qid") and not (column.dtype.kind == "f" and _are_shares(column)):
            raise ValueError(f"expected shares of 1 in column {name}")
    columns(table)  # whether all is there that numbers are made of, and as wide as it should be
    official_numbers(table, said.protocol)


def _are_shares(column: np.ndarray) -> bool:
    return bool((np.isnan(column) | ((column >= 0) & (column <= 1))).all())


def _settings(model: Model) -> tuple[dict[str, Any], ...]:
    """Of each trial, but for the seed, as JSON has them."""
    return tuple(_seedless(trial.config.model_dump(mode="json")) for trial in model.trials)


def _seedless(tree: dict[str, Any]) -> dict[str, Any]:
    return tree | {"training": {key: value for key, value in tree["training"].items() if key != "seed"}}


def _unlike(said: Contents, plan: CrossvalPlan, annotations: Sequence[str], features: Sequence[str]) -> str:
    """Why results of the same settings do not count; nothing where they do."""
    if said.first_seed != plan.seeds[0]:
        return f"they were tuned with seed {said.first_seed}, these are with {plan.seeds[0]}"
    if said.features != tuple(features):
        return f"they are on {', '.join(said.features)}, these on {', '.join(features)}"
    if not any(said.annotations.get(k) == digest for k, digest in enumerate(annotations)):
        return "they are on other folds or annotations"
    return ""


def _on_fold(file: KnownFile, fold: int, manifest: Manifest) -> OnFold:
    said, table = file.contents, file.table
    asked = manifest.split("test")
    place = {query.qid: i for i, query in enumerate(asked)}
    results = {}
    for test in (test for test in said.tests if test.fold == fold):
        rows = np.flatnonzero((table["fold"] == fold) & (table["seed"] == test.seed))
        qids = table["qid"][rows].tolist()
        if len(qids) != len(place) or set(qids) != place.keys():
            raise ValueError(
                f"{file.path}: expected the {len(place)} queries of fold {fold}, got others; take a whole file"
            )
        rows = rows[np.argsort([place[qid] for qid in qids])]
        own = {name: column[rows] for name, column in table.items() if name not in ("fold", "seed")}
        own |= {
            "vid": np.array([query.vid for query in asked]),
            "source": np.array([group_of(manifest.dataset, query.vid) for query in asked]),
        }
        ours = {"dataset": said.dataset, "missing": list(test.missing), "notes": list(test.notes)}
        results[test.seed] = Results(said.protocol, official_numbers(own, said.protocol), ours, own)
    trained = {
        (each.trial, each.seed): Trained(each.score, each.judge, each.parameters, each.seconds)
        for each in said.trainings if each.fold == fold
    }  # fmt: skip
    return OnFold(said.scores[fold], trained, results)
