"""rdmf features: stage one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import (
    SHOWN,
    Bar,
    Device,
    above_zero,
    accepted_by,
    clock,
    fail,
    goes_on,
    one_of,
    say,
    some,
    table,
    warn_random,
    worker_count,
)

if TYPE_CHECKING:
    from ..extract.forecast import Forecast
    from ..extract.profile import Profile
    from ..pipeline.stage_one.features import FeaturesReport, StoreReport


def _known_precision(name: str) -> None:
    from ..extract.video_encoder import PRECISIONS

    one_of(("auto", *PRECISIONS), name)


def features(
    dataset: Annotated[
        str,
        typer.Argument(
            help="qvhighlights, charades, activitynet, tacos, tvsum, "
            "youtube_highlights, demo, or a name of your own for jsonl data."
        ),
    ],
    videos: Annotated[
        Path | None,
        typer.Option(help="Folder of <video id>.mp4 ..., or of captions, or a zip of those. [data/DATASET/videos]"),
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="Folder or jsonl file. [data/DATASET/annotations]")] = None,
    out: Annotated[Path | None, typer.Option(help="Where features go. [features/DATASET]")] = None,
    video_encoder: Annotated[
        str | None,
        typer.Option(
            help="swin_t, swin_s, swin_b, swin_nano; hf:FOLDER or hf:OWNER/NAME for VideoMAE, TimeSformer, ViViT, "
            "V-JEPA 2, X-CLIP or CLIP; captions:BERT where --videos are captions. [swin_t; swin_nano for demo]"
        ),
    ] = None,
    video_weights: Annotated[
        str | None, typer.Option(help="A file of weights, or the word random. [published weights]")
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of a BERT, or bert_nano. [bert-base-uncased; bert_nano for demo]"),
    ] = None,
    clip_seconds: Annotated[
        float | None, typer.Option(help="Length of a clip. [the dataset's]", callback=accepted_by(above_zero))
    ] = None,
    device: Device = "cpu",
    precision: Annotated[
        str,
        typer.Option(
            help="Of the video encoder: fp32, tf32 or bf16; auto is bf16 on CUDA, fp32 elsewhere.",
            callback=accepted_by(_known_precision),
        ),
    ] = "auto",
    workers: Annotated[
        str | None,
        typer.Option(
            help="Worker processes, or a range such as 2-8; 0: in this process. [one per core or GPU]",
            callback=accepted_by(worker_count),
        ),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running Dask scheduler, tcp://host:8786")] = None,
    decoders: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes per worker. [1; with GPUs the cores of each]")
    ] = None,
    decode_memory: Annotated[
        float, typer.Option(help="GiB that one decoding process may take.", callback=accepted_by(above_zero))
    ] = 4.0,
    decode_timeout: Annotated[
        float,
        typer.Option(help="Seconds without a clip until a video counts as hanging.", callback=accepted_by(above_zero)),
    ] = 300,
    allow_missing: Annotated[bool, typer.Option(help="Exit with 0 although videos are missing or failed.")] = False,
    retry_failed: Annotated[bool, typer.Option(help="Try again what failed before.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what it takes on the disk; do nothing.")
    ] = False,
    profile: Annotated[
        bool, typer.Option(help="Measure first how fast decoding and encoding are alone and together (a minute).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the demo videos; other datasets have none.")] = 7,
) -> None:
    """Extract the features of a dataset's videos and sentences. What is cached is reused."""
    from ..extract.workers import Workers
    from ..pipeline.stage_one.features import prepare_demo, prepare_features

    data, nano = Path("data") / dataset, dataset == "demo"
    videos, annotations = videos or data / "videos", annotations or data / "annotations"
    if nano and not dry_run:
        with Bar("rendering demo videos") as bar:
            rendered = prepare_demo(videos, annotations, seed, on_video=bar.update)
        say(f"demo videos: {'rendered into' if rendered else 'reused from'} {videos.parent}")
    stage = prepare_features(
        dataset, videos, annotations, out or Path("features") / dataset,
        video_encoder=video_encoder or ("swin_nano" if nano else "swin_t"), video_weights=video_weights,
        text_encoder=text_encoder or ("bert_nano" if nano else "bert-base-uncased"), clip_seconds=clip_seconds,
        device=device, precision=precision, decoders=decoders, decode_memory_gib=decode_memory,
        decode_timeout_s=decode_timeout,
    )  # fmt: skip
    if dry_run:
        stores = stage.forecast(retry_failed)
        _print_forecast(stores, stage.out)
        if scheduler is None and any(store.to_do for store in stores):
            _check_gpu(device)
        return
    with goes_on(), Workers.parse(workers, scheduler, stage.gpus) as crew:
        if profile:
            _print_profile(stage.profile(crew))
        with Bar("extracting features") as bar:
            report = stage.extract(
                crew, retry_failed=retry_failed, on_progress=bar.extraction,
                on_wait=lambda: say("another extraction has this store: waiting until it has ended"),
            )  # fmt: skip
    _print_features(report)
    if not report.complete and not allow_missing:
        fail("not everything has features (see above); what is there is usable. --allow-missing accepts that")


