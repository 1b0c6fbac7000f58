"""A store as files that other tools read: an .npz for each item, or one Parquet table.

    npz       <vid>.npz       features [rows, dim], times_s [rows, 2], duration_s     the layout of Moment-DETR's kin
              qid<qid>.npz    last_hidden_state [tokens, dim]
              index.json      the spec of the store, and the file of every id
    parquet   <store>.parquet one row per clip or token: id, row, start_s, end_s, values; the spec is its metadata

An id that is no safe file name (`a/b`, `..`, two that differ in case only) gets a name made of its hash; index.json
has the id. What is exported appears when it is whole. `rdmf store import` reads the npz folder back to the same values.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..manifests.files import written_as
from .layout import Kind
from .reader import FeatureStore

Format = Literal["npz", "parquet"]
Dtype = Literal["float16", "float32"]
INDEX_FILE = "index.json"
INDEX_FORMAT = "rdmf export 1"
BEFORE_ID: dict[Kind, str] = {"video": "", "text": "qid"}
SAFE_ID = re.compile(r'[^./\\:*?"<>|][^/\\:*?"<>|]*')  # as a part of a file name on Linux, macOS and Windows
ROW_GROUP = 16_384  # rows of the Parquet table held in memory
PARQUET_SCHEMA = [
    ("id", pa.string()),
    ("row", pa.int32()),
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
    ("values", pa.list_(pa.float32())),
]
OnItem = Callable[[int, int], None]


def export_stores(
    stores: Sequence[tuple[Path, FeatureStore]],
    out: Path,
    form: Format,
    dtype: Dtype = "float16",
    on_item: OnItem = lambda done, total: None,
) -> None:
    """Write each store to its place below `out` (the path beside it, '.' for `out` itself); all of it or nothing.

    dtype: of the npz files; Parquet has float32, which holds every float16 exactly.
    Raises ValueError where `out` has something in it already.
    """
    if form not in get_args(Format) or dtype not in get_args(Dtype):
        raise ValueError(f"expected the format npz or parquet and float16 or float32, got {form!r} and {dtype!r}")
    total, done = sum(len(store) for _, store in stores), 0

    def count() -> None:
        nonlocal done
        done += 1
        on_item(done, total)

    with whole_folder(out) as folder:
        for place, store in stores:
            if form == "npz":
                _write_npz(store, folder / place, np.dtype(dtype), count)
            else:
                name = place if place.name else Path(store.spec.folder_name)
                _write_parquet(store, folder / name.with_name(f"{name.name}.parquet"), count)


def file_names(kind: Kind, ids: Iterable[str]) -> dict[str, str]:
    """A file name for every id: the id itself where that is safe, else one made of its hash."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for id_ in ids:
        name = f"{BEFORE_ID[kind]}{id_}.npz"
        if not SAFE_ID.fullmatch(id_) or name.casefold() in taken:
            name = f"sha256-{hashlib.sha256(id_.encode('utf-8', 'surrogatepass')).hexdigest()}.npz"
        taken.add(name.casefold())
        names[id_] = name
    return names


def read_export_index(folder: Path) -> dict[str, str] | None:
    """The file name of each id in a folder that `export_stores` wrote, None in any other folder.

    The names come from a file and are not to be trusted: compare them with what is in the folder.
    Raises ValueError for an index that is damaged.
    """
    try:
        tree = json.loads((folder / INDEX_FILE).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError):
        tree = None
    if not isinstance(tree, dict) or tree.get("format") != INDEX_FORMAT:
        return None  # some other tool's index.json
    files = tree.get("files")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise ValueError(f"{folder / INDEX_FILE} is damaged; export the store again")
    return files


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` at the end, and is removed after an error.

    An OSError about it says that `out` cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"expected a folder that is new or empty, got {out}; export to another one")
    asked, out = out, out.resolve()
    temporary = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    with written_as(asked, temporary):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            temporary.replace(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_npz(store: FeatureStore, folder: Path, dtype: np.dtype[Any], count: Callable[[], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = file_names(store.spec.kind, store.ids)
    for id_, name in names.items():
        values, times_s, duration_s = store.features(id_)
        if times_s is None:
            np.savez(folder / name, last_hidden_state=values.astype(dtype))
        else:
            np.savez(folder / name, features=values.astype(dtype), times_s=times_s, duration_s=np.float64(duration_s))
        count()
    tree = {"format": INDEX_FORMAT, "spec": json.loads(store.spec.to_json()), "files": names}
    (folder / INDEX_FILE).write_text(json.dumps(tree, indent=1, ensure_ascii=True) + "\n", "utf-8")


def _write_parquet(store: FeatureStore, path: Path, count: Callable[[], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(PARQUET_SCHEMA, metadata={"rdmf": store.spec.to_json()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        waiting: list[pa.RecordBatch] = []
        for id_ in store.ids:
            waiting.append(_record_batch(store, id_, schema))
            count()
            if sum(map(len, waiting)) >= ROW_GROUP:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))


def _record_batch(store: FeatureStore, id_: str, schema: pa.Schema) -> pa.RecordBatch:
    values, times_s, _ = store.features(id_)
    rows, dim = values.shape
    flat = pa.array(values.astype(np.float32).reshape(-1))
    none = pa.nulls(rows, pa.float64())
    columns = [
        pa.array([id_] * rows, pa.string()),
        pa.array(np.arange(rows, dtype=np.int32)),
        *(none if times_s is None else pa.array(times_s[:, side]) for side in (0, 1)),
        pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * dim), flat),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
