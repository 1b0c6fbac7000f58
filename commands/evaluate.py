"""rdmf evaluate: the protocol, for runs or files of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import (
    Device,
    Protocol,
    above_zero,
    accepted_by,
    from_0_to_1,
    one_of,
    say,
    some,
    table,
    warn_random,
    write_json,
)

if TYPE_CHECKING:
    from ..pipeline.comparison.seeds import Several
    from ..pipeline.evaluation.evaluate import Results


def _known_groupings(by: Sequence[str]) -> None:
    from ..pipeline.evaluation.groups import GROUPINGS

    one_of(GROUPINGS, *by)


def _known_unit(times_in: str) -> None:
    from ..pipeline.evaluation.plausibility import UNITS

    one_of(UNITS, times_in)


def evaluate(
    run: Annotated[
        list[Path] | None, typer.Option(help="A trained run; several for the mean and deviation over seeds.")
    ] = None,
    features: Annotated[Path | None, typer.Option(help="Its features, if they moved.")] = None,
    predictions: Annotated[list[Path] | None, typer.Option(help="Or: a jsonl file of predictions ...")] = None,
    annotations: Annotated[Path | None, typer.Option(help="... and the annotations they are judged by.")] = None,
    split: Annotated[str | None, typer.Option(help="[val for a run; for a file, the split it is about]")] = None,
    protocol: Protocol = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Also print numbers by length, windows, duration or kind of query.",
            callback=accepted_by(_known_groupings),
        ),
    ] = None,
    controls: Annotated[
        bool, typer.Option(help="Also judge guesses and the model on broken input; with --features alone, guesses.")
    ] = False,
    allow_missing: Annotated[bool, typer.Option(help="Count a query without prediction as wrong.")] = False,
    times_in: Annotated[
        str | None,
        typer.Option(
            help="What the file gives times in: seconds, clips, fractions or milliseconds.",
            callback=accepted_by(_known_unit),
        ),
    ] = None,
    clamp: Annotated[bool, typer.Option(help="Clamp windows to the video first.")] = False,
    round_to: Annotated[
        float | None,
        typer.Option(help="Round windows to multiples of so many seconds first.", callback=accepted_by(above_zero)),
    ] = None,
    nms_threshold: Annotated[
        float | None,
        typer.Option(
            help="First drop windows whose IoU with a better one is above this.", callback=accepted_by(from_0_to_1)
        ),
    ] = None,
    save_predictions: Annotated[Path | None, typer.Option(help="Write the predictions, as judged, as jsonl.")] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write the numbers as JSON; - is standard output.")
    ] = None,
    video_store: Annotated[list[str] | None, typer.Option(help="Of --features with --controls: as in train.")] = None,
    text_store: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    device: Device = "cpu",
) -> None:
    """Judge runs, or files of predictions, by the field's protocol, with 95% intervals."""
    runs, files = run or [], predictions or []
    guesses = bool(controls and features) and not runs and not files and annotations is None
    if not guesses and (bool(runs) == bool(files) or bool(files) != (annotations is not None)):
        raise typer.BadParameter(
            "give either --run, or --predictions with --annotations, or --features with --controls for guesses alone"
        )
    if files and (controls or features):
        raise typer.BadParameter("--controls and --features need --run")
    if not files and (times_in or allow_missing):
        raise typer.BadParameter(
            "--times-in and --allow-missing need --predictions; a run predicts every query in seconds"
        )
    if len(runs) + len(files) > 1 and (controls or save_predictions):
        raise typer.BadParameter("--controls and --save-predictions take one run or file at a time")
    options: dict[str, Any] = {
        "by": by or (), "clamp": clamp, "round_to_s": round_to, "nms_threshold": nms_threshold,
    }  # fmt: skip
    if not guesses and (video_store or text_store):
        raise typer.BadParameter("--video-store and --text-store go with --features and --controls; a run has its own")
    if guesses and (save_predictions or device != "cpu"):
        raise typer.BadParameter("guesses have no --save-predictions and no --device; give a --run")
    if guesses:
        from ..pipeline.comparison.evaluate_run import evaluate_guesses

        assert features is not None
        stores: dict[str, Any] = {"video_stores": video_store or (), "text_store": text_store}
        found = evaluate_guesses(features, split or "val", protocol=protocol, **stores, **options)
        write_json({name: results.to_json() for name, results in found.items()}, json_to)
        _print_results(found, None, to_stderr=json_to == "-")
        return
    from ..pipeline.comparison.systems import short_names

    names = (
        short_names([*runs, *files]) if len(runs) + len(files) > 1 else {path: str(path) for path in [*runs, *files]}
    )
    if len(names) < len(runs) + len(files):
        raise typer.BadParameter("give each run or file once")
    rows: dict[str, Results] = {}
    trees: dict[str, dict[str, Any]] = {}
    configs = {}
    for path in files:
        from ..pipeline.evaluation.evaluate import evaluate_files
        from ..pipeline.evaluation.predictions import write_predictions

        assert annotations is not None
        results = evaluate_files(
            path, annotations, protocol, split, allow_missing=allow_missing, times_in=times_in, **options
        )
        if save_predictions is not None:
            write_predictions(results.predictions, save_predictions)
        rows[names[path] if len(files) > 1 else path.name] = results
        trees[names[path]] = results.to_json()
    for path in runs:
        from ..pipeline.comparison.controls import CONTROLS
        from ..pipeline.comparison.evaluate_run import evaluate_run

        judged = evaluate_run(
            path, split or "val", features=features, protocol=protocol, controls=CONTROLS if controls else (),
            device=device, predictions_to=save_predictions, **options,
        )  # fmt: skip
        warn_random(judged.info.random_weights)
        if judged.missing:
            say(
                f"{len(judged.missing)} queries of the split have no features and are left out, such as "
                + some(judged.missing)
            )
        rows |= {names[path]: judged.run, **judged.controls}
        trees[names[path]], configs[names[path]] = judged.to_json(), judged.info.config
    together = None
    if len(trees) > 1:
        from ..pipeline.comparison.seeds import several

        together = several(rows, trees, configs or None)
    write_json(together.to_json() if together else next(iter(trees.values())), json_to)
    _print_results(rows, together, to_stderr=json_to == "-")


