"""rdmf compare: is the difference between systems more than chance?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Device, Protocol, accepted_by, different_systems, say, table, write_json


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            help="The system, then its baselines: prediction files, runs, or name=seed1,seed2,...",
            metavar="A B [C ...]",
            callback=accepted_by(different_systems),
        ),
    ],
    annotations: Annotated[
        Path | None, typer.Option(help="What all are judged by. [of the first run's features]")
    ] = None,
    features: Annotated[Path | None, typer.Option(help="Those of the runs, if they moved.")] = None,
    split: Annotated[str | None, typer.Option(help="[val with runs; for files, the split they are about]")] = None,
    protocol: Protocol = None,
    metric: Annotated[list[str] | None, typer.Option(help="Also compare this, such as mAP or HL-Good-Hit1.")] = None,
    allow_missing: Annotated[bool, typer.Option(help="Count a query without prediction as wrong.")] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap over source videos.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    markdown: Annotated[Path | None, typer.Option(help="Write table and verdicts as Markdown.")] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write everything as JSON; - is standard output.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Compare a system with baselines, query by query: differences, two tests, effect sizes, verdicts."""
    if len(systems) < 2:
        raise typer.BadParameter("give at least two: the system and a baseline")
    from ..manifests.files import atomic_file
    from ..pipeline.comparison import comparison_text
    from ..pipeline.comparison.compare import compare as run_comparison
    from ..pipeline.comparison.systems import parse_systems, read_systems
    from ..pipeline.evaluation.truth import read_truth

    truth = None if annotations is None else read_truth(annotations)
    read, notes = read_systems(
        parse_systems(systems), truth, protocol, split, allow_missing=allow_missing, features=features, device=device
    )
    found = run_comparison(read[0], read[1:], metric or (), resamples=resamples, seed=seed, notes=notes)
    if markdown is not None:
        with atomic_file(markdown) as part:
            part.write_text(comparison_text.markdown(found), encoding="utf-8")
    write_json(found.to_json(), json_to)
    title = f"{found.system} on {found.dataset} {found.split}; p-values corrected over the baselines ({len(read) - 1})"
    head, body = comparison_text.stacked(found)
    table(head, body, title=title, to_stderr=json_to == "-")
    for test in found.tests:
        typer.echo(found.sentence(test), err=json_to == "-")
    for note in (found.ap, *found.notes):
        say(f"note: {note}")
