"""The one normalised form of every annotation file: videos, queries, moments, saliency.

Readers of the datasets' own forms build these; everything after them sees nothing else. Times are seconds
from the first displayed frame. Every object is checked on construction, so one that exists is valid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

MAX_ID_BYTES = 200  # a video id becomes a file name; file systems stop at 255 bytes


class AnnotationError(ValueError):
    """A record that cannot be used. The message names the file and line, what was expected, and what came."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A window of a video, in seconds: 0 <= start_s < end_s."""

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_s) and math.isfinite(self.end_s)):
            raise ValueError(f"expected a window of finite seconds, got [{self.start_s}, {self.end_s}]")
        if not 0 <= self.start_s < self.end_s:
            raise ValueError(
                f"expected a window [start, end] in seconds with 0 <= start < end, "
                f"got [{self.start_s:g}, {self.end_s:g}]"
            )

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Saliency:
    """Highlight scores of annotators, clip by clip. A clip that is not listed scores `low`."""

    clip_ids: tuple[int, ...]
    """Clips that have scores: clip i covers [i, i + 1) * clip_seconds."""
    scores: tuple[tuple[float, ...], ...]
    """[len(clip_ids)][annotators], on the annotators' own scale."""
    clip_seconds: float = 2.0
    """The grid of the annotation, which need not be the grid of the features."""
    low: float = 0.0
    """The lowest score of the scale."""
    high: float = 4.0
    """The highest score of the scale."""

    def __post_init__(self) -> None:
        if len(self.clip_ids) != len(self.scores):
            raise ValueError(
                f"expected one row of saliency scores per clip, got {len(self.scores)} rows "
                f"for {len(self.clip_ids)} clips"
            )
        if len(set(self.clip_ids)) != len(self.clip_ids) or any(not 0 <= i < 2**31 for i in self.clip_ids):
            raise ValueError("expected distinct clip ids from 0 to 2**31 - 1 for the saliency scores")
        if len({len(row) for row in self.scores}) > 1 or any(not row for row in self.scores):
            raise ValueError("expected the same number (at least 1) of annotators in every saliency row")
        if not all(math.isfinite(s) and self.low <= s <= self.high for s in set(chain(*self.scores))):
            raise ValueError(f"expected saliency scores from {self.low:g} to {self.high:g}")
        if not (math.isfinite(self.clip_seconds) and self.clip_seconds > 0):
            raise ValueError(f"expected clip_seconds > 0, got {self.clip_seconds}")

    @property
    def annotators(self) -> int:
        return len(self.scores[0]) if self.scores else 0

    def dense(self, n_clips: int) -> np.ndarray:
        """Scores as float32 [n_clips, annotators]; clips beyond n_clips are left out."""
        out = np.full((n_clips, self.annotators), self.low, np.float32)
        for clip, row in zip(self.clip_ids, self.scores, strict=True):
            if clip < n_clips:
                out[clip] = row
        return out


@dataclass(frozen=True, slots=True)
class Video:
    """A video, known by the name of its file without the ending."""

    vid: str
    duration_s: float | None = None
    """None where the annotations do not say; the duration measured on decoding then counts."""

    def __post_init__(self) -> None:
        check_id(self.vid, "video id")
        if any(c in self.vid for c in "/\\") or self.vid in (".", ".."):
            raise ValueError(f"expected a video id that is a plain file name without ending, got {self.vid!r}")
        if self.duration_s is not None and not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise ValueError(f"expected a duration > 0 s for video {self.vid!r}, got {self.duration_s}")


