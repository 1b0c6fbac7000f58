"""The rdmf command: parse, call one function of the pipeline, print.

Results go to standard output, everything else to standard error. Exit code 0: all that was asked for was done; 1:
something failed, and it is named; 2: wrong usage. torch and transformers take seconds to import, so each command
imports what it needs.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .pipeline.evaluate import Results
    from .pipeline.features import FeaturesReport
    from .pipeline.train import Progress

app = typer.Typer(
    name="rdmf",
    help="Find the moments of a video that a sentence describes. Features once, light models many times.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
store_app = typer.Typer(help="Look after cached features.", no_args_is_help=True)
app.add_typer(store_app, name="store")

Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
SHOWN = 10  # missing videos, failures and findings printed; files have them all


@app.command(epilog="Example: rdmf features charades --videos ~/charades/videos --annotations ~/charades/annotations")
def features(
    dataset: Annotated[
        str,
        typer.Argument(
            help="qvhighlights, charades, activitynet, tacos, tvsum, "
            "youtube_highlights, demo, or a name of your own for jsonl data."
        ),
    ],
    videos: Annotated[Path | None, typer.Option(help="Folder of <video id>.mp4 ... [data/DATASET/videos]")] = None,
    annotations: Annotated[Path | None, typer.Option(help="Folder or jsonl file. [data/DATASET/annotations]")] = None,
    out: Annotated[Path | None, typer.Option(help="Where features go. [features/DATASET]")] = None,
    video_encoder: Annotated[
        str | None, typer.Option(help="swin_t, swin_s, swin_b or swin_nano. [swin_t; swin_nano for demo]")
    ] = None,
    video_weights: Annotated[
        str | None, typer.Option(help="A file of weights, or the word random. [published weights]")
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of a BERT, or bert_nano. [bert-base-uncased; bert_nano for demo]"),
    ] = None,
    clip_seconds: Annotated[float | None, typer.Option(help="Length of a clip. [the dataset's]")] = None,
    device: Device = "cpu",
    workers: Annotated[int | None, typer.Option(help="Worker processes; 0: in this process. [one per core]")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler, tcp://host:8786")] = None,
    allow_missing: Annotated[bool, typer.Option(help="Exit with 0 although videos are missing or failed.")] = False,
    retry_failed: Annotated[bool, typer.Option(help="Try again what failed before.")] = False,
    seed: Annotated[int, typer.Option(help="Of the demo videos; other datasets have none.")] = 7,
) -> None:
    """Extract the features of a dataset's videos and sentences. What is cached is reused."""
    from .pipeline.features import extract_features, prepare_demo

    data = Path("data") / dataset
    videos, annotations = videos or data / "videos", annotations or data / "annotations"
    if dataset == "demo":
        with _Bar("rendering demo videos") as bar:
            rendered = prepare_demo(videos, annotations, seed, on_video=bar.update)
        _say(f"demo videos: {'rendered into' if rendered else 'reused from'} {videos.parent}")
    nano = dataset == "demo"
    with _Bar("extracting features") as bar:
        report = extract_features(
            dataset, videos, annotations, out or Path("features") / dataset,
            video_encoder=video_encoder or ("swin_nano" if nano else "swin_t"), video_weights=video_weights,
            text_encoder=text_encoder or ("bert_nano" if nano else "bert-base-uncased"), clip_seconds=clip_seconds,
            device=device, workers=workers, scheduler=scheduler, retry_failed=retry_failed,
            on_progress=lambda what, done, total, failed: bar.update(
                done, total, f"{what} features" + (f", {failed} failed" if failed else "")),
        )  # fmt: skip
    _print_features(report)
    if not report.complete and not allow_missing:
        _fail("not everything has features (see above); what is there is usable. --allow-missing accepts that")


