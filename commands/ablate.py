"""rdmf ablate: many trainings on the same shards, and what each setting is worth."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import SHOWN, Device, fail, goes_on, say, table, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..pipeline.evaluation.evaluate import Results
    from ..pipeline.experiments.ablation_plan import Plan, Run
    from ..pipeline.experiments.ablation_tables import AblationTable


def ablate(
    sweep: Annotated[
        Path,
        typer.Argument(
            help="YAML file of a sweep, or the name of one that comes with rdmf: components, horizon, reaction_steps, "
            "diffusion_steps, time_step, diffusion_rates, feed_kill, queries; the paper's tables: table1, table2, "
            "table3, table4, table5, table6, table7, table8, internvideo2.",
            metavar="SWEEP",
        ),
    ],
    features: Annotated[Path, typer.Option(help="Folder that `rdmf features` made; it is only read.")],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same command goes on with it.")],
    config: Annotated[Path | None, typer.Option(help="YAML settings in place of the sweep's base.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value for all variants that do not set it; repeatable."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="What the numbers are on. [the sweep's, else val]")] = None,
    video_store: Annotated[list[str] | None, typer.Option(help="Video store(s) to read, as in `rdmf train`.")] = None,
    text_store: Annotated[str | None, typer.Option(help="Text store to read, likewise.")] = None,
    workers: Annotated[
        str,
        typer.Option(
            help="Trainings at once, or a range such as 2-8; 0: in this process; auto: by cores, memory, GPUs."
        ),
    ] = "auto",
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler, tcp://host:8786")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each training; another number rounds otherwise.")] = 1,
    device: Device = "cpu",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is there and what is to do; do nothing.")
    ] = False,
    cost: Annotated[
        bool,
        typer.Option(help="Measure what each variant costs, too: operations, time and memory of a step; seconds each."),
    ] = True,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write the tables as JSON; - is standard output.")
    ] = None,
) -> None:
    """Train every variant of a sweep with every seed, and say what each is worth. What is finished is reused."""
    check_options(workers, device if scheduler is None else "cpu")
    from ..pipeline.experiments.ablate import ablate as run_ablation
    from ..pipeline.experiments.ablation_plan import prepare
    from ..pipeline.experiments.ablation_tables import problems
    from ..pipeline.experiments.sweep import read_sweep

    try:
        read = read_sweep(sweep, config, set_ or (), split)
    except ValueError as error:
        if set_ and str(error).startswith("--set"):
            raise typer.BadParameter(str(error)) from None
        raise
    plan = prepare(
        read, features, out, video_stores=video_store or (), text_store=text_store, device=device, threads=threads,
        command=shlex.join(["rdmf", *sys.argv[1:]]),
    )  # fmt: skip
    for name, sentence in plan.refused.items():
        say(f"{name} is refused: {sentence}")
    if dry_run:
        _print_plan(plan)
        return
    with goes_on(), Display(plan) as display:
        found = run_ablation(
            plan, workers, scheduler, costs=cost, on_start=display.start, on_end=display.end, on_costs=display.costs
        )
    write_json(found.to_json(), json_to)
    _print_tables(found, to_stderr=json_to == "-")
    say(f"tables: {out / 'table.md'}, {out / 'table.json'}")
    if lacking := problems(found):
        fail("not all variants have all their seeds: " + "; ".join(lacking))


def check_options(workers: str, device: str) -> None:
    from ..extract.encoders import usable_device
    from ..extract.workers import Workers

    try:
        Workers.parse(None if workers == "auto" else workers)
        usable_device(device)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


class Display:
    """On standard error: a line for each run that ends and, on a terminal, the runs that train at this moment."""

    def __init__(self, plan: Plan) -> None:
        from rich.console import Console
        from rich.live import Live

        self._plan, self._to_do, self._done = plan, 0, 0
        self._ended: set[Path] = set()
        console = Console(stderr=True)
        self._live = None
        if console.is_terminal:
            self._live = Live(console=console, transient=True, refresh_per_second=1, get_renderable=self._running)

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, to_do: int, at_once: int) -> None:
        self._to_do = to_do
        there = len(self._plan.runs) - to_do
        if to_do:
            how = f"{at_once} at once, {self._plan.shared.threads} thread{'s' * (self._plan.shared.threads > 1)} each"
            say(f"{to_do} run{'s' * (to_do > 1)} to train ({how}), {there} are there already")
        else:
            say(f"all {there} runs are there already")

    def end(self, run: Run, results: Results | str) -> None:
        self._done += 1
        self._ended.add(run.folder)
        line = f"{self._done}/{self._to_do}  {run.name}  " + (
            results if isinstance(results, str) else _said(run, results)
        )
        if self._live is None:
            say(line)
        else:
            self._live.console.print(line, highlight=False, markup=False)

    def costs(self, models: int) -> None:
        say(f"measuring what {models} model{'s cost, in turn' if models > 1 else ' costs'}")

    def _running(self) -> RenderableType:
        """What the run folders say, whichever process writes them."""
        from rich.table import Table

        from ..pipeline.training.runs import summarise

        grid = Table.grid(padding=(0, 2))
        for run in self._plan.runs:
            if run.folder in self._ended or not (run.folder / "steps.jsonl").is_file():
                continue
            found = summarise(run.folder)
            if found.state.startswith("training"):
                best = "  ".join(f"{name} {100 * value:.1f}" for name, value in found.best.items())
                grid.add_row(
                    run.name, f"epoch {found.epochs + 1}/{run.config.training.epochs}", _speed(run.folder), best
                )
        grid.add_row(f"{self._done} of {self._to_do} runs done" if self._to_do else "", "", "", "")
        return grid


def _said(run: Run, results: Results) -> str:
    from ..pipeline.evaluation.headline import in_percent
    from ..pipeline.training.checkpoint import load_result

    scores = "  ".join(f"{n} {value}" for n, value in in_percent(results.protocol, results.numbers, {}).items())
    ended = load_result(run.folder)
    return f"{scores}  (best epoch {ended.best_epoch} of {ended.epochs}, {ended.seconds:.0f} s)"


def _speed(run: Path) -> str:
    """Of the last look at the losses."""
    try:
        with (run / "steps.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2000))
            last = json.loads(file.read().splitlines()[-1])
        return f"step {last['step']:,}  {last['queries_per_s']:,.0f} queries/s"
    except (OSError, ValueError, KeyError, IndexError, TypeError):  # nothing yet, or half a line
        return ""


def _print_plan(plan: Plan) -> None:
    from ..pipeline.training.runs import summarise

    states: dict[str, list[str]] = {}
    for run in plan.runs:
        there = (run.folder / "run.json").is_file()
        state = "finished" if plan.kept(run) is not None else summarise(run.folder).state if there else "to do"
        if state == "finished" and plan.kept(run) is None:
            state = "to judge"
        states.setdefault(run.variant, []).append(f"{run.seed} {state}")
    table(["variant", "seeds"], [[name, ", ".join(seeds)] for name, seeds in states.items()])
    to_do = sum(not state.endswith(" finished") for seeds in states.values() for state in seeds)
    say(f"{to_do} of {len(plan.runs)} runs to do, {plan.at_once(to_do)} at once by this machine's cores and memory")


def _print_tables(found: AblationTable, to_stderr: bool) -> None:
    from ..pipeline.experiments.ablation_tables import method, stacked, stacked_differences

    head, body = stacked(found)
    title = f"{found.dataset} {found.split}: {found.queries} queries, seeds {', '.join(map(str, found.seeds))}"
    table(head, body, title=title, to_stderr=to_stderr)
    head, body = stacked_differences(found)
    if body:
        table(head, body, title=f"differences from {found.baseline}", to_stderr=to_stderr)
    say(method(found))
    for note in found.notes[:SHOWN]:
        say(f"note: {note}")
