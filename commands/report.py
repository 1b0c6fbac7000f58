"""rdmf report: everything about some systems on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Device, Protocol, accepted_by, different_systems, say


def report(
    systems: Annotated[
        list[str],
        typer.Argument(
            help="Runs, prediction files, or name=seed1,seed2,...; the first is compared with the others.",
            metavar="A [B ...]",
            callback=accepted_by(different_systems),
        ),
    ],
    out: Annotated[Path, typer.Option(help="A folder for report.html and report.md, or a file ending in .html.")],
    annotations: Annotated[
        Path | None, typer.Option(help="What all are judged by. [of the first run's features]")
    ] = None,
    features: Annotated[Path | None, typer.Option(help="Those of the runs, if they moved.")] = None,
    split: Annotated[str | None, typer.Option(help="[val with runs; for files, the split they are about]")] = None,
    protocol: Protocol = None,
    title: Annotated[str | None, typer.Option(help="Of the page. [the systems, dataset and split]")] = None,
    allow_missing: Annotated[bool, typer.Option(help="Count a query without prediction as wrong.")] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Of the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    device: Device = "cpu",
) -> None:
    """Write one self-contained page about systems: tables, figures, and every query to look at; and its Markdown."""
    from ..pipeline.evaluation.truth import read_truth
    from ..pipeline.report.write import write_report

    truth = None if annotations is None else read_truth(annotations)
    html, text = write_report(
        systems, out, truth, title, protocol=protocol, split=split, allow_missing=allow_missing, resamples=resamples,
        seed=seed, features=features, device=device, say=say,
    )  # fmt: skip
    typer.echo(f"{html} ({html.stat().st_size / 1e6:.1f} MB), {text}")
