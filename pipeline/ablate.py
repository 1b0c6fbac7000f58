"""Train and judge every variant of a sweep with every seed, several at once, on feature shards that are only read.

<out>/sweep.json                   the base, the variants, the features
<out>/<variant>/seed-<s>/          a run like any other (checkpoint.py), and its results on the split (kept_results.py)
<out>/table.md, table.json         the numbers of what is finished, written anew whenever a run ends

What is there is found again by its settings, so the same command goes on: a killed run at its last checkpoint, a
finished one not at all. Every run has the same number of threads whoever else runs, so its weights do not depend on
how many train at once.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..extract.schedule import LOOK_S, NO_WORKERS_S
from ..extract.workers import Workers, visible_gpus
from .ablation_plan import Plan, Run, Shared, refuse_another
from .ablation_tables import AblationTable, Row, markdown, tabulate
from .checkpoint import load_result, write_json
from .evaluate import Results
from .evaluate_run import evaluate_run
from .kept_results import keep
from .run_folder import is_locked, locked
from .tensor_files import publish
from .train import train

if TYPE_CHECKING:
    from distributed import Client, Future

DIED = "its worker process died each time (out of memory, or killed); run the same command with fewer --workers"

_ONE = threading.Lock()  # torch's generators, threads and flags belong to a process: one training in each


def ablate(
    plan: Plan,
    workers: str | None = None,
    scheduler: str | None = None,
    *,
    on_start: Callable[[int, int], None] = lambda to_do, at_once: None,
    on_end: Callable[[Run, Results | str], None] = lambda run, results: None,
) -> AblationTable:
    """Train and judge what is missing, and tell what there is then. What failed is in the rows of the table.

    workers: a number of processes, or a range such as 2-8; 0: in this process; None: what cores, memory and GPUs
    allow. scheduler: the address of a running Dask scheduler, whose workers see the same folders.
    on_end: called with every run as it ends, and its results or why it failed.
    Raises ValueError on a folder in use and where no run is finished, OSError where the workers are gone.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    with locked(plan.out):
        refuse_another(plan)  # now that nobody else can change it
        write_json(plan.out / "sweep.json", plan.said)
        results = {run.folder: found for run in plan.runs if (found := plan.kept(run)) is not None}
        to_do = [run for run in plan.runs if run.folder not in results]
        failures: dict[Path, str] = {}
        with _crew(plan, len(to_do), workers, scheduler) if to_do else Workers(0) as crew:
            on_start(len(to_do), min(len(to_do), 1 if crew.client() is None else crew.parallel))
            for run, failure in _train(plan.shared, to_do, crew.client(), 0 if scheduler else crew.parallel):
                found = None if failure else plan.kept(run)
                if found is None:
                    failures[run.folder] = failure or f"the workers write to a {run.folder} that is not the one here"
                else:
                    results[run.folder] = found
                    _write(plan.out, _table(plan, results, failures))
                on_end(run, found or failures[run.folder])
        if not results:
            raise ValueError(f"no run is finished. {'; '.join([*plan.refused.values(), *failures.values()])}")
        table = _table(plan, results, failures)
        _write(plan.out, table)
        return table


def train_and_judge(shared: Shared, run: Run) -> str:
    """What a worker does with a run. Returns why it failed, or nothing."""
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


def train_seconds(run: Path) -> float | None:
    """Of all its epochs: their number times the median, so that a resumed run counts like any other."""
    try:
        lines = [json.loads(line)["seconds"] for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    took = sorted(now - before if now > before else now for before, now in zip([0.0, *lines], lines, strict=False))
    return len(took) * took[len(took) // 2] if took else None


def _table(plan: Plan, results: Mapping[Path, Results], failures: Mapping[Path, str]) -> AblationTable:
    by_folder: dict[str, dict[int, Results]] = {}
    missing: dict[str, dict[int, str]] = {}
    for run in plan.runs:
        if run.folder in results:
            by_folder.setdefault(run.folder.parent.name, {})[run.seed] = results[run.folder]
        else:
            missing.setdefault(run.folder.parent.name, {})[run.seed] = failures.get(run.folder, "not trained yet")
    rows = []
    for name, folder in ((variant.name, variant.folder) for variant in plan.sweep.variants):
        done = [plan.out / folder / f"seed-{seed}" for seed in by_folder.get(folder, {})]
        seconds = [took for run in done if (took := train_seconds(run)) is not None]
        rows.append(Row(
            name, folder, plan.said["variants"][name]["set"],
            parameters=load_result(done[0]).parameters if done else None,
            train_seconds=sum(seconds) / len(seconds) if seconds else None,
            missing=missing.get(folder), refused=plan.refused.get(name),
        ))  # fmt: skip
    return tabulate(rows, by_folder, plan.sweep.baseline.name, plan.sweep.seeds, plan.notes)


def _write(out: Path, table: AblationTable) -> None:
    write_json(out / "table.json", table.to_json())
    publish(out / "table.md", [markdown(table).encode()])


def _crew(plan: Plan, to_do: int, workers: str | None, scheduler: str | None) -> Workers:
    if scheduler is not None or workers not in (None, "auto"):
        return Workers.parse(None if workers == "auto" else workers, scheduler)
    if gpus := visible_gpus(plan.shared.device):
        return Workers(gpus=gpus[:to_do])
    return Workers(1 if plan.shared.device.startswith("cuda") else plan.at_once(to_do))


def _train(shared: Shared, runs: Sequence[Run], client: Client | None, parallel: int) -> Iterator[tuple[Run, str]]:
    """Every run and why it failed, if so, as they end. parallel: runs at once; 0: as many as there are workers."""
    if client is None:
        yield from ((run, train_and_judge(shared, run)) for run in runs)
        return
    from distributed import CancelledError, KilledWorker, wait

    def processes() -> int:
        return len(client.scheduler_info(n_workers=-1)["workers"])

    waiting, seen_workers = deque(runs), time.monotonic()
    futures: dict[Future, Run] = {}
    try:
        while waiting or futures:
            # No more than run at once: Dask blames all that wait at a worker when it dies
            while waiting and len(futures) < max(1, parallel or processes()):
                run = waiting.popleft()
                futures[client.submit(train_and_judge, shared, run, pure=False)] = run
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