@app.command(epilog="Example: rdmf train --features features/charades --out runs/charades --set training.seed=1")
def train(
    features: Annotated[Path, typer.Option(help="Folder that `rdmf features` made.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    config: Annotated[Path | None, typer.Option(help="YAML settings. [the paper's]")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, over the YAML; repeatable.")
    ] = None,
    video_store: Annotated[
        list[str] | None,
        typer.Option(help="Video store(s) to read, concatenated in this order; needed where there is more than one."),
    ] = None,
    text_store: Annotated[str | None, typer.Option(help="Text store to read, likewise.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with an interrupted run; a finished one is left as it is.")
    ] = False,
    device: Device = "cpu",
) -> None:
    """Train diffusion, fusion and heads on cached features."""
    from .pipeline.config import load_config
    from .pipeline.train import train as run_training

    settings = load_config(config, set_ or ())
    with _Bar("training") as bar:
        result = run_training(
            features, out, settings, video_stores=video_store or (), text_store=text_store, resume=resume,
            device=device, command=shlex.join(["rdmf", *sys.argv[1:]]),
            on_note=_say, on_step=bar.step, on_epoch=lambda record: _say(_epoch_line(record)),
        )  # fmt: skip
    _say(
        f"{out}: best epoch {result.best_epoch} of {result.epochs}, {result.parameters / 1e6:.2f} M parameters, "
        f"validation " + ", ".join(f"{name} {100 * value:.1f}" for name, value in result.best.items())
    )


@app.command(epilog="Example: rdmf evaluate --run runs/charades --split test --json -")
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
        from .pipeline.evaluate import evaluate_files

        if controls or save_predictions or features:
            raise typer.BadParameter("--controls, --save-predictions and --features need --run")
        results = evaluate_files(predictions, annotations, protocol, split, allow_missing=allow_missing)
        rows, tree = {predictions.name: results}, results.to_json()
    if run is not None:
        from .pipeline.controls import CONTROLS
        from .pipeline.evaluate_run import evaluate_run

        judged = evaluate_run(
            run, split or "val", features=features, protocol=protocol, controls=CONTROLS if controls else (),
            device=device, predictions_to=save_predictions,
        )  # fmt: skip
        _warn_random(judged.info.random_weights)
        if judged.missing:
            _say(
                f"{len(judged.missing)} queries of the split have no features and are left out, such as "
                + _some(judged.missing)
            )
        rows, tree = {str(run): judged.run, **judged.controls}, judged.to_json()
    _write_json(tree, json_to)
    _print_results(rows, to_stderr=json_to == "-")


@app.command(epilog='Example: rdmf predict video.mp4 "a person opens the door" --run runs/charades --figure door.png')
def predict(
    video: Annotated[Path, typer.Argument(help="A video file of any length.")],
    sentences: Annotated[list[str], typer.Argument(help="What to look for; one or more sentences.")],
    run: Annotated[Path, typer.Option(help="A trained run.")],
    top: Annotated[int, typer.Option(min=1, help="Moments printed per sentence.")] = 3,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write moments and saliency as JSON; - is standard output.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw frames, saliency and moments (.png, .svg, .pdf).")] = None,
    video_weights: Annotated[str | None, typer.Option(help="The run's video weights, if they are not found.")] = None,
    text_encoder: Annotated[str | None, typer.Option(help="The run's text encoder, if it is not found.")] = None,
    device: Device = "cpu",
) -> None:
    """Find moments in a video with sentences."""
    from .pipeline.checkpoint import load_run_info
    from .pipeline.figures import check_format, draw_answers
    from .pipeline.predict import predict as ask

    if figure is not None:
        check_format(figure)
    _warn_random(load_run_info(run).random_weights)
    answers = ask(video, sentences, run, video_weights=video_weights, text_encoder=text_encoder, device=device)
    _write_json([answer.to_json() for answer in answers], json_to)
    for answer in answers:
        rows = [[f"{s:.1f} - {e:.1f} s", f"{c:.2f}"] for s, e, c in answer.found.windows[:top]]
        _table(["moment", "confidence"], rows, title=f"“{answer.sentence}”", to_stderr=json_to == "-")
    if figure is not None:
        draw_answers(answers, figure)
        _say(f"figure: {figure}")


@store_app.command("list", epilog="Example: rdmf store list features/charades")
def store_list(
    folder: Annotated[Path, typer.Argument(help="A folder that `rdmf features` made.")],
    json_to: Annotated[str | None, typer.Option("--json", help="Write as JSON; - is standard output.")] = None,
) -> None:
    """What is cached, and how large it is."""
    from dataclasses import asdict

    from .extract.reader import list_stores

    stores = list_stores(folder)
    if not stores:
        _fail(f"{folder} holds no feature stores; make them with `rdmf features`")
    _write_json([asdict(store) | {"folder": str(store.folder)} for store in stores], json_to)
    rows = [
        [
            s.kind,
            s.name + (" (RANDOM weights)" if s.random else ""),
            f"{s.items:,}",
            f"{s.rows:,}",
            f"{s.failures:,}",
            f"{s.bytes / 1e6:,.1f} MB",
        ]
        for s in stores
    ]
    _table(["kind", "store", "items", "rows", "failures", "size"], rows, to_stderr=json_to == "-")


@store_app.command("verify", epilog="Example: rdmf store verify features/charades")
def store_verify(folder: Annotated[Path, typer.Argument(help="A folder that `rdmf features` made.")]) -> None:
    """Compare every shard and index with its checksums."""
    from .extract.reader import FeatureStore, list_stores

    problems = [
        f"{store.kind}/{store.name}: {problem}"
        for store in list_stores(folder)
        for problem in FeatureStore.open(folder / store.kind / store.name).verify()
    ]
    for problem in problems:
        typer.echo(problem)
    if problems:
        _fail(f"{len(problems)} problems; delete the shards named above and run `rdmf features` again")
    typer.echo(f"{folder}: all shards are as they were written")


def main() -> None:
    """Run the command; what is wrong with the input ends as one sentence, not as a trace."""
    try:
        app()
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            sys.exit(141)
        _fail(" ".join(str(error).split()) or type(error).__name__)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"rdmf: {sentence}", err=True)
    sys.exit(1)


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


def _warn_random(stores: Sequence[str]) -> None:
    if stores:
        _say(f"note: RANDOM encoder weights made the features of {', '.join(stores)}; numbers say nothing about them")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _write_json(tree: Any, where: str | None) -> None:
    if where == "-":
        typer.echo(json.dumps(tree, indent=2, allow_nan=False))
    elif where is not None:
        from .pipeline.checkpoint import write_json

        write_json(Path(where), tree)


class _Bar:
    """A progress bar on standard error, as a context manager; silent where that is no terminal."""

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

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, done: int, total: int, what: str | None = None) -> None:
        self.progress.update(self.task, completed=done, total=total, description=what)

    def step(self, at: Progress) -> None:
        losses = "  ".join(f"{name} {value:.2f}" for name, value in at.losses.items())
        self.progress.update(
            self.task, completed=at.step, total=at.steps, description=f"epoch {at.epoch}/{at.epochs}",
            note=f"{at.queries_per_s:.0f} queries/s  {losses}",
        )  # fmt: skip


