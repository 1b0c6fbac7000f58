"""The report as one HTML page: styles, charts, data and script inside, nothing loaded from anywhere.

Text from outside (sentences, names of systems) goes through `html.escape`, into the data through JSON without '<', and
is put on the page by the script as text only. The page's own policy lets no other script run and nothing load.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from ... import __version__
from .document import Figure, Section, Table
from .svg import key

INTERVAL = re.compile(r"^(?P<value>\S+)(?P<deviation> ± \S+)?(?P<interval> \[[^\]]*\])?$")


def page(title: str, sections: Sequence[Section], browser: dict[str, Any]) -> str:
    """The whole page."""
    script = _file("browser.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    links = [*((section.anchor, section.title) for section in sections), ("queries", "Every query")]
    return Template(_file("page.html")).substitute(
        title=escape(title),
        version=escape(__version__),
        style=_file("style.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        nav="".join(f'<a href="#{anchor}">{escape(words)}</a>' for anchor, words in links),
        sections="\n".join(_section(section) for section in sections),
        data=embedded(browser),
    )


def embedded(tree: Any) -> str:
    """JSON that can stand in a script element whatever its texts are."""
    text = json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _section(section: Section) -> str:
    parts = [f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>']
    parts += [f"<p>{escape(sentence)}</p>" for sentence in section.sentences]
    parts += [_table(table) for table in section.tables if not table.folded]
    if section.points:
        parts.append("<ul>" + "".join(f"<li>{escape(point)}</li>" for point in section.points) + "</ul>")
    parts += [_figure(figure) for figure in section.figures]
    parts += [_table(table) for table in section.tables if table.folded]
    parts += _notes(section.notes)
    return "\n".join([*parts, "</section>"])


def _notes(notes: Sequence[str], shown: int = 4) -> list[str]:
    """Small print; a long list is folded after its first sentences."""
    parts = [f'<p class="note">{escape(note)}</p>' for note in notes[:shown]]
    if notes[shown:]:
        rest = "".join(f'<p class="note">{escape(note)}</p>' for note in notes[shown:])
        parts.append(f"<details><summary>{len(notes) - shown} more notes</summary>{rest}</details>")
    return parts


def _figure(figure: Figure) -> str:
    legend = ""
    if len(figure.legend) > 1:
        names = "".join(f"<li>{key(i)}{escape(name)}</li>" for i, name in enumerate(figure.legend))
        legend = f'<ul class="legend">{names}</ul>'
    charts = "".join(figure.charts)
    return (
        f'<figure>{legend}<div class="charts">{charts}</div><figcaption>{escape(figure.caption)}</figcaption></figure>'
    )


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{"" if i < table.texts else _NUMBER}>{escape(cell)}</th>' for i, cell in enumerate(table.head)
    )
    body = "".join(_row(table, i) for i in range(len(table.rows)))
    caption = escape(table.caption)
    style = ' class="cases"' if table.queries else ""
    text = f"<table{style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    text = f'<div class="wide" role="region" aria-label="{caption}" tabindex="0">{text}</div>'
    if table.folded:
        return f"<details><summary>{caption}</summary>{text}</details>"
    return f'<p class="caption">{caption}</p>{text}'


_NUMBER = ' class="number"'


def _row(table: Table, row: int) -> str:
    cells = []
    for column, cell in enumerate(table.rows[row]):
        if column >= table.texts:
            bold = ' class="number best"' if (row, column) in table.best else _NUMBER
            cells.append(f"<td{bold}>{_number(cell)}</td>")
        elif column == 0 and table.queries:
            cells.append(f'<th scope="row"><a href="#query-{table.queries[row]}">{escape(cell)}</a></th>')
        else:
            above = table.rows[row - 1][: column + 1] if row and column + 1 < table.texts else None
            repeated = list(table.rows[row][: column + 1]) == list(above or ())
            style = ' class="again"' if repeated else ""
            cells.append(
                f'<th scope="row"{style}>{escape(cell)}</th>' if not column else f"<td{style}>{escape(cell)}</td>"
            )
    return "<tr>" + "".join(cells) + "</tr>"


def _number(cell: str) -> str:
    """The value, and under it what it is uncertain by."""
    found = INTERVAL.match(cell)
    if found is None:
        return escape(cell)
    small = "".join(
        f'<span class="ci">{escape(part.strip())}</span>' for part in found.group("deviation", "interval") if part
    )
    return f"{escape(found['value'])}{small}"
