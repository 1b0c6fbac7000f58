"""rdmf runs: what has been trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import fail, say, table, warn_random, write_json

if TYPE_CHECKING:
    from ..pipeline.training.runs import RunSummary


def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, in folders below too.")] = Path("runs"),
    json_to: Annotated[str | None, typer.Option("--json", help="Write as JSON; - is standard output.")] = None,
) -> None:
    """The runs under a folder: how far each is, and its best validation numbers."""
    from ..pipeline.training.runs import list_runs

    found = list_runs(folder)
    if not found:
        fail(f"{folder} holds no runs; make one with `rdmf train`")
    write_json([run.to_json() for run in found], json_to)
    usable = [run for run in found if run.problem is None]
    names = list(dict.fromkeys(name for run in usable for name in run.best))
    if usable:
        head = ["run", "dataset", "fusion", "seed", "state", "best/all", *names]
        table(
            head,
            [_row(run, folder, names) for run in usable],
            "epochs, and numbers of the best on validation",
            to_stderr=json_to == "-",
        )
    warn_random([str(run.folder) for run in usable if run.random_weights])
    damaged = [run for run in found if run.problem is not None]
    for run in damaged:
        say(f"{run.folder}: {run.problem}")
    if damaged:
        fail(f"{len(damaged)} of {len(found)} runs cannot be read")


def _row(run: RunSummary, folder: Path, names: list[str]) -> list[str]:
    name = run.folder.name if run.folder == folder else str(run.folder.relative_to(folder))
    scores = [f"{100 * run.best[name]:.1f}" if name in run.best else "" for name in names]
    return [
        name,
        str(run.dataset),
        run.fusion,
        str(run.seed),
        run.state,
        f"{run.best_epoch or '-'}/{run.epochs}",
        *scores,
    ]
