"""What an extraction would do, before it does anything: what is cached, what is left, how much disk that takes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .clips import clip_bounds
from .decode_pool import ClipForm, DecodeLimits, DecodePool, Ended
from .layout import SPEC_FILE, Source, StoreError, StoreSpec, read_spec, shard_files, source_stamp
from .shard import Record, read_shard
from .video_files import VideoSources

SAMPLE = 16  # videos opened where nobody says how long they are
ITEM_BYTES = 400  # ids, hashes and offsets, in the shard and in the tables
TOKENS_PER_WORD = 1.2


@dataclass(frozen=True)
class Forecast:
    """Of one store."""

    folder: Path
    spec: StoreSpec
    cached: int
    """Sources whose features are there."""
    failed: int
    """Sources that failed before and are not tried again."""
    to_do: int
    rows: int
    """Clips or tokens to compute; about."""

    @property
    def bytes(self) -> int:
        """That the new features will take on the disk; about."""
        return self.rows * (2 * self.spec.dim + (16 if self.spec.kind == "video" else 0)) + self.to_do * ITEM_BYTES


def forecast_texts(folder: Path, spec: StoreSpec, sentences: Sequence[Source], retry_failures: bool) -> Forecast:
    """Of the text store; the words of a sentence say about how many tokens it has."""
    to_do, failed = _left(folder, spec, sentences, retry_failures)
    rows = round(sum(TOKENS_PER_WORD * len(sentence.content.split()) for sentence in to_do))
    return Forecast(folder, spec, len(sentences) - len(to_do) - failed, failed, len(to_do), rows)


def forecast_videos(
    folder: Path,
    spec: StoreSpec,
    videos: VideoSources,
    durations_s: Mapping[str, float],
    limits: DecodeLimits | None,
    retry_failures: bool,
) -> Forecast:
    """Of the video store. Videos whose duration nobody knows: some are opened, and the rest is like them.

    limits: of the decoder that opens them; None: the sources are no files, and their length stays unknown.
    """
    assert spec.clip_seconds is not None
    to_do, failed = _left(folder, spec, videos.sources, retry_failures)
    known = [durations_s[source.id] for source in to_do if source.id in durations_s]
    unknown = [source for source in to_do if source.id not in durations_s]
    if unknown and limits is not None:
        every = -(-len(unknown) // SAMPLE)
        measured = _measured(unknown[::every], spec.clip_seconds, limits)
        known += measured * (len(unknown) // max(1, len(measured)))
    rows = sum(len(clip_bounds(seconds, spec.clip_seconds)) for seconds in known)
    return Forecast(folder, spec, len(videos.sources) - len(to_do) - failed, failed, len(to_do), rows)


def _left(folder: Path, spec: StoreSpec, sources: Sequence[Source], retry_failures: bool) -> tuple[list[Source], int]:
    """The sources that would be tried, and the number of those that failed and would not be."""
    if not (folder / SPEC_FILE).exists():
        return list(sources), 0
    read_spec(folder)
    newest: dict[str, Record] = {}
    for number, path in shard_files(folder).items():
        with contextlib.suppress(StoreError):  # a damaged shard is done again
            newest.update((record.id, record) for record in read_shard(path, number, spec).records)
    left, failed = [], 0
    for source in sources:
        record = newest.get(source.id)
        if record is None or record.stamp != source_stamp(spec.kind, source) or (record.failure and retry_failures):
            left.append(source)
        else:
            failed += record.failure is not None
    return left, failed


def _measured(sources: Sequence[Source], clip_seconds: float, limits: DecodeLimits) -> list[float]:
    """The durations of those videos that can be opened."""
    pool = DecodePool(ClipForm(clip_seconds, 1, 0.0, 1), limits, slots=1)
    try:
        events = pool.decode(sources, length_only=True)
        return [event.video.duration_s for event in events if isinstance(event, Ended)]
    finally:
        pool.close()
