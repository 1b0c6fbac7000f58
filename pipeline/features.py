"""Stage one: annotations, videos and sentences in, a folder of cached features out.

    <out>/manifest.parquet    <out>/video/<encoder>-<fingerprint>/    <out>/text/<encoder>-<fingerprint>/

What is cached already is reused; what is missing or cannot be decoded is listed and the rest goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..extract.decode_pool import DecodeLimits
from ..extract.extractors import TextExtraction, VideoExtraction
from ..extract.frames import find_videos
from ..extract.layout import Failure, Source, StoreSpec
from ..extract.reader import FeatureStore
from ..extract.schedule import Progress, Receipt, extract_store
from ..extract.workers import Workers, visible_gpus
from ..manifests import dataset as find_dataset
from ..manifests.demo.dataset import DemoConfig, make_demo
from ..manifests.files import write_manifest
from ..manifests.schema import Finding, Manifest

OnProgress = Callable[[str, Progress], None]
"""Called with what is extracted ('video' or 'text') and how far that is."""


@dataclass(frozen=True)
class StoreReport:
    """What became of one store."""

    folder: Path
    spec: StoreSpec
    receipt: Receipt
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class FeaturesReport:
    """What `extract_features` did."""

    manifest: Manifest
    video: StoreReport
    text: StoreReport
    missing: tuple[str, ...]
    """Videos that the annotations name and the folder lacks."""

    @property
    def complete(self) -> bool:
        """Whether every video and sentence has features."""
        return not (self.missing or self.video.failures or self.text.failures)


def prepare_demo(
    videos: Path, annotations: Path, seed: int, on_video: Callable[[int, int], None] | None = None
) -> bool:
    """Render the demo dataset where it is absent; whether anything was rendered.

    Raises ValueError where the two folders are not those of one demo dataset, or it is one of another seed.
    """
    if videos.name != "videos" or annotations != videos.parent / "annotations":
        raise ValueError(f"the demo lives in one folder as videos/ and annotations/, got {videos} and {annotations}")
    return make_demo(videos.parent, DemoConfig(seed=seed), on_video=on_video)


def extract_features(
    name: str,
    videos: Path,
    annotations: Path,
    out: Path,
    *,
    video_encoder: str = "swin_t",
    video_weights: str | None = None,
    text_encoder: str = "bert-base-uncased",
    clip_seconds: float | None = None,
    device: str = "cpu",
    workers: str | None = None,
    scheduler: str | None = None,
    decoders: int | None = None,
    decode_memory_gib: float = DecodeLimits.memory_gib,
    decode_timeout_s: float = DecodeLimits.seconds,
    retry_failed: bool = False,
    on_progress: OnProgress = lambda what, progress: None,
    on_wait: Callable[[], None] | None = None,
) -> FeaturesReport:
    """Make the features of a dataset, or what is missing of them.

    Raises ValueError on annotations that cannot be used, a folder without any of the videos, or weights that cannot
    be had. A video that fails is in the report and in the store's failures.parquet, not an exception.
    """
    dataset = find_dataset(name, clip_seconds)
    if not videos.exists() and not annotations.exists():
        raise ValueError(
            f"expected videos in {videos} and annotations in {annotations}, there are neither; put files named "
            f"<video id>.mp4 and the annotation files of {name} there, or give --videos DIR and --annotations DIR"
        )
    manifest = dataset.read(annotations)
    found, missing = locate(manifest, videos)
    gpus = visible_gpus(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = DecodeLimits(decoders or max(1, cores // len(gpus) if gpus else 1), decode_memory_gib, decode_timeout_s)
    video = VideoExtraction(video_encoder, video_weights, manifest.clip_seconds, device, limits)
    text = TextExtraction(text_encoder, device)
    specs = {"video": video.spec(), "text": text.spec()}
    sources = {
        "video": [Source(vid, str(path)) for vid, path in found.items()],
        "text": [Source(query.qid, query.text) for query in manifest.queries],
    }
    absent = {
        "video": [Failure(vid, "missing", f"no video file of this name in {videos}") for vid in missing],
        "text": [],
    }
    reports: dict[str, StoreReport] = {}
    stores: dict[str, FeatureStore] = {}
    with Workers.parse(workers, scheduler, gpus) as crew:
        for kind, extraction in (("video", video), ("text", text)):
            folder = out / kind / specs[kind].folder_name
            receipt = extract_store(
                folder, specs[kind], sources[kind], extraction, crew,
                missing=absent[kind], retry_failures=retry_failed, on_progress=partial(on_progress, kind),
                on_wait=on_wait,
            )  # fmt: skip
            stores[kind] = FeatureStore.open(folder)
            reports[kind] = StoreReport(folder, specs[kind], receipt, tuple(stores[kind].failures))
    measured = {vid: s for vid in found if vid in stores["video"] and (s := stores["video"].features(vid).duration_s)}
    lost = tuple(Finding(str(videos), "", "missing video", f"{vid} has no file") for vid in missing)
    manifest = manifest.with_durations(measured)
    manifest = replace(manifest, findings=manifest.findings + lost)
    write_manifest(manifest, out / "manifest.parquet")
    return FeaturesReport(manifest, reports["video"], reports["text"], tuple(missing))


def locate(manifest: Manifest, videos: Path) -> tuple[dict[str, Path], list[str]]:
    """The files of the manifest's videos, and the ids that have none. Raises ValueError where not one is there."""
    wanted = list(dict.fromkeys(query.vid for query in manifest.queries))
    if not videos.is_dir():
        raise ValueError(
            f"expected a folder of videos at {videos}, there is none; put the videos of {manifest.dataset} there as "
            f"<video id>.mp4 (such as {wanted[0]}.mp4), or give --videos DIR"
        )
    found = find_videos(videos, wanted)
    if not found:
        raise ValueError(
            f"{videos} holds none of the {len(wanted)} videos that the annotations name; expected files such as "
            f"{wanted[0]}.mp4"
        )
    return {vid: found[vid] for vid in wanted if vid in found}, [vid for vid in wanted if vid not in found]
