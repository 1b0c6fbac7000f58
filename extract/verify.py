"""Every bit of a store compared with its checksum, and its tables with its shards.

Shards are read as streams, several at a time; none is held in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .index import FAILURE_COLUMNS, INDEX_COLUMNS, NO_SHARD, build_index, shard_sizes, written_index
from .layout import (
    FAILURES_FILE,
    INDEX_FILE,
    PLAN_FILE,
    SPEC_FILE,
    StoreError,
    StoreSpec,
    read_spec,
    shard_files,
    shard_name,
)
from .mend import assigned_sources, spec_of_shards
from .plan import PLAN_COLUMNS, Assigned
from .shard import Shard, check_shard
from .tables import read_table

TABLES = {PLAN_FILE: PLAN_COLUMNS, INDEX_FILE: INDEX_COLUMNS, FAILURES_FILE: FAILURE_COLUMNS}
OnBytes = Callable[[int, int], None]
"""Called with bytes read and bytes in all."""


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not as written."""

    file: Path
    what: str
    """In a sentence, with what to do."""
    ids: tuple[str, ...] = ()
    """The sources that a shard holds or should hold."""
    mendable: bool = True
    """Whether `rdmf store repair` can do something about it."""


def verify_store(folder: Path, on_bytes: OnBytes = lambda done, total: None) -> list[Problem]:
    """What is not as written; empty where every single bit is. Changes nothing."""
    problems = []
    try:
        spec = read_spec(folder)
    except StoreError as error:
        problems.append(Problem(folder / SPEC_FILE, str(error)))
        restored = spec_of_shards(folder)
        if restored is None:
            return problems
        spec = restored
    sound, damaged = check_shards(folder, spec, on_bytes)
    assigned = assigned_sources(folder, spec, damaged)
    unusable = absent_shards(folder, assigned) | {number: str(error) for number, error in damaged.items()}
    for number in sorted(unusable):
        ids = tuple(id_ for id_, _ in assigned.get(number, ()))
        problems.append(Problem(folder / shard_name(number), unusable[number], ids))
    return problems + _verify_tables(folder, spec, None if damaged else sound)


def check_shards(
    folder: Path, spec: StoreSpec, on_bytes: OnBytes = lambda done, total: None
) -> tuple[dict[int, Shard], dict[int, StoreError | OSError]]:
    """The shards that are as written, by number, and those that are not; OSError: that the system does not let read."""

    def check(number: int, path: Path) -> Shard | StoreError | OSError:
        try:
            return check_shard(path, number, spec)
        except StoreError as error:
            return error
        except OSError as error:
            return OSError(error.errno, f"{path} cannot be read ({error.strerror or error}); see to that first")

    shards, sizes = shard_files(folder), shard_sizes(folder)
    sound: dict[int, Shard] = {}
    damaged: dict[int, StoreError | OSError] = {}
    done = 0
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # Python's lock is free while bytes are hashed
        for number, found in zip(shards, pool.map(check, shards, shards.values()), strict=True):
            done += sizes[shard_name(number)]
            on_bytes(done, sum(sizes.values()))
            if isinstance(found, Shard):
                sound[number] = found
            else:
                damaged[number] = found
    return sound, damaged


def absent_shards(folder: Path, assigned: Assigned) -> dict[int, str]:
    """The shards that were planned and are not there, by number."""
    there = shard_files(folder)
    return {
        number: f"{folder / shard_name(number)} is not there: the extraction was cut short, or the file was lost; "
        f"run `rdmf features` again, or `rdmf store repair {folder}`"
        for number in assigned
        if number not in there
    }


def _verify_tables(folder: Path, spec: StoreSpec, shards: dict[int, Shard] | None) -> list[Problem]:
    """shards: all, for the index to be compared with; None where some are damaged."""
    repair = f"`rdmf store repair {folder}` makes it again from the shards"
    problems = [
        Problem(path, f"{path} is {'damaged' if path.exists() else 'not there'}; {repair}")
        for path, kinds in ((folder / name, kinds) for name, kinds in TABLES.items())
        if read_table(path, spec, kinds) is None
    ]
    if problems or shards is None:
        return problems
    written = written_index(folder, spec)
    known = () if written is None else (failure for failure, shard in written.failures if shard == NO_SHARD)
    if written is None or written != build_index(folder, spec, known, shards):
        path = folder / INDEX_FILE
        problems.append(Problem(path, f"{path} or {FAILURES_FILE} does not fit the shards; {repair}"))
    return problems