def _print_results(rows: Mapping[str, Results], together: Several | None, to_stderr: bool) -> None:
    from ..pipeline.evaluation.headline import headings, headline, in_percent

    first = next(iter(rows.values()))
    columns = list(dict.fromkeys(name for results in rows.values() for name in headline(results)))
    body = [_cells(name, headline(results), columns) for name, results in rows.items()]
    if together is not None:
        named = headings(first.protocol, together.spread)
        spread = {heading: together.spread[name] for heading, name in named.items()}
        shown = {heading: f"{100 * s.mean:.2f}\n± {100 * s.deviation:.2f}" for heading, s in spread.items()}
        body.append(_cells(f"mean ± deviation of {len(rows)}", shown, columns))
    counts = first.rdmf["counts"]
    title = f"{first.rdmf['dataset']} {first.rdmf['split']}: {counts['queries']} queries, protocol {first.protocol}"
    table(["", *columns], body, title=title, to_stderr=to_stderr)
    for name, results in rows.items():
        for by, groups in results.rdmf.get("groups", {}).items():
            lines = {
                group: in_percent(results.protocol, numbers["numbers"], numbers["intervals"])
                for group, numbers in groups.items()
            }
            body = [
                _cells(f"{group}\n({groups[group]['queries']} queries)", line, columns) for group, line in lines.items()
            ]
            table([f"by {by}", *columns], body, title=name, to_stderr=to_stderr)
    say("in percent; in brackets the 95% interval, by bootstrap over source videos")
    for name, results in rows.items() if together is not None else [("", first)]:
        for note in results.rdmf["notes"]:
            say(f"note: {name}: {note}" if name else f"note: {note}")
    for note in together.notes if together else ():
        say(f"note: {note}")


def _cells(name: str, shown: Mapping[str, str], columns: list[str]) -> list[str]:
    """A row of the table; the interval goes under its number."""
    return [name, *(shown.get(column, "-").replace(" [", "\n[") for column in columns)]
