"""From sources to features: what a worker does with videos and sentences.

An extraction is a small picklable description; calling it, once per worker process, loads the encoder and gives the
function that the schedule applies to the sources of a shard.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .clips import clip_bounds
from .decode_pool import PROGRAM, Clip, ClipForm, DecodeLimits, DecodePool, Ended, Failed, Opened, Video
from .layout import Extractor, Failure, Item, Source, StoreSpec, text_sha256
from .probe import VideoError

if TYPE_CHECKING:
    from .encoders import TextEncoder, VideoEncoder

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class VideoExtraction:
    """One feature per clip of `clip_seconds`, by the encoder of that name."""

    encoder: str
    weights: str | None
    clip_seconds: float
    device: str = "cpu"
    precision: str = "auto"
    """'fp32', 'tf32', 'bf16'; auto: bf16 on CUDA, fp32 elsewhere."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """Of the decoding beside each encoder."""
    program: Sequence[str] = PROGRAM
    """What decodes: arguments of Python."""

    def spec(self) -> StoreSpec:
        """The spec of the store. Raises ValueError for an unknown encoder or weights that cannot be had."""
        from .encoders import describe_video_encoder

        spec, dim, _ = describe_video_encoder(self.encoder, self.weights, self.device, self.precision)
        return StoreSpec("video", **spec, clip_seconds=self.clip_seconds, dim=dim)

    def __call__(self) -> VideoExtractor:
        from .encoders import load_video_encoder

        one_thread_on_cpu(self.device)
        encoder = load_video_encoder(self.encoder, self.weights, self.device, self.precision)
        return VideoExtractor(encoder, self.clip_seconds, self.limits, self.program)


@dataclass(frozen=True)
class TextExtraction:
    """One feature per token of a sentence, by the encoder of that name, folder or hub id."""

    encoder: str
    device: str = "cpu"

    def spec(self) -> StoreSpec:
        """The spec of the store. Raises ValueError for a model that cannot be had."""
        from .encoders import describe_text_encoder

        spec, dim, _ = describe_text_encoder(self.encoder)
        return StoreSpec("text", **spec, clip_seconds=None, dim=dim)

    def __call__(self) -> Extractor:
        from .encoders import load_text_encoder

        one_thread_on_cpu(self.device)
        encoder = load_text_encoder(self.encoder, self.device)
        return lambda sentences: extract_texts(sentences, encoder)


class VideoExtractor:
    """Videos to features: child processes decode ahead while the encoder works, clips of several videos together.

    Threads share the encoder, and each has decoding processes of its own: while one waits for the last clips
    of its shard, another keeps the encoder busy.
    """

    def __init__(
        self, encoder: VideoEncoder, clip_seconds: float, limits: DecodeLimits, program: Sequence[str] = PROGRAM
    ) -> None:
        self.encoder = encoder
        sampling = encoder.sampling
        self._form = ClipForm(clip_seconds, sampling.frames, sampling.span_s, sampling.size)
        self._limits, self._program = limits, program
        self._encoding = threading.Lock()
        self._of_thread = threading.local()

    def __call__(self, sources: Sequence[Source]) -> Iterator[Item | Failure]:
        """One outcome for each video, as soon as its last clip is encoded."""
        batch = _Batch(self.encoder.batch, self._form)
        for event in self.pool.decode(sources):
            match event:
                case Clip():
                    batch.add(event)
                    if batch.full:
                        yield from self._encode(batch)
                case Ended(video):
                    yield from batch.finish(video)
                case Failed(source, stage, reason):
                    yield Failure(source.id, stage, reason)
                case Opened():
                    pass
        yield from self._encode(batch)

    @property
    def pool(self) -> DecodePool:
        """The decoding processes of this thread."""
        if not hasattr(self._of_thread, "pool"):
            ahead = 2 + -(-self.encoder.batch // self._limits.processes)  # together a batch, while one is encoded
            self._of_thread.pool = DecodePool(self._form, self._limits, ahead, self._program)
        return self._of_thread.pool

    def _encode(self, batch: _Batch) -> Iterator[Item]:
        with self._encoding:
            values = self.encoder.encode(batch.pixels)
        yield from batch.encoded(values)


class _Batch:
    """Clips of any videos that wait to be encoded together, and the features of videos that are not complete."""

    def __init__(self, size: int, form: ClipForm) -> None:
        self._pixels = np.empty((size, *form.shape), np.uint8)
        self._clip_seconds = form.clip_seconds
        self._owners: list[tuple[Video, int]] = []
        self._values: dict[Video, dict[int, np.ndarray]] = {}
        self._ended: set[Video] = set()

    @property
    def full(self) -> bool:
        return len(self._owners) == len(self._pixels)

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [n, F, S, S, 3]"""
        return self._pixels[: len(self._owners)]

    def add(self, clip: Clip) -> None:
        self._pixels[len(self._owners)] = clip.pixels
        self._owners.append((clip.video, clip.number))

    def encoded(self, values: np.ndarray) -> Iterator[Item]:
        """Take the features of `pixels`, [n, dim], and empty the batch; give the videos that they complete."""
        owners, self._owners = self._owners, []
        for (video, index), row in zip(owners, values, strict=True):
            self._values.setdefault(video, {})[index] = row
        for video in dict.fromkeys(video for video, _ in owners):
            yield from self._complete(video)

    def finish(self, video: Video) -> Iterator[Item]:
        """All clips of the video have been added."""
        self._ended.add(video)
        yield from self._complete(video)

    def _complete(self, video: Video) -> Iterator[Item]:
        rows = self._values.get(video, {})
        if video in self._ended and len(rows) == video.clips:
            del self._values[video]
            values = np.stack([rows[i] for i in range(video.clips)])
            bounds = clip_bounds(video.duration_s, self._clip_seconds)
            yield Item(video.source.id, values, bounds, video.duration_s, video.sha256)


