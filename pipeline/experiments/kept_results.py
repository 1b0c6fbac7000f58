"""The results of a run on a split, kept beside its weights: what was once judged is not judged again.

<run>/per_query.<split>.parquet   what each query scored (see evaluation/per_query.py), sealed
<run>/scores.<split>.json         what `rdmf evaluate --json` writes, and the sha256 of the weights and of the table

The scores are written last. Results of other weights, and damaged ones, count as none.
"""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...manifests.sealed import sealed
from ..evaluation.evaluate import Results
from ..training.checkpoint import write_json
from ..training.tensor_files import publish

FORMAT = 2


def keep(run: Path, split: str, results: Results, tree: dict[str, Any]) -> None:
    """tree: the JSON of the evaluation."""
    data = sealed(to_arrow(results.table), compression="zstd")
    publish(_table_file(run, split), [data])
    kept = {"format": FORMAT, "protocol": results.protocol, "metrics": list(results.metrics)}
    kept |= {"weights_sha256": _sha256(_weights(run)), "per_query_sha256": hashlib.sha256(data).hexdigest()}
    write_json(_scores_file(run, split), tree | {"kept": kept})


def find_kept(run: Path, split: str) -> Results | None:
    """The results of the run's present weights; None where they are yet to be made."""
    try:
        tree = json.loads(_scores_file(run, split).read_text("utf-8"))
        data = _table_file(run, split).read_bytes()
        kept = tree["kept"]
        fits = kept["format"] == FORMAT and kept["per_query_sha256"] == hashlib.sha256(data).hexdigest()
        if not fits or kept["weights_sha256"] != _sha256(_weights(run)):
            return None
        metrics = {name: tree[name] for name in kept["metrics"]}
        return Results(kept["protocol"], metrics, tree["rdmf"], from_arrow(pq.read_table(BytesIO(data))))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # absent or damaged: they can be made again
        return None


def _weights(run: Path) -> Path:
    return run / "best.safetensors"


def _scores_file(run: Path, split: str) -> Path:
    return run / f"scores.{quote(split, safe='')}.json"


def _table_file(run: Path, split: str) -> Path:
    return run / f"per_query.{quote(split, safe='')}.parquet"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def to_arrow(table: dict[str, np.ndarray]) -> pa.Table:
    """Columns [Q] as they are, columns [Q, n] as lists of n."""

    def column(values: np.ndarray) -> pa.Array:
        if values.ndim == 1:
            return pa.array(values.tolist() if values.dtype.kind in "UO" else values)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    return pa.table({name: column(values) for name, values in table.items()})


def from_arrow(table: pa.Table) -> dict[str, np.ndarray]:
    """The columns of `to_arrow` again."""

    def values(column: pa.ChunkedArray) -> np.ndarray:
        array = column.combine_chunks()
        if pa.types.is_fixed_size_list(array.type):
            return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, array.type.list_size)
        found = array.to_numpy(zero_copy_only=False)
        return found.astype(str) if found.dtype == object else found

    return {name: values(table[name]) for name in table.column_names}
