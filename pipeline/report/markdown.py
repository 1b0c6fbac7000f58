"""The report as Markdown: the same sentences and tables; figures and the browser are in the HTML page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .document import Section, Table

SPECIAL = re.compile(r"([\\`*<>|#~&]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))")
"""What would be read as markup: an underscore within a word is none, nor are brackets that no address follows."""


def markdown(title: str, sections: Sequence[Section]) -> str:
    """A whole document."""
    parts = [f"# {_escaped(title)}"]
    for section in sections:
        parts.append(f"## {_escaped(section.title)}")
        parts += [_escaped(sentence) for sentence in section.sentences]
        parts += [_table(table) for table in section.tables]
        if section.points:
            parts.append("\n".join(f"- {_escaped(point)}" for point in section.points))
        if section.notes:
            parts.append("\n".join(f"> {_escaped(note)}  " for note in section.notes))
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    bold = set(table.best)
    rows = [
        [f"**{_escaped(cell)}**" if (i, j) in bold else _escaped(cell) for j, cell in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    head = [_escaped(cell) for cell in table.head]
    rule = ["---" if i < table.texts else "---:" for i in range(len(head))]
    lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
    return "\n".join([f"{_escaped(table.caption)}", "", *lines])


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
