"""Extraction shard by shard through Dask: one task per shard, receipts back, resumable. Knows no model.

A worker that dies takes its task with it: Dask tries again, and a shard that keeps killing its worker is
done source by source, so that the killer ends as a failure named 'crash' and its neighbours are kept.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from .index import build_index, missing_sources, write_index
from .layout import Extractor, Failure, Source, StoreSpec, shard_files
from .parts import clear_parts
from .plan import Planned, make_plan
from .tasks import Done, Job, Outcome, Tell, build_task, join_parts, shard_task, source_task
from .workers import Workers
from .writer import locked_store

if TYPE_CHECKING:
    from distributed import Client

SHARD_ITEMS = {"video": 32, "text": 2048}  # some MB each: small enough to redo, to spread and to report on
SHARDS_EACH = 4  # that a worker should get at least, so that all end at about the same time
LOOK_S = 5  # without news, look whether there are workers
NO_WORKERS_S = 180  # this long without any is the end


@dataclass(frozen=True)
class Receipt:
    """What an extraction did with the sources it was given."""

    written: int
    """Items newly stored."""
    reused: int
    """Sources whose features were in the store already."""
    failed: int
    """Sources, missing ones included, that have no features now; FeatureStore.failures says why."""
    shards: int
    """Shards written."""
    rows: int
    """Rows (clips or tokens) of the items newly stored."""
    seconds: float
    """From the first task to the last."""


@dataclass(frozen=True)
class Progress:
    """How far an extraction is."""

    done: int
    total: int
    """Sources that had to be done when it began."""
    failed: int
    """Of those done."""
    rows: int
    """Clips or tokens of those done."""
    failure: str = ""
    """The newest one: id, stage and reason."""


def extract_store(
    folder: Path | str,
    spec: StoreSpec,
    sources: Sequence[Source],
    make_extractor: Callable[[], Extractor],
    workers: Workers | None = None,
    *,
    shard_items: int | None = None,
    missing: Iterable[Failure] = (),
    retry_failures: bool = False,
    rehash: bool = False,
    in_parts: bool | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_wait: Callable[[], None] | None = None,
) -> Receipt:
    """Bring the store in `folder` up to date with `sources`; killed at any moment, the next call resumes.

    make_extractor: built once per worker process and used for all its shards; what it returns is called by
      several threads where workers have several.
    workers: None: in this process.
    missing: sources the caller could not find; recorded, tried as soon as they come among `sources`.
    retry_failures: try again what failed before; otherwise only when the source changed.
    rehash: compare videos by sha256 and not by size alone.
    in_parts: keep every source as soon as it is done, for a killed run to use; None: videos, not sentences.
    on_progress: called at the start, for every video that is done and for every shard.
    on_wait: called once where another extraction has the store: this one waits until that has ended.

    Raises StoreError for a store of other settings, OSError when a shard cannot be written or workers see
    other folders, RuntimeError when the extractor cannot be built without its worker dying; what was done
    before stays.
    """
    folder = Path(folder).resolve()
    if spec.kind == "video":  # workers may have another working directory
        sources = [s if s.stamp else replace(s, content=str(Path(s.content).absolute())) for s in sources]
    absent_now = {failure.id: failure for failure in missing}
    workers = workers or Workers(0)
    with locked_store(folder, spec, on_wait) as lock:
        if shard_items is None:
            shard_items = max(1, min(SHARD_ITEMS[spec.kind], -(-len(sources) // (SHARDS_EACH * workers.parallel))))
        plan = make_plan(folder, spec, sources, shard_items, retry_failures, rehash)
        if retry_failures:
            clear_parts(folder, spec, only_failures=True)
        began = time.monotonic()
        tally = _Tally(plan.to_do, on_progress)
        if plan.to_do:
            dear = spec.kind == "video" if in_parts is None else in_parts
            job = Job(folder, spec, cloudpickle.dumps(make_extractor), lock, dear)
            for done in _extract(job, plan.to_do, workers.client(), tally.add):
                tally.add(*done)
        seconds = time.monotonic() - began
        if not plan.to_do.keys() <= shard_files(folder).keys():
            raise OSError(
                f"the workers wrote shards that are not in {folder}: expected a folder that all of them share"
            )
        clear_parts(folder, spec)
        known = {failure.id: failure for failure in missing_sources(folder, spec)}
        index = build_index(folder, spec, (known | absent_now).values())
        write_index(folder, spec, index)
    absent = {*absent_now, *(source.id for source in sources)} - index.items.keys()
    return Receipt(tally.written, plan.reused, len(absent), len(plan.to_do), tally.rows, seconds)


class _Tally:
    """Outcomes as they come, each source counted once: those of a shard may be told again by its receipt."""

    def __init__(self, to_do: Mapping[int, Sequence[Planned]], on_progress: Callable[[Progress], None] | None) -> None:
        self._total = sum(map(len, to_do.values()))
        self._on_progress = on_progress
        self._counted: set[str] = set()
        self.written = self.rows = 0
        self._changing = threading.Lock()  # outcomes also come in the thread of Dask's client
        if on_progress is not None:
            on_progress(Progress(0, self._total, 0, 0))

    def add(self, *outcomes: Outcome) -> None:
        with self._changing:
            new = [outcome for outcome in outcomes if outcome.id not in self._counted]
            self._counted.update(outcome.id for outcome in new)
            self.written += sum(outcome.rows > 0 for outcome in new)
            self.rows += sum(outcome.rows for outcome in new)
            if not new or self._on_progress is None:
                return
            failure = next((f"{o.id}: {o.failure}" for o in reversed(new) if o.failure), "")
            done = len(self._counted)
            self._on_progress(Progress(done, self._total, done - self.written, self.rows, failure))


def _extract(job: Job, to_do: Mapping[int, Sequence[Planned]], client: Client | None, tell: Tell) -> Iterator[Done]:
    """Write every shard, in any order."""
    if client is None:
        for number, planned in to_do.items():
            yield shard_task(job, number, planned, tell)
        return
    topic = f"rdmf-{secrets.token_hex(8)}"
    client.subscribe_topic(topic, lambda event: tell(Outcome(*event[1])))
    tell_there = partial(_log, topic)
    killed = []
    try:
        calls = [(n, (shard_task, job, n, planned, tell_there)) for n, planned in to_do.items()]
        for number, done in _run(client, calls):
            if done is None:
                killed.append(number)
            else:
                yield done
        if killed:
            yield from _isolate(job, {number: to_do[number] for number in sorted(killed)}, client, tell_there)
    finally:
        client.unsubscribe_topic(topic)


def _isolate(job: Job, to_do: Mapping[int, Sequence[Planned]], client: Client, tell: Tell) -> Iterator[Done]:
    """Shards that killed their workers, source by source, each to a part of its own.

    Dask blames all that waited at a worker when it died, so what is killed among others is tried once more
    alone.
    """
    if list(_run(client, [(0, (build_task, job))])) == [(0, None)]:
        raise RuntimeError(
            f"the workers die while they load the encoder {job.spec.encoder}, before any source: "
            f"expected enough memory for one encoder per worker; run again with fewer workers"
        )
    calls = {(n, p.source.id): (source_task, job, n, p, tell) for n in to_do for p in to_do[n]}
    suspects = sorted(key for key, done in _run(client, calls.items()) if done is None)
    killers = {key for s in suspects for key, done in _run(client, [(s, calls[s])]) if done is None}
    for number, planned in to_do.items():
        yield join_parts(job, number, planned, {id_ for n, id_ in killers if n == number})


def _run(client: Client, calls: Iterable[tuple[Any, tuple]]) -> Iterator[tuple[Any, Any]]:
    """(key, result) of each (key, (function, *arguments)) as they end; None is a killer of workers."""
    from distributed import CancelledError, KilledWorker, wait

    futures = {client.submit(*call, pure=False): key for key, call in calls}
    seen_workers = time.monotonic()
    try:
        while futures:
            try:
                with client.as_current():
                    ended = wait(list(futures), timeout=LOOK_S, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                now = time.monotonic()
                if client.scheduler_info(n_workers=-1)["workers"]:
                    seen_workers = now
                elif now - seen_workers > NO_WORKERS_S:
                    raise OSError(
                        f"all Dask workers died and for {NO_WORKERS_S} s none came back; the shards written so far are "
                        "whole: run the same command again to resume"
                    ) from None
                continue
            seen_workers = time.monotonic()
            for future in ended:
                try:
                    result = future.result()
                except KilledWorker:
                    result = None
                except CancelledError:
                    raise OSError("the Dask scheduler went away; run the same command again to resume") from None
                key = futures.pop(future)
                future.release()  # else Dask does the task again when the worker that keeps its receipt dies
                yield key, result
    finally:
        if futures:
            client.cancel(list(futures))


def _log(topic: str, outcome: Outcome) -> None:
    """Tell the client, from a worker."""
    from distributed import get_worker

    get_worker().log_event(topic, tuple(outcome))
