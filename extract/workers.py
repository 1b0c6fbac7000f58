"""The Dask workers of an extraction: processes here, one for each GPU here, or those of a running scheduler."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from multiprocessing import resource_tracker
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

WORKER_DEATHS = 2  # of a local cluster before a task is given up
CONNECT_S = 30
STARTS = 5
HERE = "127.0.0.1:0"  # a free port that only this machine reaches


class Workers:
    """Starts when there is work for it and ends with its context; `client()` is None where there are no workers."""

    def __init__(
        self,
        count: int | None = None,
        most: int | None = None,
        *,
        scheduler: str | None = None,
        gpus: Sequence[str] = (),
    ) -> None:
        """count: processes here, one per core if None; 0: no Dask, all is done in this process.
        most: as many more as the work is worth, up to this number.
        scheduler: the address of a running one, whose workers are used instead.
        gpus: CUDA's names of GPUs here, such as '0'; one worker each.

        Raises ValueError for numbers that make no sense.
        """
        if count is not None and (count < 0 or (most is not None and not 0 < count <= most)):
            asked = count if most is None else f"{count}-{most}"
            raise ValueError(f"expected a number of workers >= 0, or a range such as 2-8, got {asked}")
        self._count, self._most, self._scheduler, self._gpus = count, most, scheduler, tuple(gpus)
        self._client: Client | None = None
        self._resources = ExitStack()

    @classmethod
    def parse(cls, workers: str | None, scheduler: str | None = None, gpus: Sequence[str] = ()) -> Workers:
        """From 'N', 'N-M' or None. Raises ValueError for anything else."""
        if workers is None:
            return cls(scheduler=scheduler, gpus=gpus)
        if not (match := re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", workers.strip())):
            raise ValueError(f"expected a number of workers >= 0, or a range such as 2-8, got {workers!r}")
        return cls(int(match[1]), int(match[2]) if match[2] else None, scheduler=scheduler, gpus=gpus)

    @property
    def parallel(self) -> int:
        """Tasks that run at once, as far as that is known; at least 1."""
        if self._scheduler is not None:
            client = self.client()
            return sum(w["nthreads"] for w in client.scheduler_info(n_workers=-1)["workers"].values()) if client else 1
        from dask.system import CPU_COUNT

        return max(1, self._most or self._count_or(len(self._gpus) or CPU_COUNT))

    def client(self) -> Client | None:
        """Of the workers, which are started by the first call.

        Raises ValueError where no scheduler, or one without workers or without this rdmf, is at the address.
        """
        if self._client is None and self._scheduler is not None:
            self._client = self._connect(self._scheduler)
        elif self._client is None and self._count != 0:
            self._client = self._start()
        return self._client

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client = None
        self._resources.close()

    def _count_or(self, default: int) -> int:
        return default if self._count is None else self._count

    def _connect(self, address: str) -> Client:
        from distributed import Client

        try:
            client = self._resources.enter_context(Client(address, timeout=CONNECT_S, set_as_default=False))
        except (OSError, ValueError) as error:
            raise ValueError(f"expected a Dask scheduler at {address!r}, got none ({error}); start one there") from None
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError:
            raise ValueError(f"expected workers at the Dask scheduler {address!r}, got none; start some") from None
        here, there = version("rdmf"), client.run(_version_there)
        others = {name: found for name, found in there.items() if found != here}
        if others:
            name, found = next(iter(others.items()))
            raise ValueError(
                f"expected rdmf {here} on every worker of {address!r}, got {found or 'none'} on {name}: "
                f"install it there"
            )
        return client

    def _start(self) -> Client:
        """Once more where a worker is killed while it starts: Dask gives up at the first."""
        for attempt in range(1, STARTS + 1):
            try:
                return self._start_once()
            except RuntimeError as error:
                self._resources.close()
                if attempt == STARTS:
                    raise OSError(f"the Dask workers do not start here ({error}); run with fewer --workers") from error
        raise AssertionError

    def _start_once(self) -> Client:
        with no_interrupts_below():
            return self._start_cluster()

    def _start_cluster(self) -> Client:
        import dask
        from dask.system import CPU_COUNT
        from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster

        # Dask takes a worker that is not back 15 s after it died out of the cluster for good, even one that came
        # back and died again; with a killer among the sources that ends with no worker at all
        self._resources.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": "1000 days"}))
        # Dask has workers hand back every 64 KiB that are freed: each step of a training then asks the kernel for its
        # tensors anew, page by page, which takes as long as the step
        spawn = dask.config.get("distributed.nanny.pre-spawn-environ") | {"MALLOC_TRIM_THRESHOLD_": None}
        self._resources.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": spawn}))
        scheduler: dict[str, Any] = {"allowed_failures": WORKER_DEATHS - 1, "dashboard_address": HERE}
        # Dask holds no features: a limit of its own would only kill the worker of a long video
        worker: dict[str, Any] = {"nthreads": 1, "memory_limit": 0}
        if self._gpus and self._count is None:
            # two tasks each: one fills the GPU while the other waits for the last clips of its shard
            specs = {
                i: {"cls": Nanny, "options": {**worker, "nthreads": 2, "env": {"CUDA_VISIBLE_DEVICES": gpu}}}
                for i, gpu in enumerate(self._gpus)
            }
            cluster = SpecCluster(
                workers=specs, scheduler={"cls": Scheduler, "options": scheduler}, silence_logs=logging.CRITICAL
            )
        else:
            cluster = LocalCluster(
                n_workers=self._count_or(CPU_COUNT), threads_per_worker=1, processes=True, memory_limit=0,
                dashboard_address=HERE, silence_logs=logging.CRITICAL,
                scheduler_kwargs={"allowed_failures": WORKER_DEATHS - 1},
            )  # fmt: skip
        self._resources.enter_context(cluster)
        if self._most is not None:
            cluster.adapt(minimum=self._count, maximum=self._most)
        return self._resources.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def no_interrupts_below() -> Iterator[None]:
    """What starts herein, threads and processes with all that they start, never hears of Ctrl-C: a terminal sends it to
    every process, and the one that the user started sees to the others. Here it is heard at the end."""
    resource_tracker.ensure_running()  # else the first process to start unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def visible_gpus(device: str) -> tuple[str, ...]:
    """The GPUs that 'cuda' means here, by CUDA's names; none for any other device."""
    if device != "cuda":
        return ()
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))


def _version_there() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rdmf")
    except PackageNotFoundError:
        return None
