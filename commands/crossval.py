"""rdmf crossval: models compared on every query of a dataset, each tuned and tested on folds."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import SHOWN, Device, clock, fail, goes_on, say, table, write_json

if TYPE_CHECKING:
    from ..manifests.folds import Folds
    from ..pipeline.experiments.crossval_tables import CrossvalTable
    from ..pipeline.experiments.crossval_work import Progress


def crossval(
    plan: Annotated[
        Path,
        typer.Argument(
            help="YAML file of a plan, or one of ours: captions, captions-{longer,published}, demo.",
            metavar="PLAN",
        ),
    ],
    features: Annotated[Path, typer.Option(help="Folder that `rdmf features` made; it is only read.")],
    out: Annotated[Path, typer.Option(help="Folder of the benchmark; the same command goes on with it.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Of the plan's models, this one for now; repeatable. [all]")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of its seeds, likewise. [all]")] = None,
    fold: Annotated[
        list[int] | None, typer.Option(help="Of its folds, counted from 0, likewise; the tables are on these alone.")
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            help="Folder of results, <out>/results of another benchmark: the models that fit are not trained."
        ),
    ] = None,
    folds: Annotated[Path | None, typer.Option(help="JSON file of folds. [the plan's]")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value for all models whose own `set` does not say it; repeatable."),
    ] = None,
    video_store: Annotated[list[str] | None, typer.Option(help="Video store(s) to read, as in `rdmf train`.")] = None,
    text_store: Annotated[str | None, typer.Option(help="Text store to read, likewise.")] = None,
    workers: Annotated[
        str, typer.Option(help="Trainings at once, or a range; 0: in this process; auto: by cores, memory, GPUs.")
    ] = "auto",
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler, tcp://host:8786")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each training; another number rounds otherwise.")] = 1,
    device: Device = "cpu",
    cost: Annotated[
        bool,
        typer.Option(help="Measure what each model costs, too: operations, time and memory of a step; seconds each."),
    ] = True,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write the tables as JSON; - is standard output.")
    ] = None,
) -> None:
    """Compare models by nested cross-validation: tuned alike, every query tested once, with several seeds."""
    from .ablate import check_options

    check_options(workers, device if scheduler is None else "cpu")
    from ..pipeline.experiments.cross_validation import cross_validate
    from ..pipeline.experiments.crossval_plan import read_plan

    try:
        read = read_plan(plan, folds, set_ or ())
    except ValueError as error:
        if set_ and str(error).startswith("--set"):
            raise typer.BadParameter(str(error)) from None
        raise
    try:
        part = read.part(model or (), seed or (), fold or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    began = _Clock()
    with goes_on():
        found = cross_validate(
            read, features, out, workers, scheduler, part=part, known=known, video_stores=video_store or (),
            text_store=text_store, device=device, threads=threads, costs=cost,
            command=shlex.join(["rdmf", *sys.argv[1:]]), on_start=began.start, on_end=began.end,
            on_costs=began.costs,
        )  # fmt: skip
    write_json(found.to_json(), json_to)
    _print(found, to_stderr=json_to == "-")
    say(f"tables: {out / found.name}.md, {out / found.name}.json")
    if lacking := found.lacking:
        fail("not everything is in the numbers: " + "; ".join(lacking))


class _Clock:
    """A line for every run that ends, and how long the rest will take."""

    def start(self, folds: Folds, done: int, left: int, at_once: int) -> None:
        self._began, self._done = time.monotonic(), done
        sizes = ", ".join(str(len(groups)) for groups in folds.groups)
        say(f"{len(folds)} folds of {sizes} source videos")
        say(f"{left} runs to train ({at_once} at once), {done} are there already")

    def end(self, at: Progress) -> None:
        from ..pipeline.evaluation.headline import in_percent

        what = f"test, {at.run.name}" if at.task.round else f"tuning, {at.run.variant}"
        if isinstance(at.results, str):
            said = f"FAILED: {at.results}"
        else:
            said = "  ".join(f"{n} {v}" for n, v in in_percent(at.results.protocol, at.results.numbers, {}).items())
        left = ""
        if at.done > self._done:
            took = (time.monotonic() - self._began) / (at.done - self._done)
            left = f"  ({clock(took * at.left)} left)"
        say(f"{at.done}/{at.done + at.left}  fold {at.task.fold}  {what}  {said}{left}")

    def costs(self, models: int) -> None:
        say(f"measuring what {models} model{'s cost, in turn' if models > 1 else ' costs'}")


def _print(found: CrossvalTable, to_stderr: bool) -> None:
    from ..pipeline.experiments.crossval_tables import method, tables, trials_said

    for title, head, body in tables(found):
        table(head, body, title=title, to_stderr=to_stderr)
    for said in trials_said(found):
        typer.echo(said, err=to_stderr)
    say(method(found))
    for note in found.numbers.notes[:SHOWN]:
        say(f"note: {note}")
