"""One shard: features of many items in one HDF5 file, read through a memory map.

    user block          text: where each part is, and its sha256 (checksums.py)
    values              float16 [rows, dim], all items one after another
    times_s             float64 [rows, 2], start and end of each clip (video only)
    offsets             int64 [items + 1]: item i has the rows offsets[i]:offsets[i + 1]
    ids, stamps, source_sha256, duration_s        [items]; duration_s is NaN for text
    failure_ids, failure_stages, failure_reasons, failure_stamps     [failures]
    failure_at          int64 [failures]: their places among all sources of the shard, so that these have one order
    spec                [1]: what store.json says, to restore that and the plan from shards alone

Every dataset is contiguous and uncompressed. The same items give the same bytes. Files are checked before they are
believed: they may be damaged, or come from elsewhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from .checksums import BLOCK_BYTES, Extent, block_of, changed_parts, read_extents, read_part
from .layout import FORMAT_VERSION, Failure, Item, StoreError, StoreSpec, check_source_id, parse_spec

ITEM_PARTS = ("ids", "stamps", "source_sha256")
CHECKED_BYTES = 1 << 24  # of the features looked at together
UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError)  # what h5py makes of damage


@dataclass(frozen=True)
class Record:
    """What a shard knows about one planned source: an item (`rows` > 0) or a failure."""

    id: str
    stamp: str
    rows: int = 0
    first_row: int = 0
    duration_s: float | None = None
    source_sha256: str = ""
    failure: Failure | None = None


@dataclass(frozen=True)
class Shard:
    """A checked shard: where everything is. Holds no file open."""

    path: Path
    dim: int
    records: tuple[Record, ...]
    """In the order in which the sources were planned."""
    rows: int
    values_at: int
    """Byte at which `values` begins in the file."""
    times_at: int | None
    """Byte at which `times_s` begins; None for text."""

    @property
    def items(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record.failure is None)

    @property
    def failures(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record.failure is not None)

    def map_values(self) -> np.ndarray:
        """float16 [rows, dim], memory-mapped, read-only."""
        return self._map("<f2", self.values_at, self.dim)

    def map_times(self) -> np.ndarray | None:
        """float64 [rows, 2], memory-mapped, read-only; None for text."""
        return None if self.times_at is None else self._map("<f8", self.times_at, 2)

    def _map(self, dtype: str, offset: int, width: int) -> np.ndarray:
        if not self.rows:
            return np.empty((0, width), dtype)
        # A plain array over the map: slicing np.memmap itself costs more than the read
        return np.asarray(np.memmap(self.path, dtype, "r", offset, (self.rows, width)))


def encode_shard(
    spec: StoreSpec, number: int, items: Sequence[Item], failures: Sequence[Failure], stamps: dict[str, str]
) -> tuple[bytes, bytes]:
    """User block and HDF5 image of one shard; `items` hold float16, `stamps` are the sources' by id, as planned."""
    place = {id_: at for at, id_ in enumerate(stamps)}
    values = [np.empty((0, spec.dim), "<f2"), *(item.values for item in items)]
    arrays = {
        "values": np.concatenate(values),
        "offsets": np.cumsum([len(v) for v in values], dtype="<i8"),  # from 0: the first one is empty
        "duration_s": np.array([np.nan if i.duration_s is None else i.duration_s for i in items], "<f8"),
        "ids": _strings([i.id for i in items]),
        "stamps": _strings([stamps[i.id] for i in items]),
        "source_sha256": _strings([i.source_sha256 for i in items]),
        "failure_ids": _strings([f.id for f in failures]),
        "failure_stages": _strings([f.stage for f in failures]),
        "failure_reasons": _strings([f.reason for f in failures]),
        "failure_stamps": _strings([stamps[f.id] for f in failures]),
        "failure_at": np.array([place[f.id] for f in failures], "<i8"),
        "spec": _strings([spec.to_json()]),
    }
    if spec.kind == "video":
        arrays["times_s"] = np.concatenate(
            [np.empty((0, 2), "<f8"), *(i.times_s for i in items if i.times_s is not None)]
        )
    # Built in memory: a full disk then meets one plain write, not HDF5 halfway through closing a file. Threads need
    # names of their own, or HDF5 takes their files for one.
    with h5py.File(
        secrets.token_hex(8), "w", driver="core", backing_store=False, libver=("earliest", "v108"),
        userblock_size=BLOCK_BYTES, alignment_threshold=1, alignment_interval=64,
    ) as file:  # fmt: skip
        file.attrs.update(format_version=FORMAT_VERSION, fingerprint=spec.fingerprint, shard=number)
        for name, array in arrays.items():
            if array.dtype.kind == "S":
                array = array.astype(h5py.string_dtype("utf-8", array.itemsize))
            file.create_dataset(name, data=array, track_times=False)
        file.flush()
        extents = {name: _place(file[name]) for name in arrays}
        image = file.id.get_file_image()
    return block_of(image, extents), image


