"""What runs in the workers: sources in, a shard on disk, a small receipt back. Knows no Dask and no model."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cloudpickle

from .layout import TEMPORARY, Extractor, Failure, Item, StoreError, StoreSpec, shard_name
from .plan import Planned
from .shard import read_shard
from .writer import check_item, write_shard

CRASHED = "the worker process died each time it extracted this source, also alone (a crash, or out of memory)"


class Job(NamedTuple):
    """What all tasks of one extraction share."""

    folder: Path
    spec: StoreSpec
    maker: bytes
    """The caller's `make_extractor`, pickled."""


class Done(NamedTuple):
    """The receipt of one shard."""

    items: int
    failed: int


def shard_task(job: Job, number: int, planned: Sequence[Planned]) -> Done:
    """Write one shard, unless it is there: Dask repeats a task whose receipt died with its worker."""
    return _done(job, _shard(job, number), number, planned) or write_sources(job, number, planned)


def write_sources(job: Job, number: int, planned: Sequence[Planned]) -> Done:
    """Extract the sources one after another and write their shard."""
    return _store(job, _shard(job, number), number, planned, _outcomes(job, planned))


def build_task(job: Job) -> bool:
    """Build the extractor and nothing else."""
    return callable(_extractor(job))


def source_task(job: Job, number: int, i: int, planned: Planned) -> Done:
    """Extract source i of a shard to a part: a shard of its own, under a temporary name, unless it is there."""
    part = _part(job, number, i)
    done = _done(job, part, number, [planned]) or _done(job, _shard(job, number), number, [planned])
    return done or _store(job, part, number, [planned], _outcomes(job, [planned]))


def join_parts(job: Job, number: int, planned: Sequence[Planned], killers: set[int]) -> Done:
    """Write the shard whose sources `source_task` has done, all but the killers, which end as failures."""
    done = _done(job, _shard(job, number), number, planned)  # its worker may have died after it wrote the shard
    if done is None:
        outcomes = [
            Failure(source.id, "crash", CRASHED) if i in killers else _read_part(job, number, i)
            for i, (source, _) in enumerate(planned)
        ]
        done = _store(job, _shard(job, number), number, planned, outcomes)
    for i in range(len(planned)):
        _part(job, number, i).unlink(missing_ok=True)
    return done


_built: tuple[tuple[str, str], Extractor] | None = None
_building = threading.Lock()


def _extractor(job: Job) -> Extractor:
    """The extractor of this process: built at the first task, kept until a task asks for another."""
    global _built
    key = (job.spec.fingerprint, hashlib.sha256(job.maker).hexdigest())
    with _building:
        if _built is None or _built[0] != key:
            _built = None  # the former encoder goes before the next comes
            _built = (key, cloudpickle.loads(job.maker)())
        return _built[1]


def _outcomes(job: Job, planned: Sequence[Planned]) -> list[Item | Failure]:
    """The checked item of each source, or why there is none, in the order of the sources."""
    outcomes = {o.id: _checked(o, job.spec) for o in _extractor(job)([source for source, _ in planned])}
    assert outcomes.keys() == {source.id for source, _ in planned}, "an extractor owes one outcome for each source"
    return [outcomes[source.id] for source, _ in planned]


def _checked(outcome: Item | Failure, spec: StoreSpec) -> Item | Failure:
    try:
        return outcome if isinstance(outcome, Failure) else check_item(outcome, spec)
    except ValueError as error:
        return Failure(outcome.id, "values", str(error))


def _store(job: Job, path: Path, number: int, planned: Sequence[Planned], outcomes: Sequence[Item | Failure]) -> Done:
    items = [outcome for outcome in outcomes if isinstance(outcome, Item)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    write_shard(path, job.spec, number, items, failures, {source.id: stamp for source, stamp in planned})
    return Done(len(items), len(failures))


def _done(job: Job, path: Path, number: int, planned: Sequence[Planned]) -> Done | None:
    """The receipt of a file that holds these sources, or None."""
    try:
        shard = read_shard(path, number, job.spec)
    except (StoreError, FileNotFoundError):
        return None
    held = {(p.source.id, p.stamp) for p in planned} <= {(r.id, r.stamp) for r in shard.records}
    return Done(len(shard.items), len(shard.failures)) if held else None


def _shard(job: Job, number: int) -> Path:
    return job.folder / shard_name(number)


def _part(job: Job, number: int, i: int) -> Path:
    return job.folder / f"{TEMPORARY}part-{number:05d}-{i:05d}.h5"


def _read_part(job: Job, number: int, i: int) -> Item | Failure:
    part = read_shard(_part(job, number, i), number, job.spec)
    record = part.records[0]
    if record.failure is not None:
        return record.failure
    return Item(record.id, part.map_values(), part.map_times(), record.duration_s, record.source_sha256)
