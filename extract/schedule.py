"""Extraction shard by shard through Dask: one task per shard, receipts back, resumable. Knows no model.

A worker that dies takes its task with it: Dask tries again, and a shard that keeps killing its worker is
done source by source, so that the killer ends as a failure named 'crash' and its neighbours are kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from .index import build_index, missing_sources, write_index
from .layout import Extractor, Failure, Source, StoreSpec, shard_files
from .plan import Planned, make_plan
from .tasks import Done, Job, build_task, join_parts, shard_task, source_task, write_sources
from .writer import locked_store

if TYPE_CHECKING:
    from distributed import Client

SHARD_ITEMS = {"video": 32, "text": 2048}  # some MB each: small enough to redo, to spread and to report on
WORKER_DEATHS = 2  # of a local cluster before a task is given up; every round below grants them anew
CONNECT_S = 30
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


@contextmanager
def cluster(
    workers: int | None = None, scheduler: str | None = None, threads_per_worker: int = 1
) -> Iterator[Client | None]:
    """A Dask client: of the scheduler at an address, or of `workers` processes here (None: one per core).

    workers=0 gives None, which `extract_store` takes as: in this process, without Dask.
    Raises ValueError where no scheduler, or one without workers, is at the address.
    """
    if scheduler is None and workers == 0:
        yield None
        return
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"expected a Dask scheduler at {scheduler!r}, got none ({error}); start one there"
            ) from None
        with client:
            try:
                client.wait_for_workers(1, timeout=CONNECT_S)
            except TimeoutError:
                raise ValueError(
                    f"expected workers at the Dask scheduler {scheduler!r}, got none; start some"
                ) from None
            yield client
        return
    if workers is not None and workers < 0:
        raise ValueError(f"expected a number of workers >= 0, got {workers}")
    with (
        # Dask takes a worker that is not back 15 s after it died out of the cluster for good, even one that came back
        # and died again; with a killer among the sources that ends with no worker at all
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1000 days"}),
        LocalCluster(
            n_workers=workers or CPU_COUNT,
            threads_per_worker=threads_per_worker,
            processes=True,
            dashboard_address="127.0.0.1:0",  # a free port, this machine only
            silence_logs=logging.CRITICAL,
            memory_limit=0,  # Dask holds no features; its limit would only kill the worker of a long video
            scheduler_kwargs={"allowed_failures": WORKER_DEATHS - 1},
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


def extract_store(
    folder: Path | str,
    spec: StoreSpec,
    sources: Sequence[Source],
    make_extractor: Callable[[], Extractor],
    client: Client | None = None,
    *,
    shard_items: int | None = None,
    missing: Iterable[Failure] = (),
    retry_failures: bool = False,
    rehash: bool = False,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> Receipt:
    """Bring the store in `folder` up to date with `sources`; killed at any moment, the next call resumes.

    make_extractor: built once per worker process and used for all its shards; what it returns is called by
      several threads where workers have several. A ValueError it raises for a source (stage and reason of a
      VideoError kept) or any other exception becomes a failure of that source.
    missing: sources the caller could not find; recorded, tried as soon as they come among `sources`.
    retry_failures: try again what failed before; otherwise only when the source changed.
    rehash: compare videos by sha256 and not by size alone.
    on_progress: called with (sources done, sources to do, failed among the done) per finished shard.

    Raises StoreError for a store of other settings or one being written, OSError when a shard cannot be
    written, RuntimeError when the extractor cannot be built without its worker dying; shards written before
    stay.
    """
    folder = Path(folder).resolve()
    if spec.kind == "video":  # workers may have another working directory
        sources = [Source(source.id, str(Path(source.content).absolute())) for source in sources]
    absent_now = {failure.id: failure for failure in missing}
    with locked_store(folder, spec):
        plan = make_plan(folder, spec, sources, shard_items or SHARD_ITEMS[spec.kind], retry_failures, rehash)
        total = sum(map(len, plan.to_do.values()))
        written = failed = 0
        for done in _extract(Job(folder, spec, cloudpickle.dumps(make_extractor)), plan.to_do, client):
            written, failed = written + done.items, failed + done.failed
            if on_progress is not None:
                on_progress(written + failed, total, failed)
        if not plan.to_do.keys() <= shard_files(folder).keys():
            raise OSError(
                f"the workers wrote shards that are not in {folder}: expected a folder that all of them share"
            )
        known = {failure.id: failure for failure in missing_sources(folder, spec)}
        index = build_index(folder, spec, (known | absent_now).values())
        write_index(folder, spec, index)
    absent = {*absent_now, *(source.id for source in sources)} - index.items.keys()
    return Receipt(written, plan.reused, len(absent), len(plan.to_do))


def _extract(job: Job, to_do: Mapping[int, Sequence[Planned]], client: Client | None) -> Iterator[Done]:
    """Write every shard, in any order."""
    if client is None:
        for number, planned in to_do.items():
            yield write_sources(job, number, planned)
        return
    killed = []
    for number, done in _run(client, [(n, (shard_task, job, n, planned)) for n, planned in to_do.items()]):
        if done is None:
            killed.append(number)
        else:
            yield done
    if killed:
        yield from _isolate(job, {number: to_do[number] for number in sorted(killed)}, client)


def _isolate(job: Job, to_do: Mapping[int, Sequence[Planned]], client: Client) -> Iterator[Done]:
    """Shards that killed their workers, source by source, each to a part of its own.

    Dask blames all that waited at a worker when it died, so what is killed among others is tried once more
    alone.
    """
    if list(_run(client, [(0, (build_task, job))])) == [(0, None)]:
        raise RuntimeError(
            f"the workers die while they load the encoder {job.spec.encoder}, before any source: "
            f"expected enough memory for one encoder per worker; run again with fewer workers"
        )
    calls = {(n, i): (source_task, job, n, i, to_do[n][i]) for n in to_do for i in range(len(to_do[n]))}
    suspects = sorted(key for key, done in _run(client, calls.items()) if done is None)
    killers = {key for s in suspects for key, done in _run(client, [(s, calls[s])]) if done is None}
    for number, planned in to_do.items():
        yield join_parts(job, number, planned, {i for n, i in killers if n == number})


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