def read_shard(path: Path, number: int, spec: StoreSpec) -> Shard:
    """Where everything is in a shard; all of it but the features themselves is checked.

    Raises StoreError for a shard that is damaged or not of this store, OSError where there is none or the
    system refuses to read it.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")  # to open a pipe would wait for ever
        if (parts := changed_parts(path, unseen=("values",))) is not None:
            raise _damaged(path, f"it was changed after it was written (in its {', '.join(parts)})")
        with path.open("rb") as raw:
            extents = read_extents(raw)
        with h5py.File(path, "r", locking=False) as file:
            return _read(file, extents, path, number, spec)
    except StoreError:
        raise
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system said no (permission, too many open files): that is no damage
        raise _damaged(path, str(error)) from error


def check_shard(path: Path, number: int, spec: StoreSpec) -> Shard:
    """As `read_shard`, with the features checked too and no more than CHECKED_BYTES of them in memory."""
    shard = read_shard(path, number, spec)
    if changed_parts(path) is not None:
        raise _damaged(path, "it was changed after it was written (in its values)")
    bits, rows = shard.map_values().view("<u2"), max(1, CHECKED_BYTES // (2 * shard.dim))
    for at in range(0, shard.rows, rows):
        if (
            np.max(bits[at : at + rows] & 0x7FFF) >= 0x7C00
        ):  # infinite, or no number; np.isfinite takes 20 times as long
            raise _damaged(path, "it holds features that are not finite")
    return shard


def spec_of(path: Path) -> StoreSpec | None:
    """The spec of the store that a shard was written to, None where that part of it is damaged."""
    try:
        return parse_spec(read_part(path, "spec"), path)
    except (OSError, ValueError):
        return None


def _damaged(path: Path, how: str) -> StoreError:
    return StoreError(f"{path} is damaged: {how}; `rdmf store repair {path.parent}` extracts it again")


def _read(file: h5py.File, extents: Mapping[str, Extent], path: Path, number: int, spec: StoreSpec) -> Shard:
    if file.attrs["format_version"] != FORMAT_VERSION or file.attrs["shard"] != number:
        raise ValueError("it is another shard, or of another version")
    if file.attrs["fingerprint"] != spec.fingerprint:
        raise ValueError(f"it was made with other settings, fingerprint {file.attrs['fingerprint']!r}")
    offsets = _part(file, extents, "offsets", "<i8", (None,))[0][()]
    if not len(offsets) or offsets[0] != 0 or np.any(offsets[1:] <= offsets[:-1]):
        raise ValueError("its offsets do not ascend from 0")
    count, rows, video = len(offsets) - 1, int(offsets[-1]), spec.kind == "video"
    _, values_at = _part(file, extents, "values", "<f2", (rows, spec.dim))
    times_at = _part(file, extents, "times_s", "<f8", (rows, 2))[1] if video else None
    durations = _part(file, extents, "duration_s", "<f8", (count,))[0][()]
    if video and not np.all(np.isfinite(durations) & (durations > 0)):
        raise ValueError("a duration in it is not above 0 s")

    ids, stamps, hashes = (_texts(file, extents, name, count) for name in ITEM_PARTS)
    seconds = durations.tolist() if video else [None] * count
    firsts, lengths = offsets[:-1].tolist(), np.diff(offsets).tolist()
    items = tuple(map(Record, ids, stamps, lengths, firsts, seconds, hashes))
    failed = _texts(file, extents, "failure_ids", None)
    stages, reasons, signs = (
        _texts(file, extents, f"failure_{p}", len(failed)) for p in ("stages", "reasons", "stamps")
    )
    failures = tuple(
        Record(failure.id, stamp, failure=failure)
        for failure, stamp in zip(map(Failure, failed, stages, reasons), signs, strict=True)
    )
    if len({*ids, *failed}) != len(ids) + len(failed):
        raise ValueError("an id is in it twice")
    for id_ in (*ids, *failed):
        check_source_id(id_)
    places = _part(file, extents, "failure_at", "<i8", (len(failed),))[0][()]
    total = count + len(failed)
    if len(failed) and (places[0] < 0 or places[-1] >= total or np.any(places[1:] <= places[:-1])):
        raise ValueError("the places of its failures do not ascend")
    others = np.setdiff1d(np.arange(total), places)
    by_place = dict(zip((*others.tolist(), *places.tolist()), (*items, *failures), strict=True))
    return Shard(path, spec.dim, tuple(by_place[i] for i in range(total)), rows, values_at, times_at)


def _part(
    file: h5py.File, extents: Mapping[str, Extent], name: str, dtype: str, shape: tuple[int | None, ...]
) -> tuple[h5py.Dataset, int]:
    """A dataset and the byte at which it begins in the file, in which its bytes must lie as they are.

    A linked, external, virtual, chunked or compressed dataset is refused: it is elsewhere, or has no one
    offset. So is one that lies elsewhere than its checksum says.
    """
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"it has no dataset {name} of its own")
    created = dataset.id.get_create_plist()
    if created.get_layout() != h5py.h5d.CONTIGUOUS or created.get_external_count() or created.get_nfilters():
        raise ValueError(f"its {name} is not stored contiguous and uncompressed in the file itself")
    if dataset.dtype.str[: len(dtype)] != dtype or len(dataset.shape) != len(shape):
        raise ValueError(f"its {name} is {dataset.dtype} {dataset.shape}, expected {dtype} {shape}")
    if any(want not in (None, got) for want, got in zip(shape, dataset.shape, strict=True)):
        raise ValueError(f"its {name} has shape {dataset.shape}, expected {shape}")
    start, end = _place(dataset)
    inside = start >= BLOCK_BYTES and end - start == dataset.nbytes and end <= Path(file.filename).stat().st_size
    if not inside or name not in extents or (start, end) != extents[name][:2]:
        raise ValueError(f"its {name} does not lie where it should")
    return dataset, start


def _place(dataset: h5py.Dataset) -> tuple[int, int]:
    """Its first byte in the file, and the one after its last; one without bytes has no place."""
    start = dataset.id.get_offset() if dataset.size else None
    return (BLOCK_BYTES, BLOCK_BYTES) if start is None else (start, start + dataset.nbytes)


def _texts(file: h5py.File, extents: Mapping[str, Extent], name: str, count: int | None) -> list[str]:
    return [raw.decode("utf-8") for raw in _part(file, extents, name, "|S", (count,))[0][()].tolist()]


def _strings(texts: list[str]) -> np.ndarray:
    """Fixed-length UTF-8, so that the bytes of the array are the bytes in the file."""
    encoded = [text.encode("utf-8", "replace") for text in texts]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")
