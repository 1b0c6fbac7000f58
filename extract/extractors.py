"""From one source to its features: what a worker does with a video or a sentence.

An extraction is a small picklable description; calling it, once per worker process, loads the encoder and gives the
function that the schedule applies to every source.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .clips import clip_bounds, clip_frame_times
from .frames import open_video, read_clips
from .layout import Extractor, Failure, Item, Source, StoreSpec, file_sha256, text_sha256

if TYPE_CHECKING:
    from .encoders import TextEncoder, VideoEncoder

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
CLIPS_AT_ONCE = 16  # of the nano encoder; larger clips take as many as have the same number of pixels
PIXELS_AT_ONCE = CLIPS_AT_ONCE * 8 * 64 * 64


@dataclass(frozen=True)
class VideoExtraction:
    """One feature per clip of `clip_seconds`, by the encoder of that name."""

    encoder: str
    weights: str | None
    clip_seconds: float
    device: str = "cpu"

    def spec(self) -> StoreSpec:
        """The spec of the store. Raises ValueError for an unknown encoder or weights that cannot be had."""
        from .encoders import describe_video_encoder

        spec, dim, _ = describe_video_encoder(self.encoder, self.weights)
        return StoreSpec("video", **spec, clip_seconds=self.clip_seconds, dim=dim)

    def __call__(self) -> Extractor:
        from .encoders import load_video_encoder

        _one_thread_on_cpu(self.device)
        encoder = load_video_encoder(self.encoder, self.weights, self.device)
        return one_by_one(lambda source: extract_video(source, encoder, self.clip_seconds))


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

        _one_thread_on_cpu(self.device)
        encoder = load_text_encoder(self.encoder, self.device)
        return one_by_one(lambda source: extract_text(source, encoder))


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


def extract_video(source: Source, encoder: VideoEncoder, clip_seconds: float) -> Item:
    """Decode and encode one video. Raises VideoError where it cannot be decoded."""
    path = Path(source.content)
    sampling = encoder.sampling
    at_once = max(1, PIXELS_AT_ONCE // (sampling.frames * sampling.size**2))
    with open_video(path) as reader:
        duration_s = reader.info.duration_s
        bounds = clip_bounds(duration_s, clip_seconds)
        times = clip_frame_times(bounds, sampling.frames, sampling.span_s, duration_s)
        clips = read_clips(reader, times, sampling.size)
        values = [encoder.encode(np.stack(batch)) for batch in _batches(clips, at_once)]
    return Item(source.id, np.concatenate(values), bounds, duration_s, file_sha256(path))


def extract_text(source: Source, encoder: TextEncoder) -> Item:
    """Encode one sentence. Raises ValueError for one without a token."""
    (values,) = encoder.encode([source.content])
    return Item(source.id, values, None, None, text_sha256(source.content))


def _batches(clips: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    clips = iter(clips)
    while batch := list(islice(clips, size)):
        yield batch


def _one_thread_on_cpu(device: str) -> None:
    """Workers are processes, one for each core: more threads each would fight over the cores."""
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)
