"""Highlight labels of one record of the common form: scores of listed clips, or a label for every clip.

`relevant_clip_ids` with `saliency_scores` is QVHighlights' form: from 0 to 4, clips not listed score 0.
`label` has a row for every clip. What the published files hold there, as their data show:

TVSum: 20 annotators, 1 to 5, and a `duration` that is none. It equals the number of rows in all 50 videos,
and the real lengths (149 s where the file says 74) show that both count clips of 2 s. The length is then 2 s
a row, up to 3 s short.

YouTube Highlights: one 0/1 row for each range of frames in `clip`. These ranges are about 100 frames long,
overlap by half and start about every 50 frames (1.67 s at 30 fps), snapped to cuts. The rows are kept one by
one, as the published metric ranks them, and spread evenly over the time up to the end of the last range: the
centre of a row is 0.5 s from the centre of its range at the median, less than 0.85 s in 95%, 4 s at worst.
Label 1 is `match` 1; `match` 0 and -1 are label 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from .records import MAX_SECONDS, Record, listed, number, problem, shown
from .schema import Finding, Saliency


@dataclass(frozen=True, slots=True)
class Labels:
    """How to read the `label` rows of a dataset."""

    low: float = 0.0
    """The lowest label."""
    high: float = 1.0
    """The highest label."""
    clip_seconds: float | None = None
    """The length of a labelled clip, where a `duration` equal to the number of rows is a number of clips, not
    of seconds. None: the rows share the labelled time evenly."""


ZERO_TO_ONE = Labels()


def duration_of(record: Record, labels: Labels) -> tuple[float | None, list[Finding]]:
    """The length of a record's video in seconds, with a finding where the file counts clips instead."""
    value, rows = record.get("duration"), record.get("label")
    if value is None:
        return None, []
    duration_s = number(value, "a duration in seconds", record.source, 0, MAX_SECONDS)
    if duration_s == 0:
        raise problem(record.source, "a duration above 0 s", "0")
    if labels.clip_seconds is None or not isinstance(rows, list) or duration_s != len(rows):
        return duration_s, []
    detail = f"{duration_s:g} counts labelled clips: {duration_s * labels.clip_seconds:g} s"
    return duration_s * labels.clip_seconds, [Finding(record.source, "", "changed duration", detail)]


def saliency_of(record: Record, duration_s: float | None, clip_seconds: float, labels: Labels) -> Saliency | None:
    """A record's highlight labels, None where it has none; `clip_seconds` is the grid of scored clips."""
    if record.get("saliency_scores") is not None:
        return _scored_clips(record, clip_seconds)
    if record.get("label") is not None:
        return _labelled_clips(record, duration_s, labels)
    return None


def _scored_clips(record: Record, clip_seconds: float) -> Saliency | None:
    source = record.source
    clip_ids = listed(record.required("relevant_clip_ids"), "relevant_clip_ids", source)
    scores = _rows(record, "saliency_scores")
    if record.get("clip_seconds") is not None:
        clip_seconds = number(record.get("clip_seconds"), "clip_seconds", source, 0, MAX_SECONDS)
    for clip in clip_ids:
        if type(clip) is not int or not 0 <= clip <= MAX_SECONDS:
            raise problem(source, "relevant_clip_ids as integers >= 0", shown(clip))
    return Saliency(tuple(clip_ids), scores, clip_seconds) if clip_ids or scores else None


def _labelled_clips(record: Record, duration_s: float | None, labels: Labels) -> Saliency | None:
    scores = _rows(record, "label")
    if not scores:
        return None
    covered_s = _labelled_seconds(record) or duration_s
    if labels.clip_seconds is not None:
        clip_seconds = labels.clip_seconds
    elif covered_s is not None:
        clip_seconds = covered_s / len(scores)
    else:
        raise problem(record.source, "a duration beside the label", "none", "say how long the video is")
    return Saliency(tuple(range(len(scores))), scores, clip_seconds, labels.low, labels.high)


def _labelled_seconds(record: Record) -> float | None:
    """Where the last labelled range of frames ends, in seconds; None without `clip` and `fps`."""
    if record.get("clip") is None or record.get("fps") is None:
        return None
    source = record.source
    ranges = listed(record.get("clip"), "clip", source)
    if len(ranges) != len(record.get("label")) or not isinstance(ranges[-1], list) or len(ranges[-1]) != 2:
        raise problem(source, "clip as one [first, last] frame for each label", shown(ranges))
    fps = number(record.get("fps"), "fps", source, 0.01, 1e5)
    return number(ranges[-1][1], "the last frame of clip", source, 1, MAX_SECONDS * fps) / fps


def _rows(record: Record, key: str) -> tuple[tuple[float, ...], ...]:
    """Scores [clips][annotators]; a plain number stands for a row of one annotator."""
    given = listed(record.get(key), key, record.source)
    rows: list[list[Any]] = [row if isinstance(row, list) else [row] for row in given]
    if not set(map(type, chain.from_iterable(rows))) <= {int, float}:
        bad = next(row for row in rows if not set(map(type, row)) <= {int, float})
        raise problem(record.source, f"{key} as rows of numbers", shown(bad))
    try:
        return tuple(tuple(map(float, row)) for row in rows)
    except OverflowError:
        raise problem(record.source, f"{key} of sensible size", "an integer of hundreds of digits") from None
