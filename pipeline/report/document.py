"""What a report is made of before it is HTML or Markdown: sections of sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Cells are text; a 95% interval stands in brackets behind its number, as in '62.90 [60.5, 65.3]'."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    """So many first columns hold text, the others numbers."""
    best: Sequence[tuple[int, int]] = ()
    """(row, column) of the cells to set in bold."""
    queries: Sequence[int] = ()
    """Which query of the browser each row is about, where it is about one."""
    folded: bool = False
    """Whether it is folded away until asked for: the numbers behind a figure."""

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.head), f"{len(row)} cells under {len(self.head)} headings in {self.caption!r}"


@dataclass(frozen=True)
class Figure:
    """Charts that share a caption; Markdown leaves them out, so what they show is in a table or a sentence too."""

    caption: str
    charts: Sequence[str]
    """SVG texts."""
    legend: Sequence[str] = ()
    """Names of the series, in the order of their colours."""


@dataclass(frozen=True)
class Section:
    """A part of the report; its parts come in this order."""

    title: str
    anchor: str
    sentences: Sequence[str] = ()
    points: Sequence[str] = ()
    """A list of sentences, such as verdicts."""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    """Small print."""


def bold_best(rows: Sequence[Sequence[float | None]], first_column: int) -> list[tuple[int, int]]:
    """The cells (row, column) that hold the highest number of their column, where there is more than one row."""
    if len(rows) < 2:
        return []
    found = []
    for i, column in enumerate(zip(*rows, strict=True)):
        known = [round(100 * value, 2) for value in column if value is not None]
        if len(known) > 1 and min(known) < max(known):
            found += [
                (row, first_column + i)
                for row, value in enumerate(column)
                if value is not None and round(100 * value, 2) == max(known)
            ]
    return found


def percent(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """'62.90 [60.5, 65.3]' of fractions; '-' for nothing."""
    if value is None:
        return "-"
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.2f}{interval}"
