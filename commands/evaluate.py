"""rdmf evaluate: the protocol, for a run or a file of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Device, say, some, table, warn_random, write_json

if TYPE_CHECKING:
    from ..pipeline.evaluate import Results


def evaluate(
    run: Annotated[Path | None, typer.Option(help="A trained run.")] = None,
    features: Annotated[Path | None, typer.Option(help="Its features, if they moved.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Or: a jsonl file of predictions ...")] = None,
    annotations: Annotated[Path | None, typer.Option(help="... and the annotations they are judged by.")] = None,
    split: Annotated[str | None, typer.Option(help="[val for a run; for a file, the split it is about]")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="qvhighlights, charades, activitynet or highlights. [the dataset's]")
    ] = None,
    controls: Annotated[bool, typer.Option(help="Also judge guesses and the model on broken input.")] = False,
    allow_missing: Annotated[bool, typer.Option(help="Count a query without prediction as wrong.")] = False,
    save_predictions: Annotated[Path | None, typer.Option(help="Write the run's predictions as jsonl.")] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write the numbers as JSON; - is standard output.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Judge a run, or a file of predictions, by the field's protocol."""
    if (run is None) == (predictions is None) or (predictions is None) != (annotations is None):
        raise typer.BadParameter("give either --run, or --predictions with --annotations")
    if predictions is not None and annotations is not None:
        from ..pipeline.evaluate import evaluate_files

        if controls or save_predictions or features:
            raise typer.BadParameter("--controls, --save-predictions and --features need --run")
        results = evaluate_files(predictions, annotations, protocol, split, allow_missing=allow_missing)
        rows, tree = {predictions.name: results}, results.to_json()
    if run is not None:
        from ..pipeline.controls import CONTROLS
        from ..pipeline.evaluate_run import evaluate_run

        judged = evaluate_run(
            run, split or "val", features=features, protocol=protocol, controls=CONTROLS if controls else (),
            device=device, predictions_to=save_predictions,
        )  # fmt: skip
        warn_random(judged.info.random_weights)
        if judged.missing:
            say(
                f"{len(judged.missing)} queries of the split have no features and are left out, such as "
                + some(judged.missing)
            )
        rows, tree = {str(run): judged.run, **judged.controls}, judged.to_json()
    write_json(tree, json_to)
    _print_results(rows, to_stderr=json_to == "-")


def _print_results(rows: dict[str, Results], to_stderr: bool) -> None:
    from ..pipeline.headline import headline

    columns = list(dict.fromkeys(name for results in rows.values() for name in headline(results)))
    first = next(iter(rows.values()))
    body = [[name, *(headline(results).get(c, "-") for c in columns)] for name, results in rows.items()]
    counts = first.rdmf["counts"]
    title = f"{first.rdmf['dataset']} {first.rdmf['split']}: {counts['queries']} queries, protocol {first.protocol}"
    table(["", *columns], body, title=title, to_stderr=to_stderr)
    for note in first.rdmf["notes"]:
        say(f"note: {note}")