def _epoch_line(record: dict[str, Any]) -> str:
    scores = "  ".join(f"{name} {100 * value:5.1f}" for name, value in record["validation"].items())
    return f"epoch {record['epoch']:3d}  loss {record['loss']['total']:6.3f}  {scores}  {record['seconds']:.0f} s"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", to_stderr: bool = False) -> None:
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


def _print_features(report: FeaturesReport) -> None:
    from .manifests.summary import summary

    rows = [
        [s.split, f"{s.queries:,}", f"{s.videos:,}", f"{s.windows:,}", f"{s.hours:.2f}"]
        for s in summary(report.manifest)
    ]
    _table(["split", "queries", "videos", "windows", "hours"], rows, title=report.manifest.dataset)
    for store in (report.video, report.text):
        done = store.receipt
        typer.echo(
            f"{store.spec.kind:5}  {store.folder}: {done.written:,} extracted, {done.reused:,} reused from the cache, "
            f"{done.failed:,} without features"
        )
        failed = [f for f in store.failures if f.stage != "missing"]
        for failure in failed[:SHOWN]:
            typer.echo(f"       {failure.id}: {failure.stage}: {failure.reason}")
        if len(failed) > SHOWN:
            typer.echo(f"       and {len(failed) - SHOWN} more, in {store.folder / 'failures.parquet'}")
    if report.missing:
        typer.echo(f"{len(report.missing):,} videos are missing: {_some(report.missing)}")
    changed = [f for f in report.manifest.findings if f.action != "missing video"]
    for finding in changed[:SHOWN]:
        about = f"query {finding.qid}: " if finding.qid else ""
        typer.echo(f"{finding.source}: {about}{finding.action}: {finding.detail}")
    if len(changed) > SHOWN:
        typer.echo(f"{len(changed) - SHOWN:,} more findings about the annotations are in manifest.parquet")
    _warn_random([s.folder.name for s in (report.video, report.text) if s.spec.weights.get("random")])


def _print_results(rows: dict[str, Results], to_stderr: bool) -> None:
    from .pipeline.headline import headline

    columns = list(dict.fromkeys(name for results in rows.values() for name in headline(results)))
    first = next(iter(rows.values()))
    body = [[name, *(headline(results).get(c, "-") for c in columns)] for name, results in rows.items()]
    counts = first.rdmf["counts"]
    title = f"{first.rdmf['dataset']} {first.rdmf['split']}: {counts['queries']} queries, protocol {first.protocol}"
    _table(["", *columns], body, title=title, to_stderr=to_stderr)
    for note in first.rdmf["notes"]:
        _say(f"note: {note}")


if __name__ == "__main__":
    main()
