"""rdmf store: look after cached features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import fail, table, write_json

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
    ]
    table(["kind", "store", "items", "rows", "failures", "size"], rows, to_stderr=json_to == "-")
    head = ["store", "width", "clip", "fed with", "weights", "sha256"]
    table(head, [_made_of(spec) for spec in specs.values()], to_stderr=json_to == "-")


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
def store_verify(folder: Annotated[Path, typer.Argument(help="A folder that `rdmf features` made.")]) -> None:
    """Compare every shard and index with its checksums."""
    from ..extract.reader import FeatureStore, list_stores

    problems = [
        f"{store.kind}/{store.name}: {problem}"
        for store in list_stores(folder)
        for problem in FeatureStore.open(folder / store.kind / store.name).verify()
    ]
    for problem in problems:
        typer.echo(problem)
    if problems:
        fail(f"{len(problems)} problems; delete the shards named above and run `rdmf features` again")
    typer.echo(f"{folder}: all shards are as they were written")
