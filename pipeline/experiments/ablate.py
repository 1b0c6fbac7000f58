"""Train and judge every variant of a sweep with every seed, several at once, on feature shards that are only read.

<out>/sweep.json                   the base, the variants, the features
<out>/<variant>/seed-<s>/          a run (training/checkpoint.py) and its results on the split (kept_results.py)
<out>/table.md, table.json         the numbers of what is finished, written anew whenever a run ends
<out>/costs.json                   what the variants cost (ablation_costs.py)

What is there is found again by its settings, so the same command goes on: a killed run at its last checkpoint, a
finished one not at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from ...extract.workers import Workers
from ..evaluation.evaluate import Results
from ..training.checkpoint import load_result, write_json
from ..training.run_folder import locked
from ..training.tensor_files import publish
from .ablation_costs import with_costs
from .ablation_plan import Plan, Run, refuse_another
from .ablation_tables import AblationTable, Row, markdown, tabulate
from .training_jobs import Job, crew, do_all, train_seconds


def ablate(
    plan: Plan,
    workers: str | None = None,
    scheduler: str | None = None,
    *,
    costs: bool = False,
    on_start: Callable[[int, int], None] = lambda to_do, at_once: None,
    on_end: Callable[[Run, Results | str], None] = lambda run, results: None,
    on_costs: Callable[[int], None] = lambda models: None,
) -> AblationTable:
    """Train and judge what is missing, and tell what there is then. What failed is in the rows of the table.

    workers: a number of processes, or a range such as 2-8; 0: in this process; None: what cores, memory and GPUs
    allow. scheduler: the address of a running Dask scheduler, whose workers see the same folders.
    costs: whether to measure what the variants cost, here and when nothing trains any more.
    on_end: called with every run as it ends, and its results or why it failed.
    on_costs: called with the number of models before they are measured.
    Raises ValueError on a folder in use and where no run is finished, OSError where the workers are gone.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    with locked(plan.out):
        refuse_another(plan)  # now that nobody else can change it
        write_json(plan.out / "sweep.json", plan.said)
        results = {run.folder: found for run in plan.runs if (found := plan.kept(run)) is not None}
        to_do = [run for run in plan.runs if run.folder not in results]
        failures: dict[Path, str] = {}
        jobs = deque(Job(plan.shared, run) for run in to_do)
        with crew(plan.shared, len(to_do), plan.at_once, workers, scheduler) if to_do else Workers(0) as hands:
            client = hands.client()
            on_start(len(to_do), min(len(to_do), 1 if client is None else hands.parallel))
            parallel = 0 if scheduler else hands.parallel
            for (_, run), failure in do_all(lambda: jobs.popleft() if jobs else None, client, parallel):
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
        if costs:
            table = with_costs(table, plan, on_costs)
            _write(plan.out, table)
        return table


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