@dataclass(frozen=True, slots=True)
class Query:
    """A sentence about one video, and what is true of it."""

    qid: str
    vid: str
    text: str
    split: str
    windows: tuple[Moment, ...] = ()
    """The true moments; empty where they are not published, or none is left inside the video."""
    saliency: Saliency | None = None
    """None where the dataset has no highlight labels; a target is then derived from the windows."""
    kind: str | None = None
    """'action', 'object' or 'scene' where the annotation says so."""

    def __post_init__(self) -> None:
        check_id(self.qid, "query id")
        if not self.text.strip():
            raise ValueError(f"expected a sentence for query {self.qid!r}, got an empty text")
        if not self.split:
            raise ValueError(f"expected a split name for query {self.qid!r}")
        for value in (self.text, self.split, self.kind or ""):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(f"expected whole characters for query {self.qid!r}, got {value!r}") from None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a reader changed or left out, so that it is reported and never silent."""

    source: str
    """File name and line, 'charades_sta_train.txt:17'."""
    qid: str
    action: str
    """'clipped', 'dropped window', 'dropped query', 'renamed query', 'no duration', 'changed duration',
    'carved split' or 'missing video'."""
    detail: str


@dataclass(frozen=True)
class Manifest:
    """All splits of one dataset."""

    dataset: str
    clip_seconds: float
    """The length of a clip that features are extracted for."""
    videos: Mapping[str, Video]
    queries: tuple[Query, ...]
    findings: tuple[Finding, ...] = field(default=())

    def __post_init__(self) -> None:
        for vid, video in self.videos.items():
            if vid != video.vid:
                raise ValueError(f"expected every video under its own id, got {video.vid!r} under {vid!r}")
        seen: set[str] = set()
        for query in self.queries:
            if query.qid in seen:
                raise ValueError(f"expected distinct query ids, got {query.qid!r} twice in {self.dataset}")
            seen.add(query.qid)
            if query.vid not in self.videos:
                raise ValueError(f"query {query.qid!r} names video {query.vid!r}, which the manifest lacks")
        if not (math.isfinite(self.clip_seconds) and self.clip_seconds > 0):
            raise ValueError(f"expected clip_seconds > 0, got {self.clip_seconds}")

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(q.split for q in self.queries))

    def split(self, name: str) -> tuple[Query, ...]:
        """The queries of one split. Raises ValueError naming the splits there are."""
        if name not in self.splits:
            raise ValueError(f"{self.dataset} has no split {name!r}; it has {', '.join(self.splits) or 'none'}")
        return tuple(q for q in self.queries if q.split == name)

    def with_durations(self, measured: Mapping[str, float]) -> Manifest:
        """The same manifest with measured lengths where none was known, windows fitted to them."""
        videos = dict(self.videos)
        for vid, seconds in measured.items():
            if vid in videos and videos[vid].duration_s is None:
                videos[vid] = Video(vid, seconds)
        queries, findings = [], list(self.findings)
        for query in self.queries:
            before, after = self.videos[query.vid].duration_s, videos[query.vid].duration_s
            if before is None and after is not None:
                windows, found = fit_windows(query.windows, after, query.qid, "measured duration")
                findings += found
                query = replace(query, windows=windows)
            queries.append(query)
        return replace(self, videos=videos, queries=tuple(queries), findings=tuple(findings))


def check_id(value: str, what: str) -> None:
    """Raise ValueError unless `value` is a usable id: not empty, printable, at most MAX_ID_BYTES of UTF-8."""
    if not value or not value.isprintable() or value != value.strip():
        raise ValueError(f"expected a {what} of printable characters, got {value!r}")
    if len(value.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise ValueError(f"expected a {what} of at most {MAX_ID_BYTES} bytes, got {len(value)} characters")


def fit_windows(
    windows: Iterable[Moment], duration_s: float, qid: str, source: str
) -> tuple[tuple[Moment, ...], list[Finding]]:
    """Clip windows to [0, duration_s]; drop those wholly outside. What was changed comes back as findings."""
    kept, findings = [], []
    for window in windows:
        shown = f"[{window.start_s:g}, {window.end_s:g}] s of a {duration_s:g} s video"
        if window.start_s >= duration_s:
            findings.append(Finding(source, qid, "dropped window", f"{shown} starts after the end"))
        elif window.end_s > duration_s:
            findings.append(Finding(source, qid, "clipped", f"{shown} ends after the end"))
            kept.append(Moment(window.start_s, duration_s))
        else:
            kept.append(window)
    return tuple(kept), findings
