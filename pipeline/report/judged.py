"""What a report is about: systems judged on the same queries, each query with its truth and its predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...manifests.schema import Manifest, Query
from ..comparison.systems import System, parse_systems, read_systems
from ..evaluation.evaluate import Results
from ..evaluation.pairing import Pairs, pair

if TYPE_CHECKING:
    from ..loading.dataset import MomentDataset
    from ..model import RDMF
    from ..training.checkpoint import RunInfo

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Opened:
    """A run whose inside can be looked at."""

    name: str
    info: RunInfo
    model: RDMF
    dataset: MomentDataset


@dataclass(frozen=True, eq=False)
class JudgedSystem:
    """A system with its seeds; a file of predictions is one seed."""

    system: System
    pairs: tuple[Pairs, ...]
    """Of each seed: predictions beside the truth, in the order of the queries."""
    runs: tuple[Opened, ...]
    """Of the seeds that are runs."""

    @property
    def name(self) -> str:
        return self.system.name

    @property
    def results(self) -> tuple[Results, ...]:
        return self.system.results


@dataclass(frozen=True, eq=False)
class Judged:
    """Every system on the same Q queries."""

    systems: tuple[JudgedSystem, ...]
    truth: Manifest
    """Just the queries that were judged."""
    notes: tuple[str, ...]

    @property
    def results(self) -> Results:
        """Of the first seed of the first system: what all have in common is read off it."""
        return self.systems[0].results[0]

    @property
    def pairs(self) -> Pairs:
        return self.systems[0].pairs[0]

    @property
    def queries(self) -> tuple[Query, ...]:
        return self.pairs.queries

    @property
    def sources(self) -> np.ndarray:
        """[Q], what intervals resample."""
        return self.results.table["source"]

    @property
    def runs(self) -> tuple[Opened, ...]:
        return tuple(run for system in self.systems for run in system.runs)


def judge(
    texts: Sequence[str],
    truth: Manifest | None = None,
    protocol: str | None = None,
    split: str | None = None,
    *,
    allow_missing: bool = False,
    features: Path | None = None,
    device: str = "cpu",
) -> Judged:
    """Judge systems, written as `parse_systems` takes them, and open the runs among them.

    Arguments and errors as for `read_systems`; also raises ValueError where the systems were not judged on the same
    queries.
    """
    named = parse_systems(texts)
    systems, notes = read_systems(
        named, truth, protocol, split, allow_missing=allow_missing, features=features, device=device
    )
    first = systems[0].results[0]
    opened: dict[Path, Opened] = {}
    for name, paths in named.items():
        for path in (path for path in paths if path.is_dir()):
            from ..comparison.evaluate_run import open_run  # imports torch

            title = name if len(paths) == 1 else f"{name}/{path.name}"
            opened[path] = Opened(title, *open_run(path, first.rdmf["split"], features=features, device=device))
    if truth is None:
        truth = next(iter(opened.values())).dataset.features.manifest
    judged = first.table["qid"].tolist()
    chosen = set(judged)
    truth = replace(truth, queries=tuple(query for query in truth.queries if query.qid in chosen))
    for system in systems:
        for result in system.results:
            if result.table["qid"].tolist() != judged or result.protocol != first.protocol:
                raise ValueError(
                    f"expected every system judged on the same queries by the same protocol, got {len(judged)} "
                    f"queries of {systems[0].name} and {len(result.table['qid'])} of {system.name}; report them apart"
                )
    return Judged(
        tuple(
            JudgedSystem(
                system,
                tuple(pair(result.predictions, truth, allow_missing=True) for result in system.results),
                tuple(opened[path] for path in named[system.name] if path in opened),
            )
            for system in systems
        ),
        truth,
        tuple(notes),
    )
