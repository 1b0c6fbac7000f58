"""rdmf store: look after cached features."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import SHOWN, Bar, Device, accepted_by, fail, goes_on, say, some, table, worker_count, write_json

if TYPE_CHECKING:
    from ..extract.layout import StoreSpec

app = typer.Typer(help="Look after cached features.", no_args_is_help=True)


@app.command("list", epilog="Example: rdmf store list features/charades")
def store_list(
    folder: Annotated[Path, typer.Argument(help="A folder that `rdmf features` made.")],
    json_to: Annotated[str | None, typer.Option("--json", help="Write as JSON; - is standard output.")] = None,
) -> None:
    """What is cached, how large it is, and what made it."""
    from dataclasses import asdict

    from ..extract.layout import read_spec
    from ..extract.reader import list_stores

    stores = list_stores(folder)
    if not stores:
        fail(f"{folder} holds no feature stores; make them with `rdmf features`")
    specs = {store.folder: read_spec(store.folder) for store in stores if store.problem is None}
    write_json(
        [
            asdict(store)
            | {"folder": str(store.folder)}
            | ({"spec": json.loads(spec.to_json())} if (spec := specs.get(store.folder)) else {})
            for store in stores
        ],
        json_to,
    )
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
        if s.problem is None
    ]
    if rows:
        table(["kind", "store", "items", "rows", "failures", "size"], rows, to_stderr=json_to == "-")
    head = ["store", "width", "clip", "fed with", "weights", "sha256"]
    if specs:
        table(head, [_made_of(spec) for spec in specs.values()], to_stderr=json_to == "-")
    unusable = [s.problem for s in stores if s.problem is not None]
    for problem in unusable:
        say(problem)
    if unusable:
        fail(f"{len(unusable)} of {len(stores)} stores cannot be used")


def _made_of(spec: StoreSpec) -> list[str]:
    """One row of the table of specs."""
    fed = spec.preprocessing
    told = []
    if {"frames", "span_s", "size"} <= fed.keys():
        told.append(f"{fed['frames']} frames of {fed['span_s']:.3g} s, {fed['size']} x {fed['size']}")
    told += ["mean and deviation"] if "pixel_mean" in fed else []
    if len(fed.get("streams", ())) > 1:
        told.append((" + " if fed.get("combine") == "sum" else ", ").join(str(s["dim"]) for s in fed["streams"]))
    told += [str(fed["normalisation"])] if fed.get("normalisation", "none") != "none" else []
    told += [f"at most {fed['max_tokens']} tokens"] if "max_tokens" in fed else []
    if spec.clip_seconds is not None and fed.get("stride_seconds", spec.clip_seconds) != spec.clip_seconds:
        told.append(f"every {fed['stride_seconds']:g} s")
    return [
        spec.folder_name,
        str(spec.dim),
        "-" if spec.clip_seconds is None else f"{spec.clip_seconds:g} s",
        "; ".join(told) or "-",
        str(spec.weights.get("source", "-")).rsplit("/", 1)[-1],
        str(spec.weights.get("sha256") or "-")[:12],
    ]


@app.command("verify", epilog="Example: rdmf store verify features/charades")
def store_verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `rdmf features` made, or one store in it.")],
    json_to: Annotated[str | None, typer.Option("--json", help="Write as JSON; - is standard output.")] = None,
) -> None:
    """Compare every bit of shards, tables and manifest with its checksum. Changes nothing."""
    from ..pipeline.stage_one.repair import verify_features

    with Bar("verifying") as bar:
        problems = verify_features(folder, _read_so_far(bar))
    write_json([{"file": str(p.file), "problem": p.what, "ids": p.ids} for p in problems], json_to)
    for problem in problems if json_to != "-" else ():
        typer.echo(problem.what + (f" (it holds {some(problem.ids)})" if problem.ids else ""))
    if problems:
        helps = "`rdmf features` with the same settings makes the manifest again and reuses the features"
        if any(problem.mendable for problem in problems):
            helps = f"`rdmf store repair {folder}` mends what can be mended"
        fail(f"{len(problems)} problems in {folder}; {helps}")
    typer.echo(f"{folder}: every bit is as it was written", err=json_to == "-")


@app.command("repair", epilog="Example: rdmf store repair features/charades --videos ~/charades/videos")
def store_repair(
    folder: Annotated[Path, typer.Argument(help="A folder that `rdmf features` made, or one store in it.")],
    videos: Annotated[Path | None, typer.Option(help="Folder of <video id>.mp4 ... [data/DATASET/videos]")] = None,
    video_weights: Annotated[str | None, typer.Option(help="Where the video encoder's weights are now.")] = None,
    text_encoder: Annotated[str | None, typer.Option(help="Where the text encoder is now.")] = None,
    device: Device = "cpu",
    workers: Annotated[
        str | None,
        typer.Option(
            help="Worker processes; 0: in this process. [one per core or GPU]", callback=accepted_by(worker_count)
        ),
    ] = None,
) -> None:
    """Rebuild tables from the shards, and extract again what is broken or lost. Sound shards are not touched."""
    from ..pipeline.stage_one.repair import Means, repair

    with goes_on(), Bar("repairing") as bar:
        waiting = partial(say, "an extraction has this store: waiting until it has ended")
        means = Means(videos, video_weights, text_encoder, device, _read_so_far(bar), bar.extraction, waiting)
        report = repair(folder, means, workers)
    for store in report.stores:
        done = [*store.rebuilt, *([f"the features of {store.extracted:,} sources"] if store.extracted else [])]
        typer.echo(f"{store.folder}: " + (f"made again: {', '.join(done)}" if done else "nothing had to be made again"))
        for failure in store.lost[:SHOWN]:
            typer.echo(f"  {failure.id} has no features any more: {failure.reason}")
        if len(store.lost) > SHOWN:
            typer.echo(f"  and {len(store.lost) - SHOWN:,} more, in {store.folder / 'failures.parquet'}")
    for problem in (*(store.problem for store in report.stores), *(manifest.what for manifest in report.manifests)):
        if problem:
            say(problem)
    if not report.complete:
        fail(f"not all of {folder} could be repaired (see above)")


def _read_so_far(bar: Bar) -> Callable[[int, int], None]:
    return lambda done, total: bar.update(done // 10**6, total // 10**6, "MB checked")
