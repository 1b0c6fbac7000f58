"""rdmf store: look after cached features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import fail, table, write_json

app = typer.Typer(help="Look after cached features.", no_args_is_help=True)


@app.command("list", epilog="Example: rdmf store list features/charades")
def store_list(
    folder: Annotated[Path, typer.Argument(help="A folder that `rdmf features` made.")],
    json_to: Annotated[str | None, typer.Option("--json", help="Write as JSON; - is standard output.")] = None,
) -> None:
    """What is cached, and how large it is."""
    from dataclasses import asdict

    from ..extract.reader import list_stores

    stores = list_stores(folder)
    if not stores:
        fail(f"{folder} holds no feature stores; make them with `rdmf features`")
    write_json([asdict(store) | {"folder": str(store.folder)} for store in stores], json_to)
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
