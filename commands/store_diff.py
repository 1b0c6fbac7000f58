"""rdmf store diff: how two stores differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import SHOWN, Bar, some, table, write_json

if TYPE_CHECKING:
    from ..extract.diff import StoreDiff

EXAMPLE = "Example: rdmf store diff features/charades other/charades --json -"


def store_diff(
    a: Annotated[Path, typer.Argument(help="A store, or a folder of features with one store of a kind.")],
    b: Annotated[Path, typer.Argument(help="Likewise.")],
    values: Annotated[bool, typer.Option("--values", help="Judge by items and values; show specs only.")] = False,
    worst: Annotated[int, typer.Option(min=0, help="Items shown that differ most.")] = SHOWN,
    json_to: Annotated[str | None, typer.Option("--json", help="Write as JSON; - is standard output.")] = None,
) -> None:
    """How two stores differ: in their specs, their items, and their features row by row.

    Exit code 0 where they are the same, 1 where they differ (or cannot be compared, which is said), as `diff` has it.
    """
    from ..extract.diff import diff_stores, pair_stores

    pairs = pair_stores(a, b)
    with Bar("comparing") as bar:
        diffs = [diff_stores(left, right, on_item=bar.update) for left, right in pairs.stores]
    same = not pairs.only and all(diff.same_values if values else diff.same for diff in diffs)
    stores = [diff.to_json(worst) for diff in diffs]
    write_json({"same": same, "only_in_one": pairs.only, "stores": stores}, json_to)
    to_stderr = json_to == "-"
    for diff in diffs:
        _print_diff(diff, worst, to_stderr)
    for line in pairs.only:
        typer.echo(line, err=to_stderr)
    typer.echo("the same" if same else "they differ", err=to_stderr)
    raise typer.Exit(0 if same else 1)


def _print_diff(diff: StoreDiff, worst: int, to_stderr: bool) -> None:
    lines = [f"{diff.kind}  A: {diff.a}  B: {diff.b}"]
    lines += [f"  {name}: {_short(a)} in A, {_short(b)} in B" for name, (a, b) in diff.spec.items()]
    found = diff.summary()
    lines.append(f"  {found['items']:,} items in both, {found['identical']:,} of them identical")
    for side, only in (("A", diff.only_a), ("B", diff.only_b)):
        if only:
            lines.append(f"  {len(only):,} only in {side}: {some(only)}")
    if found["other_rows"]:
        lines.append(f"  {found['other_rows']:,} items differ in rows; those that both have are compared")
    if found["max_time_s"]:
        lines.append(f"  clips differ by up to {found['max_time_s']:g} s")
    if diff.dims[0] != diff.dims[1]:
        lines.append(f"  widths differ, {diff.dims[0]} in A and {diff.dims[1]} in B: values cannot be compared")
    elif found["cosine_min"] is not None and found["identical"] < found["items"]:
        lines.append(
            f"  cosine per row: mean {found['cosine_mean']:.6f}, lowest {found['cosine_min']:.6f} "
            f"({found['cosine_min_item']}); largest difference of a value {found['max_abs']:.4g}"
        )
    for line in lines:
        typer.echo(line, err=to_stderr)
    rows = [
        [
            item.id,
            str(item.rows[0]) if item.rows[0] == item.rows[1] else f"{item.rows[0]} / {item.rows[1]}",
            *("-" if v is None else f"{v:.6f}" for v in (item.cosine_mean, item.cosine_min)),
            *("-" if v is None else f"{v:.4g}" for v in (item.max_abs, item.max_time_s)),
        ]
        for item in diff.worst(worst)
    ]
    if rows:
        head = ["differ most", "rows", "mean cosine", "lowest", "largest difference", "times, s"]
        table(head, rows, to_stderr=to_stderr)


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
