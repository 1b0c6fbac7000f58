"""A manifest as a Parquet file, whole and checked: what is read is what was written.

One row for each query, readable by any Parquet tool (`pandas.read_parquet`): qid, vid, split, text,
duration_s, kind, windows as a list of {start_s, end_s}, and the saliency in five columns that are null where
there is none. The rest (dataset, clip length, findings, videos that no query is about) is JSON under the key
`rdmf` of the file's metadata, with the format version. The file carries the SHA-256 of its own bytes (see
`sealed.py`), so that a damaged one, or one changed by another tool, is refused, not used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .schema import Finding, Manifest, Moment, Query, Saliency, Video
from .sealed import is_sealed, sealed

FORMAT_VERSION = 2
_KEY = b"rdmf"
_SCHEMA = pa.schema(
    [
        ("qid", pa.string()),
        ("vid", pa.string()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("duration_s", pa.float64()),
        ("kind", pa.string()),
        ("windows", pa.list_(pa.struct([("start_s", pa.float64()), ("end_s", pa.float64())]))),
        ("saliency_clip_ids", pa.list_(pa.int32())),
        ("saliency_scores", pa.list_(pa.list_(pa.float64()))),
        ("saliency_clip_seconds", pa.float64()),
        ("saliency_low", pa.float64()),
        ("saliency_high", pa.float64()),
    ]
)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file to write in place of `path`: synced and renamed at the end, removed after an error.

    An OSError about it says that `path` cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with written_as(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if os.name == "posix":  # make the new name itself outlive a power cut
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


@contextmanager
def written_as(path: Path, temporary: Path) -> Iterator[None]:
    """Makes an OSError about what is temporary, or a folder above it, one about `path`: the user knows no other."""
    try:
        yield
    except OSError as error:
        about = temporary if error.filename is None else Path(os.fsdecode(error.filename))
        if error.errno is None or not (about.is_relative_to(temporary) or temporary.is_relative_to(about)):
            raise
        raise OSError(error.errno, f"{path} cannot be written ({error.strerror})") from error


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write atomically: a reader sees the old file or the new one, never a part."""
    asked = {query.vid for query in manifest.queries}
    header = {
        "format_version": FORMAT_VERSION,
        "dataset": manifest.dataset,
        "clip_seconds": float(manifest.clip_seconds),
        "findings": [asdict(finding) for finding in manifest.findings],
        "videos_without_queries": [asdict(v) for vid, v in manifest.videos.items() if vid not in asked],
    }
    data = sealed(_table(manifest).replace_schema_metadata({_KEY: json.dumps(header).encode()}), compression="zstd")
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(data)


def read_manifest(path: str | Path) -> Manifest:
    """Read what `write_manifest` wrote.

    Raises ValueError, with what to do, where the file is absent, no manifest, of another version, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a manifest at {path}, got nothing there; make it with `rdmf features`")
    damaged = f"{path} is damaged or was changed by another tool; make it again with `rdmf features`"
    data = path.read_bytes()
    try:
        header = json.loads((pq.read_schema(pa.BufferReader(data)).metadata or {}).get(_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{damaged} ({str(error).splitlines()[0] if str(error) else error!r})") from error
    if not isinstance(header, dict):
        raise ValueError(f"expected a manifest of rdmf in {path}, got another Parquet file")
    if header.get("format_version") != FORMAT_VERSION:
        version = header.get("format_version")
        raise ValueError(f"expected manifest format {FORMAT_VERSION} in {path}, got {version!r}; make it again")
    if not is_sealed(data):  # the pages of a damaged table are not even unpacked
        raise ValueError(damaged)
    table = pq.read_table(pa.BufferReader(data))
    if not table.schema.equals(_SCHEMA):
        raise ValueError(damaged)
    rows = table.to_pylist()
    videos = {row["vid"]: Video(row["vid"], row["duration_s"]) for row in rows}
    videos |= {entry["vid"]: Video(**entry) for entry in header["videos_without_queries"]}
    findings = tuple(Finding(**entry) for entry in header["findings"])
    queries = tuple(map(_query, rows))
    return Manifest(header["dataset"], header["clip_seconds"], videos, queries, findings)


def annotations_sha256(manifest: Manifest) -> str:
    """64 hex digits for the queries with their splits, sentences, windows and scores, whatever file they came in."""
    said = [manifest.dataset, float(manifest.clip_seconds), _table(manifest).to_pylist()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _table(manifest: Manifest) -> pa.Table:
    return pa.Table.from_pylist([_row(query, manifest) for query in manifest.queries], schema=_SCHEMA)


def _row(query: Query, manifest: Manifest) -> dict[str, Any]:
    saliency = query.saliency
    return {
        "qid": query.qid,
        "vid": query.vid,
        "split": query.split,
        "text": query.text,
        "duration_s": manifest.videos[query.vid].duration_s,
        "kind": query.kind,
        "windows": [{"start_s": w.start_s, "end_s": w.end_s} for w in query.windows],
        "saliency_clip_ids": saliency and saliency.clip_ids,
        "saliency_scores": saliency and saliency.scores,
        "saliency_clip_seconds": saliency and saliency.clip_seconds,
        "saliency_low": saliency and saliency.low,
        "saliency_high": saliency and saliency.high,
    }


def _query(row: dict[str, Any]) -> Query:
    saliency = None
    if row["saliency_clip_ids"] is not None:
        saliency = Saliency(
            tuple(row["saliency_clip_ids"]),
            tuple(map(tuple, row["saliency_scores"])),
            row["saliency_clip_seconds"],
            row["saliency_low"],
            row["saliency_high"],
        )
    windows = tuple(Moment(w["start_s"], w["end_s"]) for w in row["windows"])
    return Query(row["qid"], row["vid"], row["text"], row["split"], windows, saliency, row["kind"])
