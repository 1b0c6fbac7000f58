"""rdmf store export: our features out, for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .console import Bar, fail

EXAMPLE = "Example: rdmf store export features/charades --format npz --out exported/charades"


class Format(StrEnum):
    npz = "npz"
    parquet = "parquet"


class Dtype(StrEnum):
    float16 = "float16"
    float32 = "float32"


def store_export(
    folder: Annotated[Path, typer.Argument(help="A store, or a folder of features with all its stores.")],
    out: Annotated[Path, typer.Option(help="A folder that is new or empty.")],
    format_: Annotated[Format, typer.Option("--format", help="A file per item, or a table per store.")] = Format.npz,
    dtype: Annotated[Dtype, typer.Option(help="Of the npz arrays; Parquet has float32.")] = Dtype.float16,
) -> None:
    """Write stores as files that other tools read: .npz in the layout of Moment-DETR and its kin, or Parquet.

    A store goes to --out itself, those of a folder of features to OUT/video/<store> and OUT/text/<store>.
    """
    from ..extract.export import export_stores
    from ..extract.layout import SPEC_FILE
    from ..extract.reader import FeatureStore, list_stores

    if (folder / SPEC_FILE).is_file():
        stores = [(Path(), FeatureStore.open(folder))]
    else:
        stores = [(s.folder.relative_to(folder), FeatureStore.open(s.folder)) for s in list_stores(folder)]
    if not stores:
        fail(f"{folder} holds no feature stores; make them with `rdmf features`")
    with Bar("exporting") as bar:
        export_stores(stores, out, format_.value, dtype.value, on_item=bar.update)
    for place, store in stores:
        typer.echo(f"{store.spec.kind:5}  {store.folder}: {len(store):,} items exported to {out / place}")
