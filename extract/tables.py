"""The Parquet tables of a store: written whole, tied to its spec, and read only when every bit is as written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..manifests.sealed import is_sealed, sealed
from .layout import StoreSpec, read_regular
from .writer import atomic_write

META = b"rdmf"


def write_table(
    path: Path, spec: StoreSpec, columns: Mapping[str, tuple[str, Sequence[Any]]], about: Mapping[str, Any]
) -> None:
    """Columns as {name: (Arrow type, values)}, and facts about the whole table that JSON can hold."""
    fields = [pa.field(name, kind) for name, (kind, _) in columns.items()]
    meta = {META: json.dumps({"fingerprint": spec.fingerprint, **about}).encode()}
    arrays = [pa.array(list(values), kind) for kind, values in columns.values()]
    atomic_write(path, sealed(pa.table(arrays, pa.schema(fields, metadata=meta))))


def read_table(
    path: Path, spec: StoreSpec, kinds: Mapping[str, str]
) -> tuple[dict[str, list[Any]], dict[str, Any]] | None:
    """The columns and the facts, or None for a table that is lost, damaged, or of another store."""
    try:
        data = read_regular(path)
        if not is_sealed(data):
            return None
        table = pq.read_table(pa.BufferReader(data))
        about = json.loads(table.schema.metadata[META])
        if about["fingerprint"] != spec.fingerprint:
            return None
        if {field.name: str(field.type) for field in table.schema} != dict(kinds):
            return None
        return {name: table.column(name).to_pylist() for name in kinds}, about
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError):
        return None
