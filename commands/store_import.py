"""rdmf store import: features of other tools in."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import SHOWN, Bar, above_zero, accepted_by, fail, say

if TYPE_CHECKING:
    from ..pipeline.stage_one.import_features import ImportedStore, ImportReport

EXAMPLE = (
    "Example: rdmf store import qvhighlights --annotations data/qvhighlights --clip-seconds 2 "
    "--video-features peers/slowfast_features --video-features peers/clip_features "
    "--text-features peers/clip_text_features"
)


class Normalise(StrEnum):
    streams = "streams"
    whole = "whole"
    none = "none"


class Combine(StrEnum):
    concatenate = "concatenate"
    sum = "sum"


def store_import(
    dataset: Annotated[str, typer.Argument(help="As for `rdmf features`: qvhighlights, charades, ..., or your own.")],
    video_features: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of <video id>.npz, .pt or .npy; or a pattern, 'DIR/{id}_rgb.npy'. "
            "Repeated: streams, put together in this order."
        ),
    ] = None,
    text_features: Annotated[
        str | None, typer.Option(help="Folder of <query id>.npz or qid<query id>.npz (.pt, .npy), or a pattern.")
    ] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Or encode the sentences here: folder or hub id of a BERT, or bert_nano.")
    ] = None,
    clip_seconds: Annotated[
        float | None,
        typer.Option(help="What one row of the video features covers.", callback=accepted_by(above_zero)),
    ] = None,
    stride_seconds: Annotated[
        float | None,
        typer.Option(
            help="From the start of one row to the next, if they overlap. Default: --clip-seconds.",
            callback=accepted_by(above_zero),
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Folder or jsonl file; not needed where --out has a manifest. Default: data/DATASET/annotations."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where features go. Default: features/DATASET.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the video encoder. Default: the folders', such as slowfast+clip.")
    ] = None,
    text_name: Annotated[str | None, typer.Option(help="Of the text encoder. Default: the folder's.")] = None,
    normalise: Annotated[
        Normalise,
        typer.Option(
            help="L2 per row: of each stream, of the whole (after the streams are put together), or none. The "
            "Moment-DETR family normalises each stream, and the text."
        ),
    ] = Normalise.streams,
    combine: Annotated[Combine, typer.Option(help="How streams are put together.")] = Combine.concatenate,
    row_tolerance: Annotated[
        int, typer.Option(min=0, help="Rows that streams may differ by, or be off what the duration says.")
    ] = 1,
    video_key: Annotated[
        str | None, typer.Option(help="Array to read out of each file. Default: features, or the only one.")
    ] = None,
    text_key: Annotated[
        str | None,
        typer.Option(help="Likewise; pooler_output is one row. Default: last_hidden_state, token or features."),
    ] = None,
    allow_missing: Annotated[bool, typer.Option(help="Exit with 0 although files are missing or failed.")] = False,
) -> None:
    """Import features that another tool extracted, so that `rdmf train --features` reads them.

    One kind can be imported beside stores that are there. A file that cannot be used is listed, the rest goes on.
    """
    if video_features and clip_seconds is None:
        raise typer.BadParameter("--video-features need --clip-seconds: files do not say what a row covers")
    if not (video_features or text_features or text_encoder):
        raise typer.BadParameter("give --video-features, --text-features, or both")
    if text_features and text_encoder:
        raise typer.BadParameter("give --text-features or --text-encoder, not both")
    from ..pipeline.stage_one.import_features import MANIFEST, TextFiles, VideoFiles, import_features

    out = out or Path("features") / dataset
    if annotations is None and not (out / MANIFEST).is_file():
        annotations = Path("data") / dataset / "annotations"
    video = text = None
    if video_features and clip_seconds is not None:
        video = VideoFiles(
            video_features, clip_seconds, stride_seconds, normalise.value, combine.value, row_tolerance, video_key, name
        )
    if text_features:
        text = TextFiles(text_features, "none" if normalise is Normalise.none else "streams", text_key, text_name)
    with Bar("importing features") as bar:
        report = import_features(
            dataset, annotations, out, video=video, text=text, text_encoder=text_encoder,
            on_progress=lambda what, done, total: bar.update(done, total, what),
        )  # fmt: skip
    _print_import(report, out)
    if not report.complete and not allow_missing:
        fail("not everything has features (see above); what is there is usable. --allow-missing accepts that")


def _print_import(report: ImportReport, out: Path) -> None:
    for store in report.stores:
        spec, done = store.spec, store.receipt
        dated = f", clips of {spec.clip_seconds:g} s" if spec.clip_seconds else ""
        typer.echo(
            f"{spec.kind:5}  {store.folder}: {done.written:,} imported, {done.reused:,} there already, "
            f"{done.failed:,} without features; width {spec.dim}{dated}"
        )
        for line in _row_lines(store):
            typer.echo(f"       {line}")
        for failure in store.failures[:SHOWN]:
            typer.echo(f"       {failure.id}: {failure.stage}: {failure.reason}")
        if len(store.failures) > SHOWN:
            typer.echo(f"       and {len(store.failures) - SHOWN:,} more, in {store.folder / 'failures.parquet'}")
        if any(store.unused):
            counts = " + ".join(f"{count:,}" for count in store.unused)
            typer.echo(f"       feature files that belong to nothing in the annotations: {counts}")
        if store.others:
            say(
                f"note: {out / spec.kind} has other stores ({', '.join(store.others)}); name the one to train on with "
                f"--{spec.kind}-store {store.folder.name}"
            )
    if report.kept_manifest:
        say(f"note: the manifest in {out} was there and is kept")
    for kind in report.lacks:
        say(f"note: {out} has no {kind} features yet; import them with --{kind}-features into the same --out")


def _row_lines(store: ImportedStore) -> list[str]:
    """How rows and durations disagree, and streams with each other."""
    off = {id_: fit.off for id_, fit in store.fits.items() if fit.off}
    lines = [
        f"{count:,} videos have {abs(rows)} {'row' if abs(rows) == 1 else 'rows'} "
        + (f"more than their duration says (cut), such as {_first(off, rows)}" if rows > 0 else "")
        + (f"less than their duration says (clips end early), such as {_first(off, rows)}" if rows < 0 else "")
        for rows, count in sorted(Counter(off.values()).items())
    ]
    spread = [id_ for id_, fit in store.fits.items() if fit.spread]
    if spread:
        most = max(store.fits[id_].spread for id_ in spread)
        lines.append(f"{len(spread):,} videos have streams of up to {most} rows apart, cut to the shortest")
    unknown = sum(fit.expected is None for fit in store.fits.values())
    if unknown:
        lines.append(f"{unknown:,} videos have no duration in the annotations to count rows by")
    return lines


def _first(off: dict[str, int], rows: int) -> str:
    return next(id_ for id_, found in off.items() if found == rows)
