"""What a feature store is: its files, its spec, and what goes in and comes out of it.

    <encoder>-<fingerprint>/
      store.json          the spec: what made these features
      plan.parquet        which source goes to which shard; fixed first, for a killed run to resume
      shard-00000.h5      the features and the failures of the planned sources: the single source of truth
      failures.parquet    what could not be extracted and why
      index.parquet       where every item is; written last, rebuilt from the shards when lost or stale

The folder carries the fingerprint of the spec: the same settings find the same shards, other settings never
touch them. A source that changed (see `source_stamp`) is extracted again into a new shard, and the newest
record of an id counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, TypeAlias

import numpy as np

from ..manifests.schema import MAX_ID_BYTES, check_id

FORMAT_VERSION = 2
SPEC_FILE, PLAN_FILE, INDEX_FILE, FAILURES_FILE = (
    "store.json",
    "plan.parquet",
    "index.parquet",
    "failures.parquet",
)
SHARD_NAME = re.compile(r"shard-([0-9]{5,9})\.h5")
LOCK_FILE = ".lock"
ABSENT = "absent"  # the stamp of a video whose file is not there
TEMPORARY = ".tmp-"  # what begins so is never read, and removed by the next extraction
MAX_REASON = 500  # characters; a reason is a sentence, not a log
REFUSED = "id"  # the stage at which a source fails whose id no store can keep

Kind: TypeAlias = Literal["video", "text"]


class StoreError(ValueError):
    """A store that cannot be used: damaged, of another version, or made with other settings."""


@dataclass(frozen=True)
class StoreSpec:
    """Everything that decides what the features are."""

    kind: Kind
    encoder: str
    weights: dict[str, Any]
    """{source, sha256, random}. Given sha256, the source (where they are from) does not count."""
    preprocessing: dict[str, Any]
    """Frames per clip, span, size, normalisation, or the tokenizer: what the encoder is fed."""
    clip_seconds: float | None
    """The length of a clip; None for text."""
    dim: int
    dtype: str = "float16"
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.kind not in ("video", "text"):
            raise ValueError(f"expected a store of kind 'video' or 'text', got {self.kind!r}")
        if not isinstance(self.encoder, str) or not self.encoder:
            raise ValueError(f"expected the name of an encoder, got {self.encoder!r}")
        if not isinstance(self.weights, dict) or not isinstance(self.preprocessing, dict):
            raise ValueError("expected weights and preprocessing as objects with named fields")
        if self.dtype != "float16":
            raise ValueError(f"expected dtype 'float16', the only one this version stores, got {self.dtype!r}")
        if not isinstance(self.dim, int) or self.dim < 1:
            raise ValueError(f"expected a feature width dim >= 1, got {self.dim!r}")
        if self.kind == "text" and self.clip_seconds is not None:
            raise ValueError(f"expected no clip_seconds for text, got {self.clip_seconds}")
        if self.kind == "video" and not (self.clip_seconds and 0 < self.clip_seconds < math.inf):
            raise ValueError(f"expected clip_seconds > 0 for video, got {self.clip_seconds}")
        try:
            _canonical(asdict(self))
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected weights and preprocessing that JSON can hold: {error}") from None

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits of the sha256 of the spec as canonical JSON."""
        fields = asdict(self)
        if self.weights.get("sha256"):  # the same weights from a download or a local path are the same weights
            fields["weights"] = {k: v for k, v in self.weights.items() if k != "source"}
        return hashlib.sha256(_canonical(fields).encode()).hexdigest()[:12]

    @property
    def folder_name(self) -> str:
        """`<encoder>-<fingerprint>`; what cannot stand in a file name (the / of a hub id) becomes _."""
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', self.encoder).lstrip('.')[:100]}-{self.fingerprint}"

    def to_json(self) -> str:
        """What store.json holds: the fields, the fingerprint, and a checksum of both."""
        fields = {**asdict(self), "fingerprint": self.fingerprint}
        fields["sha256"] = hashlib.sha256(_canonical(fields).encode()).hexdigest()
        return json.dumps(fields, indent=1, sort_keys=True) + "\n"


@dataclass
class Item:
    """The features of one source."""

    id: str
    values: np.ndarray
    """float [rows, dim]; rows are clips or tokens."""
    times_s: np.ndarray | None
    """float64 [rows, 2], start and end of each clip; None for text."""
    duration_s: float | None
    """None for text."""
    source_sha256: str


