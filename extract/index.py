"""Where every item of a store is: the summary of its shards that opens a store without opening each of them.

The shards are the truth. The index names the shards it was made from, and one that is lost, damaged or made
from other shards is never used: it is built anew, the newest record of an id (the one in the highest shard)
counting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .layout import FAILURES_FILE, INDEX_FILE, Failure, StoreSpec, read_spec, shard_files
from .shard import Record, read_shard
from .tables import read_table, write_table

NO_SHARD = -1  # of a failure that the caller reported: nothing was tried
INDEX_COLUMNS = {
    "id": "string",
    "shard": "int32",
    "first_row": "int64",
    "rows": "int64",
    "duration_s": "double",
    "source_sha256": "string",
}
FAILURE_COLUMNS = {"id": "string", "stage": "string", "reason": "string", "shard": "int32"}


class Entry(NamedTuple):
    """Where the rows of one item are, and what is known of its source."""

    shard: int
    first_row: int
    rows: int
    duration_s: float | None
    source_sha256: str


@dataclass(frozen=True)
class Index:
    items: dict[str, Entry]
    """By id, in the order of the shards."""
    failures: tuple[tuple[Failure, int], ...]
    """Every failure with the shard it happened in, or NO_SHARD."""
    shards: dict[str, int]
    """Name and size in bytes of every shard this was made from."""


def build_index(folder: Path, spec: StoreSpec, missing: Iterable[Failure] = ()) -> Index:
    """The index of the shards that are there. `missing` are failures of sources that no shard knows.

    Raises StoreError for a shard that cannot be read.
    """
    newest: dict[str, tuple[int, Record]] = {}
    for number, path in shard_files(folder).items():
        for record in read_shard(path, number, spec).records:
            newest.pop(record.id, None)  # so that the order is that of the newest records
            newest[record.id] = (number, record)
    items = {
        id_: Entry(number, r.first_row, r.rows, r.duration_s, r.source_sha256)
        for id_, (number, r) in newest.items()
        if r.failure is None
    }
    failures = [(r.failure, number) for number, r in newest.values() if r.failure is not None]
    failures += [(f, NO_SHARD) for f in sorted(missing, key=lambda f: f.id) if f.id not in newest]
    return Index(items, tuple(failures), shard_sizes(folder))


def read_index(folder: Path, spec: StoreSpec) -> Index | None:
    """The index as written, or None where it is lost, damaged, or of other shards than are there now."""
    index = written_index(folder, spec)
    return index if index is not None and index.shards == shard_sizes(folder) else None


def written_index(folder: Path, spec: StoreSpec) -> Index | None:
    """The index as it was written, stale or not; None where it is lost or damaged."""
    index = read_table(folder / INDEX_FILE, spec, INDEX_COLUMNS)
    failures = read_table(folder / FAILURES_FILE, spec, FAILURE_COLUMNS)
    if index is None or failures is None:
        return None
    columns, about = index
    items = dict(zip(columns.pop("id"), map(Entry, *columns.values()), strict=True))
    failed = failures[0]
    shards = failed.pop("shard")
    return Index(items, tuple(zip(map(Failure, *failed.values()), shards, strict=True)), about["shards"])


def missing_sources(folder: Path, spec: StoreSpec) -> list[Failure]:
    """The failures that callers reported and no shard knows, as far as failures.parquet is sound."""
    failures = read_table(folder / FAILURES_FILE, spec, FAILURE_COLUMNS)
    if failures is None:
        return []
    failed = failures[0]
    shards = failed.pop("shard")
    return [f for f, shard in zip(map(Failure, *failed.values()), shards, strict=True) if shard == NO_SHARD]


def write_index(folder: Path, spec: StoreSpec, index: Index) -> None:
    """Write failures.parquet, then index.parquet: a new index means that all is there."""
    failures, shards = [f for f, _ in index.failures], [shard for _, shard in index.failures]
    told: list[list[Any]] = [
        [f.id for f in failures],
        [f.stage for f in failures],
        [f.reason for f in failures],
        shards,
    ]
    _write(folder / FAILURES_FILE, spec, FAILURE_COLUMNS, told, index)
    entries = list(index.items.values())
    places = [[entry[i] for entry in entries] for i in range(len(Entry._fields))]
    _write(folder / INDEX_FILE, spec, INDEX_COLUMNS, [list(index.items), *places], index)


def rebuild_index(folder: Path) -> Index:
    """Make index.parquet and failures.parquet anew from the shards. Raises StoreError for a damaged shard."""
    spec = read_spec(folder)
    index = build_index(folder, spec, missing_sources(folder, spec))
    write_index(folder, spec, index)
    return index


def shard_sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in shard_files(folder).values()}


def _write(path: Path, spec: StoreSpec, kinds: dict[str, str], columns: list[list], index: Index) -> None:
    named = {name: (kind, values) for (name, kind), values in zip(kinds.items(), columns, strict=True)}
    write_table(path, spec, named, {"shards": index.shards})
