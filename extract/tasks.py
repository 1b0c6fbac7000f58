"""What runs in the workers: sources in, a shard on disk, a small receipt back. Knows no Dask and no model."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cloudpickle

from .layout import ABSENT, Extractor, Failure, Item, StoreError, StoreSpec, shard_name
from .parts import read_part, remove_parts, write_part
from .plan import Planned
from .shard import read_shard
from .writer import check_item, holds_lock, write_shard

CRASHED = "the worker process died each time it extracted this source, also alone (a crash, or out of memory)"


class Job(NamedTuple):
    """What all tasks of one extraction share."""

    folder: Path
    spec: StoreSpec
    maker: bytes
    """The caller's `make_extractor`, pickled."""
    lock: str
    """What the store's lock says as long as this extraction holds it."""
    in_parts: bool
    """Every source is kept as soon as it is done: a video is dear, a sentence is not."""


class Outcome(NamedTuple):
    """What became of one source."""

    id: str
    rows: int
    """0: it failed."""
    failure: str = ""
    """Stage and reason."""


Done = tuple[Outcome, ...]
"""The receipt of one shard."""
Tell = Callable[[Outcome], None]
"""Called with every source that is kept in a part."""


def shard_task(job: Job, number: int, planned: Sequence[Planned], tell: Tell) -> Done:
    """Write one shard, unless it is there: Dask repeats a task whose receipt died with its worker."""
    done = _done(job, number, planned)
    return _store(job, number, planned, list(_outcomes(job, number, planned, tell))) if done is None else done


def build_task(job: Job) -> bool:
    """Build the extractor and nothing else."""
    return callable(_extractor(job))


def source_task(job: Job, number: int, planned: Planned, tell: Tell) -> bool:
    """Extract one source of a shard to its part, unless that or the shard is there."""
    if _done(job, number, [planned]) is None:
        for outcome in _outcomes(job, number, [planned], tell):
            if not job.in_parts:  # else it has its part already
                write_part(job.folder, job.spec, number, planned, outcome)
    return True


def join_parts(job: Job, number: int, planned: Sequence[Planned], killers: set[str]) -> Done:
    """Write the shard whose sources `source_task` has done, all but the killers, which end as failures."""
    done = _done(job, number, planned)  # its worker may have died after it wrote the shard
    if done is not None:
        return done
    kept = (read_part(job.folder, job.spec, number, one) for one in planned if one.source.id not in killers)
    crashed = [Failure(id_, "crash", CRASHED) for id_ in killers]
    return _store(job, number, planned, [*crashed, *(outcome for outcome in kept if outcome is not None)])


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


def _outcomes(job: Job, number: int, planned: Sequence[Planned], tell: Tell) -> Iterator[Item | Failure]:
    """The checked item of each source, or why there is none, in any order."""
    if not job.in_parts:
        yield from (_checked(raw, job.spec) for raw in _extractor(job)([one.source for one in planned]))
        return
    missing = {one.source.id: one for one in planned}
    for one in planned:
        if (kept := read_part(job.folder, job.spec, number, one)) is not None:
            del missing[one.source.id]
            tell(_outcome(kept))
            yield kept
    if missing:
        _see_folders(missing.values())
        for raw in _extractor(job)([one.source for one in missing.values()]):
            outcome, one = _checked(raw, job.spec), missing[raw.id]
            write_part(job.folder, job.spec, number, one, outcome)
            tell(_outcome(outcome))
            yield read_part(job.folder, job.spec, number, one) or outcome  # from memory into the map


def _checked(outcome: Item | Failure, spec: StoreSpec) -> Item | Failure:
    try:
        return outcome if isinstance(outcome, Failure) else check_item(outcome, spec)
    except ValueError as error:
        return Failure(outcome.id, "values", str(error))


def _see_folders(planned: Iterable[Planned]) -> None:
    """A worker that sees none of the videos must not call them all missing."""
    for source, stamp in planned:
        folder = Path(source.content).parent
        if source.stamp is None and stamp != ABSENT and not folder.is_dir():
            raise FileNotFoundError(f"expected the videos in {folder} on every worker, got one that has no such folder")


def _store(job: Job, number: int, planned: Sequence[Planned], outcomes: Sequence[Item | Failure]) -> Done:
    by_id = {outcome.id: outcome for outcome in outcomes}
    assert by_id.keys() == {one.source.id for one in planned}, "an extractor owes one outcome for each source"
    if not holds_lock(job.folder, job.lock):
        raise StoreError(f"another extraction has taken over {job.folder}")
    ordered = [by_id[one.source.id] for one in planned]
    items = [outcome for outcome in ordered if isinstance(outcome, Item)]
    failures = [outcome for outcome in ordered if isinstance(outcome, Failure)]
    stamps = {source.id: stamp for source, stamp in planned}
    write_shard(job.folder / shard_name(number), job.spec, number, items, failures, stamps)
    remove_parts(job.folder, number, planned)
    return tuple(map(_outcome, ordered))


def _done(job: Job, number: int, planned: Sequence[Planned]) -> Done | None:
    """The receipt of a shard that holds these sources, or None."""
    try:
        shard = read_shard(job.folder / shard_name(number), number, job.spec)
    except (StoreError, FileNotFoundError):
        return None
    records = {(record.id, record.stamp): record for record in shard.records}
    wanted = [(source.id, stamp) for source, stamp in planned]
    if not records.keys() >= set(wanted):
        return None
    return tuple(Outcome(r.id, r.rows, _why(r.failure)) for r in map(records.__getitem__, wanted))


def _outcome(outcome: Item | Failure) -> Outcome:
    if isinstance(outcome, Failure):
        return Outcome(outcome.id, 0, _why(outcome))
    return Outcome(outcome.id, len(outcome.values))


def _why(failure: Failure | None) -> str:
    return "" if failure is None else f"{failure.stage}: {failure.reason}"
