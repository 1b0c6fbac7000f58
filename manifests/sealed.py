"""Parquet files that carry the SHA-256 of their own bytes, so that no changed bit goes unseen.

Parquet's page checksums leave its footer unguarded: column names, types, statistics, lengths. The digest is one more
key of the file's metadata, and counts as zeros in what is digested; to every other tool the file is plain Parquet. One
file, written at once: there is no moment at which a table and its checksum do not fit.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_KEY = b"rdmf.sha256"
_NO_DIGEST = b"0" * 64
_MARK = _KEY + b"\x18\x40"  # Thrift's compact protocol: then comes the next field, a text of 64 bytes


def sealed(table: pa.Table, **options: Any) -> bytes:
    """The table as a Parquet file. options: of `pyarrow.parquet.ParquetWriter`."""
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_KEY: _NO_DIGEST})
    data = buffer.getvalue().to_pybytes()
    at, found = _digest(data)
    assert data[at : at + 64] == _NO_DIGEST, "Parquet keeps texts of its metadata as they are"
    return data[:at] + found + data[at + 64 :]


def is_sealed(data: bytes) -> bool:
    """Whether every bit of the file is as `sealed` gave it."""
    at, found = _digest(data)
    return data[at : at + 64] == found


def _digest(data: bytes) -> tuple[int, bytes]:
    """Where the digest is (the last mark: nothing that is stored comes after it), and what it should be."""
    at = data.rfind(_MARK) + len(_MARK)
    sha256 = hashlib.sha256(memoryview(data)[:at])
    sha256.update(_NO_DIGEST)
    sha256.update(memoryview(data)[at + 64 :])
    return at, sha256.hexdigest().encode()