def one_by_one(extract: Callable[[Source], Item]) -> Extractor:
    """An extractor from a function for one source: what it raises is the failure of that source.

    A ValueError's text is the reason (stage and reason of a VideoError are kept). Only a full disk is never the
    fault of a source.
    """

    def outcome(source: Source) -> Item | Failure:
        try:
            return extract(source)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            if isinstance(error, ValueError) and str(error):
                stage = getattr(error, "stage", None)  # of a VideoError, whose message is stage and reason together
                return Failure(source.id, stage or "extract", getattr(error, "reason", "") if stage else str(error))
            return Failure(source.id, "extract", f"{type(error).__name__}: {error}")

    return lambda sources: map(outcome, sources)


def extract_video(path: Path, extractor: VideoExtractor) -> Item:
    """The features of one video file. Raises VideoError where it cannot be decoded."""
    try:
        (outcome,) = extractor([Source("video", str(path.absolute()))])
    finally:
        extractor.pool.close()
    if isinstance(outcome, Failure):
        raise VideoError(outcome.stage, outcome.reason)
    return outcome


def extract_texts(sentences: Sequence[Source], encoder: TextEncoder) -> Iterator[Item | Failure]:
    """The features of sentences, together; one without a token is a failure."""
    try:
        features = encoder.encode([sentence.content for sentence in sentences])
    except ValueError:
        if len(sentences) > 1:
            yield from (outcome for sentence in sentences for outcome in extract_texts([sentence], encoder))
        else:
            yield Failure(sentences[0].id, "extract", "expected a sentence of at least one word")
        return
    for sentence, values in zip(sentences, features, strict=True):
        yield Item(sentence.id, values, None, None, text_sha256(sentence.content))


def one_thread_on_cpu(device: str) -> None:
    """Workers are processes, one for each core: more threads each would fight over the cores."""
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)
