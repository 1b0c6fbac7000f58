"""Where every item of a store is: the summary of its shards that opens a store without opening each of them.

The shards are the truth. The index names the shards it was made from, and one that is lost, damaged or made
from other shards is never used: it is built anew, the newest record of an id (the one in the highest shard)
counting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .layout import FAILURES_FILE, INDEX_FILE, REFUSED, Failure, StoreSpec, shard_files, shown_id
from .plan import refused_sources
from .shard import Record, Shard, read_shard
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


def build_index(
    folder: Path, spec: StoreSpec, missing: Iterable[Failure] = (), shards: Mapping[int, Shard] | None = None
) -> Index:
    """The index of the shards that are there. `missing` are failures of sources that no shard knows; one that was
    refused for its id stays, even where another source of that id is known. `shards`: if they have been read.

    Raises StoreError for a shard that cannot be read.
    """
    newest: dict[str, tuple[int, Record]] = {}
    if shards is None:
        shards = {number: read_shard(path, number, spec) for number, path in shard_files(folder).items()}
    for number, shard in shards.items():
        for record in shard.records:
            newest.pop(record.id, None)  # so that the order is that of the newest records
            newest[record.id] = (number, record)
    items = {
        id_: Entry(number, r.first_row, r.rows, r.duration_s, r.source_sha256)
        for id_, (number, r) in newest.items()
        if r.failure is None
    }
    failures = [(r.failure, number) for number, r in newest.values() if r.failure is not None]
    told = {shown_id(f.id): f for f in missing if f.id not in newest or f.stage == REFUSED}
    failures += [(Failure(id_, told[id_].stage, told[id_].reason), NO_SHARD) for id_ in sorted(told)]
    return Index(items, tuple(failures), shard_sizes(folder))


def read_index(folder: Path, spec: StoreSpec) -> Index | None:
    """The index as written, or None where it is lost, damaged, or of other shards than are there now."""
    index = written_index(folder, spec)
    return index if index is not None and index.shards == shard_sizes(folder) else None


def written_index(folder: Path, spec: StoreSpec) -> Index | None:
    """The index as it was written, stale or not; None where one of its files is lost, damaged or older."""
    index, failed = read_table(folder / INDEX_FILE, spec, INDEX_COLUMNS), _written_failures(folder, spec)
    if index is None or failed is None:
        return None
    columns, about = index
    failures, shards = failed
    if shards != about["shards"]:
        return None
    items = dict(zip(columns.pop("id"), map(Entry, *columns.values()), strict=True))
    return Index(items, failures, shards)


def missing_sources(folder: Path, spec: StoreSpec) -> list[Failure]:
    """The failures of sources that no shard knows: callers reported them, or their ids were refused. As far as
    failures.parquet and plan.parquet are sound."""
    failures, _ = _written_failures(folder, spec) or ((), {})
    known = [f for f, shard in failures if shard == NO_SHARD and f.stage != REFUSED]
    return known + refused_sources(folder, spec)


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


def shard_sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in shard_files(folder).values()}


def _written_failures(folder: Path, spec: StoreSpec) -> tuple[tuple[tuple[Failure, int], ...], dict[str, int]] | None:
    """The failures, and the shards that failures.parquet was made from; None where it is lost or damaged."""
    table = read_table(folder / FAILURES_FILE, spec, FAILURE_COLUMNS)
    if table is None:
        return None
    columns, about = table
    shards = columns.pop("shard")
    return tuple(zip(map(Failure, *columns.values()), shards, strict=True)), about["shards"]


def _write(path: Path, spec: StoreSpec, kinds: dict[str, str], columns: list[list], index: Index) -> None:
    named = {name: (kind, values) for (name, kind), values in zip(kinds.items(), columns, strict=True)}
    write_table(path, spec, named, {"shards": index.shards})
