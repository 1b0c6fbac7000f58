"""What a store still knows of itself when files of it are lost or damaged: its settings, and which source was where.

Nothing is thrown away: a damaged file is set aside under another name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from .index import NO_SHARD, written_index
from .layout import SPEC_FILE, StoreError, StoreSpec, parse_spec, read_spec, shard_files
from .plan import Assigned, read_plan
from .shard import read_shard, spec_of
from .writer import atomic_write

ASIDE = "damaged-"  # what the name of a damaged file then begins with


def restore_spec(folder: Path) -> StoreSpec:
    """The spec of a store; store.json is written anew where it is lost or damaged.

    Raises StoreError where no shard has the spec either.
    """
    try:
        return read_spec(folder)
    except StoreError as error:
        spec = spec_of_shards(folder)
        if spec is None:
            raise StoreError(
                f"{error}; no shard there has the settings either: move {folder} away and run `rdmf features` again"
            ) from None
    if not (folder / SPEC_FILE).is_file():
        set_aside(folder / SPEC_FILE)
    atomic_write(folder / SPEC_FILE, spec.to_json().encode())
    return spec


def spec_of_shards(folder: Path) -> StoreSpec | None:
    """The spec that most of the shards have; None where none has one that is sound."""
    specs = [spec.to_json() for path in shard_files(folder).values() if (spec := spec_of(path)) is not None]
    return parse_spec(Counter(specs).most_common(1)[0][0].encode(), folder / SPEC_FILE) if specs else None


def assigned_sources(folder: Path, spec: StoreSpec, damaged: Collection[int]) -> Assigned:
    """The sources of every shard, also of those that are damaged or lost, as far as anything tells them.

    The plan does; where it is lost the sound shards, then the index (stamps are then ''), and for want of that the
    damaged shards themselves.
    """
    assigned, shards = read_plan(folder, spec), shard_files(folder)
    index = None if assigned else written_index(folder, spec)
    for number in shards.keys() - assigned.keys() - set(damaged):
        assigned[number] = [(record.id, record.stamp) for record in read_shard(shards[number], number, spec).records]
    indexed: Assigned = {}
    if index is not None:
        places = [(id_, entry.shard) for id_, entry in index.items.items()]
        for id_, number in [*places, *((failure.id, shard) for failure, shard in index.failures)]:
            indexed.setdefault(number, []).append((id_, ""))
        indexed.pop(NO_SHARD, None)
    assigned = indexed | assigned
    for number in set(damaged) - assigned.keys():
        with suppress(StoreError, OSError):  # which it is, unless only its features are damaged
            assigned[number] = [
                (record.id, record.stamp) for record in read_shard(shards[number], number, spec).records
            ]
    return {number: assigned[number] for number in sorted(assigned)}


def set_aside(path: Path) -> None:
    """Rename what is at `path`, if anything: nothing reads it there, and nothing of it is lost."""
    if os.path.lexists(path):
        target, n = path.with_name(f"{ASIDE}{path.name}"), 1
        while os.path.lexists(target):
            target, n = path.with_name(f"{ASIDE}{path.name}.{n}"), n + 1
        path.rename(target)
