"""Many trainings, several at once: each in a process of its own with its own number of threads.

A job is a run with the features that it reads and the split that it is judged on; what it leaves are a run folder like
any other and its results on that split (kept_results.py). Whatever ends one run, the others go on. Every run has the
same number of threads whoever else runs, so its weights do not depend on how many train at once.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from ...extract.schedule import LOOK_S, NO_WORKERS_S
from ...extract.workers import Workers, visible_gpus
from ..comparison.evaluate_run import evaluate_run
from ..training.run_folder import is_locked
from ..training.train import train
from .ablation_plan import Run, Shared
from .kept_results import keep

if TYPE_CHECKING:
    from distributed import Client, Future

DIED = "its worker process died each time (out of memory, or killed); run the same command with fewer --workers"

_ONE = threading.Lock()  # torch's generators, threads and flags belong to a process: one training in each


class Job(NamedTuple):
    """One training and its evaluation; only the latter where the run is finished."""

    shared: Shared
    run: Run


def train_and_judge(shared: Shared, run: Run) -> str:
    """What a worker does with a job. Returns why it failed, or nothing."""
    with _ONE, _process_of_its_own(shared):
        while is_locked(run.folder):  # by a worker of a killed sweep, which is about to end
            time.sleep(1)
        try:
            train(
                shared.features, run.folder, run.config, video_stores=shared.video_stores,
                text_store=shared.text_store, resume=True, device=shared.device, command=shared.command,
            )  # fmt: skip
            judged = evaluate_run(run.folder, shared.split, features=shared.features, device=shared.device)
            keep(run.folder, shared.split, judged.run, judged.to_json())
        except Exception as error:  # whatever it is, the other runs go on
            what = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
            return what + " ".join(str(error).split())
    return ""


def do_all(next_job: Callable[[], Job | None], client: Client | None, parallel: int) -> Iterator[tuple[Job, str]]:
    """Every job and why it failed, if so, as they end.

    next_job: what to begin when there is room; None: nothing now. It is asked again after every job that ends, so
    what is to be done may depend on what came out. client: None does everything here, one by one. parallel: jobs at
    once; 0: as many as there are workers.
    """
    if client is None:
        while (job := next_job()) is not None:
            yield job, train_and_judge(*job)
        return
    from distributed import CancelledError, KilledWorker, wait

    def processes() -> int:
        return len(client.scheduler_info(n_workers=-1)["workers"])

    seen_workers = time.monotonic()
    futures: dict[Future, Job] = {}
    try:
        while True:
            # No more than run at once: Dask blames all that wait at a worker when it dies
            while len(futures) < max(1, parallel or processes()) and (job := next_job()) is not None:
                futures[client.submit(train_and_judge, *job, pure=False)] = job
            if not futures:
                return
            try:
                with client.as_current():
                    ended = wait(list(futures), timeout=LOOK_S, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                ended = set()
            if ended or processes():
                seen_workers = time.monotonic()
            elif time.monotonic() - seen_workers > NO_WORKERS_S:
                raise OSError(
                    f"all Dask workers died and for {NO_WORKERS_S} s none came back; run the same command to go on"
                )
            for future in ended:
                try:
                    failure = future.result()
                except KilledWorker:
                    failure = DIED
                except CancelledError:
                    raise OSError("the Dask scheduler went away; run the same command again to go on") from None
                yield futures.pop(future), failure
                future.release()
    finally:
        if futures:
            client.cancel(list(futures))


def crew(
    shared: Shared, to_do: int, at_once: Callable[[int], int], workers: str | None, scheduler: str | None
) -> Workers:
    """Processes for `to_do` trainings (0: some are to be judged alone).

    Those asked for, else one for each GPU, else as many as `at_once` allows.
    """
    if scheduler is not None or workers not in (None, "auto"):
        return Workers.parse(None if workers == "auto" else workers, scheduler)
    if gpus := visible_gpus(shared.device):
        return Workers(gpus=gpus[: max(1, to_do)])
    return Workers(1 if shared.device.startswith("cuda") else at_once(to_do))


def train_seconds(run: Path) -> float | None:
    """Of all its epochs: their number times the median, so that a resumed run counts like any other."""
    try:
        lines = [json.loads(line)["seconds"] for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    took = sorted(now - before if now > before else now for before, now in zip([0.0, *lines], lines, strict=False))
    return len(took) * took[len(took) // 2] if took else None


@contextmanager
def _process_of_its_own(shared: Shared) -> Iterator[None]:
    """As if the run had been started alone: its threads, and nothing of the run before it."""
    before = torch.get_num_threads()
    torch.set_num_threads(shared.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()  # it compiles a function only so often, and every variant is another
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next run asks how much is free
