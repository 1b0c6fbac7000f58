"""Stage one: annotations, videos and sentences in, a folder of cached features out.

    <out>/manifest.parquet    <out>/video/<encoder>-<fingerprint>/    <out>/text/<encoder>-<fingerprint>/

What is cached already is reused; what is missing or cannot be decoded is listed and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...extract.captions import PREFIX as CAPTIONS
from ...extract.captions import CaptionExtraction, caption_sources
from ...extract.decode_pool import DecodeLimits
from ...extract.extractors import TextExtraction, VideoExtraction
from ...extract.forecast import Forecast, forecast_texts, forecast_videos
from ...extract.layout import Failure, Source, StoreSpec
from ...extract.profile import Profile, cores, profile
from ...extract.reader import FeatureStore
from ...extract.schedule import Progress, Receipt, extract_store
from ...extract.video_files import VideoSources, find_videos
from ...extract.workers import Workers, visible_gpus
from ...manifests import dataset as find_dataset
from ...manifests.demo.dataset import DemoConfig, make_demo
from ...manifests.files import write_manifest
from ...manifests.schema import Finding, Manifest

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


@dataclass(frozen=True)
class StageOne:
    """What is to be extracted by what, before anything is written. Made by `prepare_features`."""

    manifest: Manifest
    video: VideoExtraction | CaptionExtraction
    text: TextExtraction
    videos: VideoSources
    out: Path
    gpus: tuple[str, ...]
    """The GPUs here that get a worker each; empty: workers are on the CPU."""

    @property
    def sentences(self) -> list[Source]:
        return [Source(query.qid, query.text) for query in self.manifest.queries]

    def _folder(self, spec: StoreSpec) -> Path:
        return self.out / spec.kind / spec.folder_name

    def extract(
        self,
        workers: Workers,
        *,
        retry_failed: bool = False,
        on_progress: OnProgress = lambda what, progress: None,
        on_wait: Callable[[], None] | None = None,
    ) -> FeaturesReport:
        """Make what is not cached. A video that fails is in the report and in failures.parquet, no exception."""

        def store(extraction: Any, sources: list[Source], absent: list[Failure]) -> StoreReport:
            spec = extraction.spec()
            folder = self._folder(spec)
            receipt = extract_store(
                folder, spec, sources, extraction, workers, missing=absent, retry_failures=retry_failed,
                on_progress=partial(on_progress, spec.kind), on_wait=on_wait,
            )  # fmt: skip
            return StoreReport(folder, spec, receipt, FeatureStore.open(folder).failures)

        video = store(self.video, self.videos.sources, self.videos.failures)
        text = store(self.text, self.sentences, [])
        features = FeatureStore.open(video.folder)
        there = (source.id for source in self.videos.sources if source.id in features)
        durations = {vid: s for vid in there if (s := features.entry(vid).duration_s) is not None}
        missing = tuple(failure.id for failure in self.videos.failures if failure.stage == "missing")
        lost = tuple(Finding(self.videos.place, "", "missing video", f"{vid} has no file") for vid in missing)
        manifest = self.manifest.with_durations(durations)
        manifest = replace(manifest, findings=(*manifest.findings, *self.videos.findings, *lost))
        write_manifest(manifest, self.out / "manifest.parquet")
        return FeaturesReport(manifest, video, text, missing)

    def forecast(self, retry_failed: bool = False) -> tuple[Forecast, Forecast]:
        """What `extract` would do to the video store and the text store. Writes nothing."""
        durations = {vid: video.duration_s for vid, video in self.manifest.videos.items() if video.duration_s}
        limits = self.video.limits if isinstance(self.video, VideoExtraction) else None
        video, text = self.video.spec(), self.text.spec()
        return (
            forecast_videos(self._folder(video), video, self.videos, durations, limits, retry_failed),
            forecast_texts(self._folder(text), text, self.sentences, retry_failed),
        )

    def profile(self, workers: Workers) -> Profile:
        """How fast the videos decode and encode here. Raises ValueError for captions, and where no video decodes."""
        if not isinstance(self.video, VideoExtraction):
            raise ValueError("expected videos to profile; captions are not decoded")
        return profile(self.video, self.videos.sources, workers)


def prepare_features(
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
    precision: str = "auto",
    decoders: int | None = None,
    decode_memory_gib: float = DecodeLimits.memory_gib,
    decode_timeout_s: float = DecodeLimits.seconds,
) -> StageOne:
    """Read the annotations, find the videos, choose the encoders.

    precision: of the video encoder, see `VideoExtraction`.
    decoders: decoding processes beside each encoder; None: 1, or with GPUs the cores that each GPU has.

    Raises ValueError on annotations that cannot be used, a folder without any of the videos, or options that
    make no sense.
    """
    dataset = find_dataset(name, clip_seconds)
    if not videos.exists() and not annotations.exists():
        raise ValueError(
            f"expected videos in {videos} and annotations in {annotations}, there are neither; put files named "
            f"<video id>.mp4 and the annotation files of {name} there, or give --videos DIR and --annotations DIR"
        )
    manifest = dataset.read(annotations)
    gpus = visible_gpus(device)
    limits = DecodeLimits(decoders or max(1, cores() // len(gpus) if gpus else 1), decode_memory_gib, decode_timeout_s)
    video: VideoExtraction | CaptionExtraction
    if video_encoder.startswith(CAPTIONS):
        if video_weights is not None:
            raise ValueError(f"expected no --video-weights with {video_encoder}, which names its weights itself")
        video = CaptionExtraction(video_encoder.removeprefix(CAPTIONS), manifest.clip_seconds, device)
        sources = caption_sources(videos, manifest)
    else:
        video = VideoExtraction(video_encoder, video_weights, manifest.clip_seconds, device, precision, limits)
        found, missing = locate(manifest, videos)
        absent = [Failure(vid, "missing", f"no video file of this name in {videos}") for vid in missing]
        sources = VideoSources(str(videos), [Source(vid, str(path)) for vid, path in found.items()], absent, [])
    return StageOne(manifest, video, TextExtraction(text_encoder, device), sources, out, gpus)


def extract_features(
    name: str,
    videos: Path,
    annotations: Path,
    out: Path,
    *,
    workers: str | None = None,
    scheduler: str | None = None,
    retry_failed: bool = False,
    on_progress: OnProgress = lambda what, progress: None,
    on_wait: Callable[[], None] | None = None,
    **options: Any,
) -> FeaturesReport:
    """Make the features of a dataset, or what is missing of them, with the options of `prepare_features`.

    workers: see `Workers.parse`. Raises what `prepare_features` and `extract_store` raise.
    """
    stage = prepare_features(name, videos, annotations, out, **options)
    with Workers.parse(workers, scheduler, stage.gpus) as crew:
        return stage.extract(crew, retry_failed=retry_failed, on_progress=on_progress, on_wait=on_wait)


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
