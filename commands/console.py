"""What commands print: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from ..extract.schedule import Progress as Extracted


def accepted_by(check: Callable[[Any], object]) -> Callable[[Any], Any]:
    """The callback of an option: what `check` refuses with a ValueError is wrong usage, named by the option."""

    def callback(value: Any) -> Any:
        if value is not None:
            try:
                check(value)
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
        return value

    return callback


def above_zero(number: float) -> None:
    if not 0 < number < math.inf:
        raise ValueError(f"expected a number above 0, got {number:g}")


def from_0_to_1(number: float) -> None:
    if not 0 <= number <= 1:
        raise ValueError(f"expected a number from 0 to 1, got {number:g}")


def one_of(names: Iterable[str], *given: str) -> None:
    for name in given:
        if name not in names:
            raise ValueError(f"expected one of {', '.join(names)}, got {name!r}")


def worker_count(workers: str) -> None:
    from ..extract.workers import Workers

    Workers.parse(workers)


def different_systems(systems: Sequence[str]) -> None:
    """A file that is not there is no matter of usage."""
    from ..pipeline.comparison.systems import name_systems

    name_systems(systems)


def known_device(device: str) -> None:
    """Whether this machine has it is no matter of usage."""
    if device != "cpu":  # torch takes seconds to import
        from ..extract.encoders import named_device

        named_device(device)


def known_protocol(name: str) -> None:
    from ..manifests import PROTOCOLS

    one_of(PROTOCOLS, name)


Device = Annotated[
    str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...", callback=accepted_by(known_device))
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="qvhighlights, charades, activitynet or highlights. [the dataset's]", callback=accepted_by(known_protocol)
    ),
]
SAY_S = 30  # between two lines of progress where there is no terminal
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
        from ..pipeline.training import checkpoint

        checkpoint.write_json(Path(where), tree)


@contextmanager
def goes_on() -> Iterator[None]:
    """Ctrl-C ends what is resumed by its own command with a sentence that says so."""
    try:
        yield
    except KeyboardInterrupt:
        say("stopped; what is done is kept, and the same command goes on from there")
        raise typer.Exit(130) from None


class Bar:
    """A progress bar on standard error, as a context manager; a line now and then where that is no terminal."""

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
        self._what = ""
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, done: int, total: int, what: str | None = None, note: str = "") -> None:
        self.progress.update(self.task, completed=done, total=total, description=what, note=note)
        if self.progress.disable and time.monotonic() - self._said > SAY_S:
            self._said = time.monotonic()
            say(f"{what or ''} {done:,}/{total:,}  {note}".strip())

    def extraction(self, what: str, at: Extracted) -> None:
        if what != self._what:
            self._what, self._began = what, time.monotonic()
        seconds = max(time.monotonic() - self._began, 1e-9)
        notes = []
        if at.done:
            notes.append(f"{at.rows / seconds:,.1f} {'clips' if what == 'video' else 'words'}/s")
            notes.append(f"{clock(seconds / at.done * (at.total - at.done))} left")
        if at.failed:
            notes.append(f"{at.failed:,} failed")
        self.update(at.done, at.total, f"{what} features", "  ".join(notes))


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


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
