"""Make a report of systems and write it: one HTML page, and the same sentences and tables as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...manifests.files import atomic_file
from ...manifests.schema import Manifest
from . import accuracy, behaviour
from .collect import Report, collect
from .document import Section
from .markdown import markdown
from .page import page

PARTS: Sequence[Callable[[Report], Section | None]] = (
    accuracy.headline, accuracy.comparison, accuracy.recall, accuracy.groups, accuracy.settings,
    behaviour.calibration, behaviour.sharpness, behaviour.smoothing, behaviour.cases,
)  # fmt: skip
"""The sections, in order; one that the systems do not provide is left out."""
OTHER_FORMS = (".md", ".pdf", ".json", ".txt", ".tex")
"""Names that are hardly meant to be folders."""


def write_report(
    systems: Sequence[str], out: Path, truth: Manifest | None = None, title: str | None = None, **options: Any
) -> tuple[Path, Path]:
    """Write the page and its Markdown; returns their paths.

    out: a folder for report.html and report.md, or the page itself, ending in .html, its Markdown going beside it.
    systems, truth and options: as `collect` takes them. Raises ValueError as it does, and for an `out` that is neither;
    nothing is written then.
    """
    html, text = paths(out)
    report = collect(systems, truth, **options)
    heading = title or f"{', '.join(report.names)} on {described(report)}"
    sections = [section for part in PARTS if (section := part(report)) is not None]
    for path, content in ((html, page(heading, sections, report.browser)), (text, markdown(heading, sections))):
        with atomic_file(path) as temporary:
            temporary.write_text(content, encoding="utf-8", newline="\n")
    return html, text


def paths(out: Path) -> tuple[Path, Path]:
    """Where the page and its Markdown go. Raises ValueError for a file of another form."""
    if out.suffix.lower() in (".html", ".htm") and not out.is_dir():
        return out, out.with_suffix(".md")
    if out.suffix.lower() in OTHER_FORMS or (out.exists() and not out.is_dir()):
        raise ValueError(f"expected a folder, or a file ending in .html, for the report, got {out}")
    return out / "report.html", out / "report.md"


def described(report: Report) -> str:
    """'qvhighlights val'"""
    ours = report.judged.results.rdmf
    return f"{ours['dataset']} {ours['split']}"
