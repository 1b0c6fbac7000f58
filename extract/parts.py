"""Sources that are done while their shard is not: each in a part, a shard of one item under a name of its own.

A run that is killed loses the sources it was at, and the next one takes the rest from their parts. They are not
synced to the disk, so every byte is checked before one is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from .layout import Failure, Item, StoreError, StoreSpec
from .plan import Planned
from .shard import changed_parts, read_shard
from .writer import write_shard

PART = ".part-"  # what begins so is no shard; the next extraction uses it or removes it


def write_part(folder: Path, spec: StoreSpec, number: int, planned: Planned, outcome: Item | Failure) -> None:
    """Keep what became of a source of shard `number`. Raises OSError where it cannot be written."""
    item, failure = ([outcome], []) if isinstance(outcome, Item) else ([], [outcome])
    stamps = {planned.source.id: planned.stamp}
    write_shard(_path(folder, number, planned), spec, number, item, failure, stamps, sync=False)


def read_part(folder: Path, spec: StoreSpec, number: int, planned: Planned) -> Item | Failure | None:
    """What became of a source, its features memory-mapped; None where no part is there, or of another content."""
    path = _path(folder, number, planned)
    try:
        part = read_shard(path, number, spec)
        (record,) = part.records
        if (record.id, record.stamp) != (planned.source.id, planned.stamp) or changed_parts(path) is not None:
            return None
    except (StoreError, FileNotFoundError):
        return None
    if record.failure is not None:
        return record.failure
    return Item(record.id, part.map_values(), part.map_times(), record.duration_s, record.source_sha256)


def remove_parts(folder: Path, number: int, planned: Iterable[Planned]) -> None:
    """Remove the parts of a shard that is written."""
    for one in planned:
        _path(folder, number, one).unlink(missing_ok=True)


def clear_parts(folder: Path, spec: StoreSpec, only_failures: bool = False) -> None:
    """Remove the parts that a killed run left and nobody wanted, or only those of sources that failed."""
    for path in folder.glob(f"{PART}*"):
        found = re.fullmatch(rf"{re.escape(PART)}([0-9]{{5,9}})-[0-9a-f]{{16}}\.h5", path.name)
        if only_failures and found:
            try:
                if not read_shard(path, int(found[1]), spec).failures:
                    continue
            except StoreError:
                pass
        path.unlink(missing_ok=True)


def _path(folder: Path, number: int, planned: Planned) -> Path:
    digest = hashlib.sha256(planned.source.id.encode("utf-8", "surrogatepass")).hexdigest()
    return folder / f"{PART}{number:05d}-{digest[:16]}.h5"