def _check_gpu(device: str) -> None:
    """Counts GPUs only: to compute on one would take some of the memory that is the workers'."""
    import torch

    place, there = torch.device(device), torch.cuda.device_count()
    if place.type == "cuda" and (place.index or 0) >= there:
        fail(f"--device {device} is not on this machine, torch finds {there or 'no'} GPUs: pass cpu")


def _print_forecast(stores: tuple[Forecast, ...], out: Path) -> None:
    rows = [
        [
            f"{store.spec.kind}/{store.folder.name}",
            *(f"{number:,}" for number in (store.to_do, store.cached, store.failed)),
            f"{store.rows:,}",
            f"{store.bytes / 1e6:,.1f} MB",
        ]
        for store in stores
    ]
    table(["store", "to do", "cached", "failed before", "about rows", "about disk"], rows, title="nothing was done")
    there = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free, needed = shutil.disk_usage(there).free, sum(store.bytes for store in stores)
    say(f"{free / 1e9:,.1f} GB are free at {there}" + (": TOO LITTLE" if free < 1.1 * needed else ""))


def _print_profile(measured: Profile) -> None:
    rows = [
        ["decode only", f"{measured.decode:,.1f}"],
        ["encode only", f"{measured.encode:,.1f}"],
        ["end to end", f"{measured.end_to_end:,.1f}"],
    ]
    table(["profile", "clips/s"], rows, title=f"{measured.workers} workers with {measured.decoders} decoders each")
    typer.echo(
        f"end to end is {measured.reached:.0%} of {measured.possible:,.1f} clips/s, what decoding and encoding allow "
        + ("each on its own hardware" if measured.own_hardware else f"on {measured.cores} cores")
    )


def _rate(store: StoreReport) -> str:
    what = "clips" if store.spec.kind == "video" else "words"
    return f"{store.receipt.rows / max(store.receipt.seconds, 1e-9):,.1f} {what}/s"


def _print_features(report: FeaturesReport) -> None:
    from ..manifests.summary import summary

    rows = [
        [s.split, f"{s.queries:,}", f"{s.videos:,}", f"{s.windows:,}", f"{s.hours:.2f}"]
        for s in summary(report.manifest)
    ]
    table(["split", "queries", "videos", "windows", "hours"], rows, title=report.manifest.dataset)
    for store in (report.video, report.text):
        done = store.receipt
        typer.echo(
            f"{store.spec.kind:5}  {store.folder}: {done.written:,} extracted, {done.reused:,} reused from the cache, "
            f"{done.failed:,} without features" + (f" ({clock(done.seconds)}, {_rate(store)})" if done.written else "")
        )
        failed = [f for f in store.failures if f.stage != "missing"]
        for failure in failed[:SHOWN]:
            typer.echo(f"       {failure.id}: {failure.stage}: {failure.reason}")
        if len(failed) > SHOWN:
            typer.echo(f"       and {len(failed) - SHOWN} more, in {store.folder / 'failures.parquet'}")
    if report.missing:
        typer.echo(f"{len(report.missing):,} videos are missing: {some(report.missing)}")
    changed = [f for f in report.manifest.findings if f.action != "missing video"]
    for finding in changed[:SHOWN]:
        about = f"query {finding.qid}: " if finding.qid else ""
        typer.echo(f"{finding.source}: {about}{finding.action}: {finding.detail}")
    if len(changed) > SHOWN:
        typer.echo(f"{len(changed) - SHOWN:,} more findings about the annotations are in manifest.parquet")
    warn_random([s.folder.name for s in (report.video, report.text) if s.spec.weights.get("random")])
