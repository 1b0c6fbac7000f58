"""How fast videos decode, how fast clips encode, and how much of what the two allow the extraction reaches.

Each is measured for some seconds on the same videos, by as many workers and decoding processes as the extraction
has, all workers at once and one kind of work after the other.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decode_pool import Clip, DecodePool, Event
from .extractors import VideoExtraction, VideoExtractor
from .layout import Item, Source
from .workers import Workers

SECONDS = 15.0


@dataclass(frozen=True)
class Profile:
    """Clips per second of all workers together."""

    decode: float
    encode: float
    end_to_end: float
    workers: int
    decoders: int
    """Of each worker."""
    cores: int
    own_hardware: bool
    """Encoding takes no core from decoding: it runs on a GPU."""

    @property
    def possible(self) -> float:
        """What decoding and encoding allow together, clips per second.

        The slower of the two, and no more than the cores give: a clip takes the core seconds of both.
        """
        if self.own_hardware:
            return min(self.decode, self.encode)
        core_s = self.workers * (self.decoders / self.decode + 1 / self.encode)
        return min(self.decode, self.encode, self.cores / core_s)

    @property
    def reached(self) -> float:
        """Share of what is possible."""
        return self.end_to_end / self.possible


def profile(
    extraction: VideoExtraction, sources: Sequence[Source], workers: Workers, seconds: float = SECONDS
) -> Profile:
    """Measure on `sources`, over and over where they are few. Raises ValueError where none of them decodes."""
    client = workers.client()
    if client is None:
        measured = [_measure(extraction, sources, seconds)]
    else:
        addresses = list(client.scheduler_info(n_workers=-1)["workers"])
        apart = [[*sources[i :: len(addresses)], *sources] for i in range(len(addresses))]  # nobody begins alike
        futures = [
            client.submit(_measure, extraction, own, seconds, workers=[address], allow_other_workers=False, pure=False)
            for own, address in zip(apart, addresses, strict=True)
        ]
        measured = client.gather(futures)
    decode, encode, both = np.sum(measured, axis=0).tolist()
    if not decode:
        raise ValueError("expected a video that decodes, to measure with; none of the given ones does")
    return Profile(
        decode, encode, both, len(measured), extraction.limits.processes, cores(), extraction.device != "cpu"
    )


def cores() -> int:
    """Of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Enough(Exception):
    """The time for measuring is over."""


class _Timed:
    """An encoder that counts the clips after its first batch, and ends it all when the time is over."""

    def __init__(self, encoder: Any, seconds: float) -> None:
        self.encoder, self.seconds = encoder, seconds
        self.batch, self.sampling = encoder.batch, encoder.sampling
        self.began, self.clips = 0.0, 0

    def encode(self, clips: np.ndarray) -> np.ndarray:
        values = self.encoder.encode(clips)
        if not self.began:
            self.began = time.perf_counter()
            return values
        self.clips += len(clips)
        if time.perf_counter() - self.began > self.seconds:
            raise _Enough
        return values

    @property
    def rate(self) -> float:
        return self.clips / (time.perf_counter() - self.began) if self.began else 0.0


def _measure(extraction: VideoExtraction, sources: Sequence[Source], seconds: float) -> tuple[float, float, float]:
    """Clips per second of this worker: decoded, encoded, and both."""
    extractor = extraction()
    assert isinstance(extractor, VideoExtractor)
    encoder, pool = extractor.encoder, extractor.pool
    clips, began = 0, 0.0
    batch: list[np.ndarray] = []
    for event in _over_and_over(pool, sources):
        if isinstance(event, Clip):
            if len(batch) < encoder.batch:
                batch.append(event.pixels.copy())
            began, clips = began or time.perf_counter(), clips + 1
            if time.perf_counter() - began > seconds:
                break
    if not clips:
        return 0.0, 0.0, 0.0
    decoded = clips / (time.perf_counter() - began)
    pool.close()

    alone = _Timed(encoder, seconds)
    with contextlib.suppress(_Enough):
        while True:
            alone.encode(np.stack(batch))
    encoded = alone.rate

    timed = _Timed(encoder, seconds)
    together = VideoExtractor(timed, extraction.clip_seconds, extraction.limits, extraction.program)  # type: ignore[arg-type]
    with contextlib.suppress(_Enough):
        while sum(isinstance(outcome, Item) for outcome in together(sources)):
            pass
    both = timed.rate
    together.pool.close()
    return decoded, encoded, both


def _over_and_over(pool: DecodePool, sources: Sequence[Source]) -> Iterator[Event]:
    """The events of the sources, again and again as long as there are clips among them."""
    found = True
    while found:
        found = False
        for event in pool.decode(sources):
            found = found or isinstance(event, Clip)
            yield event
