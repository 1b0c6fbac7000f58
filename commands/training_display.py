"""What `rdmf train` shows on standard error: a line per epoch and, below them on a terminal, a live panel.

    epoch   2  loss  9.916  R1@0.5  21.9  R1@0.7   9.4  mIoU  22.1  mAP  14.0  41 s  *

    epoch 3/50  ━━━━━━━━━━━━━━━━━━━━━━━  120/452  412 queries/s (1% of the time on data)  at most 31:05 left
    span 0.055  giou 0.412  class 0.833  iou 0.121  saliency 0.626  total 11.05  lr 1.0e-04  gradient 8.6
    best so far: epoch 2  ...

Where there is no terminal, a line now and then within long epochs takes the panel's place.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from .console import SAY_S, clock, say

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..pipeline.training.train import Progress


class TrainingDisplay:
    """A context manager that is told of steps and epochs."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._best: dict[str, Any] | None = None
        self._at: Progress | None = None
        self._began = self._said = time.monotonic()
        self._begun_at: float | None = None  # share of the run that was done when it was first heard of
        console = Console(stderr=True)
        self._live = Live(console=console, transient=True, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> TrainingDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, at: Progress) -> None:
        self._at = at
        if self._begun_at is None:  # a resumed run does not begin at 0
            self._begun_at, self._began = _share(at), time.monotonic()
        if self._live is not None:
            self._live.update(self._panel())
        elif time.monotonic() - self._said > SAY_S:
            self._said = time.monotonic()
            say(f"epoch {at.epoch:3d}  step {at.step:,}/{at.steps:,}  {_terms(at)}  {_speed(at)}{self._left()}")

    def epoch(self, record: dict[str, Any]) -> None:
        """record: a line of log.jsonl."""
        if record["best"]:
            self._best = record
        self._said = time.monotonic()
        line = epoch_line(record)
        if self._live is None:
            say(line)
        else:
            self._live.console.print(line, highlight=False)
            self._live.update(self._panel())

    def _left(self) -> str:
        at, begun = self._at, self._begun_at
        if at is None or begun is None or _share(at) <= begun:
            return ""
        seconds = (time.monotonic() - self._began) / (_share(at) - begun) * (1 - _share(at))
        return f"  at most {clock(seconds)} left"  # it may stop early

    def _panel(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        parts: list[RenderableType] = []
        if (at := self._at) is not None:
            head = Table.grid(padding=(0, 2))
            bar = ProgressBar(total=at.steps, completed=at.step, width=30)
            where = f"{at.step:,}/{at.steps:,}"
            head.add_row(f"epoch {at.epoch}/{at.epochs}", bar, where, _speed(at) + self._left())
            parts += [head, Text(f"{_terms(at)}  lr {at.lr:.1e}  gradient {at.gradient_norm:.2g}")]
        if self._best is not None:
            parts.append(Text("best so far: " + epoch_line(self._best)))
        return Group(*parts)


def epoch_line(record: dict[str, Any]) -> str:
    scores = "  ".join(f"{name} {100 * value:5.1f}" for name, value in record["validation"].items())
    return f"epoch {record['epoch']:3d}  loss {record['loss']['total']:6.3f}  {scores}  {record['seconds']:.0f} s" + (
        "  *" if record["best"] else ""
    )


def _share(at: Progress) -> float:
    """Of the run, done."""
    return (at.epoch - 1 + at.step / at.steps) / at.epochs


def _terms(at: Progress) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in at.losses.items())


def _speed(at: Progress) -> str:
    return f"{at.queries_per_s:,.0f} queries/s" + (
        f" ({at.data_share:.0%} of the time on data)" if at.data_share else ""
    )
