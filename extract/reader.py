"""Reading a store: memory-mapped features by id, the check of every byte, and what stores there are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .index import Entry, Index, build_index, missing_sources, read_index, shard_sizes
from .layout import PLAN_FILE, SHARD_NAME, SPEC_FILE, StoreError, StoreSpec, read_spec, shard_files, shard_name
from .plan import read_plan
from .shard import Record, read_shard
from .verify import verify_store


class Features(NamedTuple):
    """The features of one item, straight out of the memory map."""

    values: np.ndarray
    """float16 [rows, dim], read-only: copy before changing."""
    times_s: np.ndarray | None
    """float64 [rows, 2], start and end of each clip; None for text."""
    duration_s: float | None
    """None for text."""


class _Mapped(NamedTuple):
    values: np.ndarray
    times_s: np.ndarray | None
    records: dict[str, Record]


class FeatureStore:
    """An open store. Shards are mapped on first use, and again where a pickled store arrives."""

    def __init__(self, folder: Path, spec: StoreSpec, index: Index) -> None:
        self.folder, self.spec = folder, spec
        self.ids = tuple(index.items)
        self.failures = tuple(failure for failure, _ in index.failures)
        self._index = index
        self._maps: dict[int, _Mapped] = {}

    @classmethod
    def open(cls, folder: Path | str) -> FeatureStore:
        """Open a store; by its shards where the index is not sound. Raises StoreError if unusable."""
        folder = Path(folder)
        spec = read_spec(folder)
        index = read_index(folder, spec)
        if index is None:
            index = build_index(folder, spec, missing_sources(folder, spec))
        return cls(folder, spec, index)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id: object) -> bool:
        return id in self._index.items

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def features(self, id: str) -> Features:
        """The features of one item, nothing copied. Raises StoreError for an id that is not in the store."""
        number = self.entry(id).shard
        mapped = self._maps.get(number) or self._map(number)
        record = mapped.records.get(id)
        if record is None:
            raise StoreError(
                f"the index of {self.folder} does not fit its shards; `rdmf store repair {self.folder}` makes it again"
            )
        rows = slice(record.first_row, record.first_row + record.rows)
        times_s = None if mapped.times_s is None else mapped.times_s[rows]
        return Features(mapped.values[rows], times_s, record.duration_s)

    def entry(self, id: str) -> Entry:
        """What the index says of one item, no shard touched. Raises StoreError for an unknown id."""
        entry = self._index.items.get(id)
        if entry is None:
            reason = next((f": {f.reason} ({f.stage})" for f in self.failures if f.id == id), "")
            raise StoreError(f"expected an id of {self.folder}, got {id!r}, which has no features{reason}")
        return entry

    @property
    def pending(self) -> int:
        """Items planned and not in a shard: the extraction was cut short, or a shard was lost."""
        there = shard_files(self.folder)
        return sum(len(items) for n, items in read_plan(self.folder, self.spec).items() if n not in there)

    def verify(self) -> list[str]:
        """Read every byte; say in sentences what is not as written. Empty where all is well."""
        return [problem.what for problem in verify_store(self.folder)]

    def _map(self, number: int) -> _Mapped:
        shard = read_shard(self.folder / shard_name(number), number, self.spec)
        mapped = _Mapped(shard.map_values(), shard.map_times(), {record.id: record for record in shard.items})
        self._maps[number] = mapped
        return mapped


@dataclass(frozen=True)
class StoreSummary:
    """One line of the list of stores."""

    folder: Path
    kind: str
    name: str
    items: int
    rows: int
    bytes: int
    """Of the shards on disk."""
    failures: int
    pending: int
    """Items that were planned and never written: an extraction was cut short."""
    weights: str
    """Where the encoder's weights came from."""
    random: bool
    """The weights are random: the features carry no meaning that was learnt."""
    problem: str | None = None
    """Why the store cannot be used; the figures are then 0."""


def list_stores(features_dir: Path | str) -> list[StoreSummary]:
    """The stores below a folder, by path. One that cannot be used is listed with its problem."""
    return [_summary(folder) for folder in find_stores(features_dir)]


def find_stores(folder: Path | str) -> list[Path]:
    """The folder itself, or those below it, that are stores, damaged ones included; links are followed."""
    found, seen = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(here) in seen:
            folders.clear()
        elif {SPEC_FILE, PLAN_FILE} & {*files, *folders} or any(map(SHARD_NAME.fullmatch, files)):
            folders.clear()
            found.append(Path(here))
        seen.add(os.path.realpath(here))
    return sorted(found)


def _summary(folder: Path) -> StoreSummary:
    try:
        store = FeatureStore.open(folder)
    except (StoreError, OSError) as error:
        return StoreSummary(folder, "", folder.name, 0, 0, 0, 0, 0, "", False, str(error))
    weights = store.spec.weights
    return StoreSummary(
        folder=folder,
        kind=store.spec.kind,
        name=folder.name,
        items=len(store),
        rows=sum(store.entry(id).rows for id in store.ids),
        bytes=sum(shard_sizes(folder).values()),
        failures=len(store.failures),
        pending=store.pending,
        weights=str(weights.get("source", "")),
        random=bool(weights.get("random", False)),
    )