@dataclass(frozen=True)
class Failure:
    """A source without features, and why."""

    id: str
    stage: str
    """'id', 'open', 'probe', 'decode', 'extract', 'values', 'crash', or what the caller named ('missing')."""
    reason: str
    """One line."""

    def __post_init__(self) -> None:
        line = " ".join(self.reason.split())[:MAX_REASON]
        object.__setattr__(self, "reason", line.encode("utf-8", "replace").decode())


@dataclass(frozen=True)
class Source:
    """What to extract features from."""

    id: str
    content: str
    """The path of the video, or the sentence itself; with a stamp, whatever the extractor takes."""
    stamp: str | None = None
    """A sign of the content, for `source_stamp`, where the content is not the path of a file."""


Extractor: TypeAlias = Callable[[Sequence[Source]], Iterable[Item | Failure]]
"""One outcome for each source, in any order, each as soon as it is there. An exception ends the run: what is the
fault of one source is its Failure."""


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.h5"


def shard_files(folder: Path) -> dict[int, Path]:
    """The shards that are there, by ascending number. What only has the name of one (a folder, a pipe, a link to
    nothing) is not."""
    found = {int(m[1]): path for path in folder.iterdir() if (m := SHARD_NAME.fullmatch(path.name))}
    return {n: found[n] for n in sorted(found) if found[n].name == shard_name(n) and found[n].is_file()}


def read_spec(folder: Path) -> StoreSpec:
    """The spec of a store. Raises StoreError where there is none, or one that this version cannot read."""
    path = folder / SPEC_FILE
    try:
        return parse_spec(read_regular(path), path)
    except FileNotFoundError:
        if folder.is_dir() and shard_files(folder):
            raise StoreError(
                f"{folder} has shards but no {SPEC_FILE}; `rdmf store repair {folder}` restores it from a shard"
            ) from None
        raise StoreError(f"{folder} is no feature store: it has no {SPEC_FILE}") from None


def parse_spec(text: bytes, where: Path) -> StoreSpec:
    """What `StoreSpec.to_json` gave, to the bit. Raises StoreError for anything else."""
    repair = f"`rdmf store repair {where.parent}` restores it from a shard"
    try:
        fields = json.loads(text.decode())
        if not isinstance(fields, dict):
            raise ValueError("it holds no object")
        version = fields.get("format_version")
        if version != FORMAT_VERSION:
            raise StoreError(
                f"expected a store of format version {FORMAT_VERSION} in {where.parent}, got version {version!r}; "
                f"read it with the rdmf that wrote it, or extract again into another folder"
            )
        spec = StoreSpec(**{name: value for name, value in fields.items() if name not in ("fingerprint", "sha256")})
    except StoreError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{where} cannot be read ({error}); {repair}") from None
    if spec.to_json().encode() != text:
        raise StoreError(
            f"{where} was changed: it says fingerprint {fields.get('fingerprint')!r}, its fields have "
            f"{spec.fingerprint}; {repair}"
        )
    return spec


def read_regular(path: Path) -> bytes:
    """The bytes of a file. Raises StoreError for what is none: to open a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        raise StoreError(f"expected a file at {path}, got something else of that name")
    return path.read_bytes()


def check_source_id(id: str) -> None:
    """Raise ValueError for an id that no store keeps: not printable, too long, or a path out of a folder."""
    check_id(id, "id")
    path = PureWindowsPath(id)  # which takes / and \ alike
    if path.root or ".." in path.parts:
        raise ValueError(f"expected an id that is no path out of a folder, got {id!r}")


def shown_id(id: str) -> str:
    """Any id as short printable text, to tell what was wrong with it; a sound one stays as it is."""
    if id.isprintable() and len(id.encode()) <= MAX_ID_BYTES:
        return id
    text = repr(id)[1:-1]
    if len(text.encode()) <= MAX_ID_BYTES:
        return text
    return f"{text[:32]}... ({len(id)} characters, sha256 {text_sha256(id)[:12]}...)"


def source_stamp(kind: Kind, source: Source) -> str:
    """A cheap sign of a source's content, to see whether a stored item is still of this content.

    Text: the sha256 of the sentence, so no change goes unseen. Video: the size of the file ('absent' where
    there is none), since hashing an archive costs as much as reading it; a change that keeps the size takes
    hashing to see.
    """
    if source.stamp is not None:
        return source.stamp
    if kind == "text":
        return text_sha256(source.content)
    try:
        return f"{Path(source.content).stat().st_size} bytes"
    except (OSError, ValueError):
        return ABSENT


def text_sha256(sentence: str) -> str:
    return hashlib.sha256(sentence.encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
