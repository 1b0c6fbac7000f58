"""A sealed table: plain Parquet to everybody, and no bit of it changes unseen."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdmf.manifests.sealed import is_sealed, sealed

MARK = "rdmf.sha256\x18\x40" + "0" * 64  # as content it must not be taken for the digest


@pytest.fixture
def table() -> pa.Table:
    columns = {"id": ["a", MARK, None], "rows": [1, -(2**62), 0], "at": [[0.5], [], None]}
    return pa.table(columns).replace_schema_metadata({"rdmf": json.dumps({"note": MARK})})


def flips(data: bytes):
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}])
def test_every_single_flipped_bit_is_found(table: pa.Table, options: dict) -> None:
    data = sealed(table, **options)
    assert is_sealed(data)
    assert not any(map(is_sealed, flips(data)))


def test_a_table_cut_short_or_with_more_at_its_end_is_not_sealed(table: pa.Table) -> None:
    data = sealed(table)
    assert not any(is_sealed(data[:end]) for end in range(len(data)))
    assert not is_sealed(data + b"\0")
    assert not is_sealed(b"")


def test_other_tools_read_the_table_as_it_was_given(table: pa.Table) -> None:
    found = pq.read_table(pa.BufferReader(sealed(table)))
    assert found.equals(table)
    assert found.schema.metadata == table.schema.metadata


def test_a_table_that_another_tool_wrote_again_is_not_sealed(table: pa.Table) -> None:
    again = pa.BufferOutputStream()
    pq.write_table(pq.read_table(pa.BufferReader(sealed(table))), again)
    assert not is_sealed(again.getvalue().to_pybytes())


def test_the_same_table_gives_the_same_bytes(table: pa.Table) -> None:
    assert sealed(table) == sealed(table)
