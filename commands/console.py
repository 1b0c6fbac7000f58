"""What commands print: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from ..pipeline.train import Progress

Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
SHOWN = 10  # missing videos, failures and findings printed; files have them all


def fail(sentence: str) -> NoReturn:
    typer.echo(f"rdmf: {sentence}", err=True)
    sys.exit(1)


def say(sentence: str) -> None:
    typer.echo(sentence, err=True)


def warn_random(stores: Sequence[str]) -> None:
    if stores:
        say(f"note: RANDOM encoder weights made the features of {', '.join(stores)}; numbers say nothing about them")


def some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def write_json(tree: Any, where: str | None) -> None:
    if where == "-":
        typer.echo(json.dumps(tree, indent=2, allow_nan=False))
    elif where is not None:
        from ..pipeline import checkpoint

        checkpoint.write_json(Path(where), tree)


class Bar:
    """A progress bar on standard error, as a context manager; silent where that is no terminal."""

    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        console = Console(stderr=True)
        self.progress = RichProgress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.progress.add_task(what, total=None, note="")

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, done: int, total: int, what: str | None = None) -> None:
        self.progress.update(self.task, completed=done, total=total, description=what)

    def step(self, at: Progress) -> None:
        losses = "  ".join(f"{name} {value:.2f}" for name, value in at.losses.items())
        self.progress.update(
            self.task, completed=at.step, total=at.steps, description=f"epoch {at.epoch}/{at.epochs}",
            note=f"{at.queries_per_s:.0f} queries/s  {losses}",
        )  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", to_stderr: bool = False) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, box=SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    console = Console(stderr=to_stderr)
    console = console if console.is_terminal else Console(stderr=to_stderr, width=120)
    console.print(table)
