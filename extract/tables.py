"""The Parquet tables of a store: written whole, tied to its spec, and read only when they are sound."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .layout import StoreSpec
from .writer import atomic_write

META = b"rdmf"


def write_table(
    path: Path, spec: StoreSpec, columns: Mapping[str, tuple[str, Sequence[Any]]], about: Mapping[str, Any]
) -> None:
    """Columns as {name: (Arrow type, values)}, and facts about the whole table that JSON can hold."""
    fields = [pa.field(name, kind) for name, (kind, _) in columns.items()]
    meta = {META: json.dumps({"fingerprint": spec.fingerprint, **about}).encode()}
    arrays = [pa.array(list(values), kind) for kind, values in columns.values()]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays, pa.schema(fields, metadata=meta)), buffer, write_page_checksum=True)
    atomic_write(path, buffer.getvalue().to_pybytes())


def read_table(
    path: Path, spec: StoreSpec, kinds: Mapping[str, str]
) -> tuple[dict[str, list[Any]], dict[str, Any]] | None:
    """The columns and the facts, or None for a table that is lost, damaged, or of another store."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        about = json.loads(table.schema.metadata[META])
        if about["fingerprint"] != spec.fingerprint:
            return None
        if {field.name: str(field.type) for field in table.schema} != dict(kinds):
            return None
        return {name: table.column(name).to_pylist() for name in kinds}, about
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError):
        return None
