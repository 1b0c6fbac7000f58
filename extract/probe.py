"""What a video file holds: its picture stream, when every frame is displayed, which way is up.

One pass over the packets (no decoding: 50,000 frames/s or more) and one decoded picture, both with PyAV.
Decoders are chosen and checked against it. Nothing is allocated by what a header claims: counts come from
packets that were read, and picture sizes are limited before a decoder sees them. Times are seconds from the
first displayed frame.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .truncation import missing_seconds

MAX_PIXELS = 8192 * 8192  # of one frame: 201 MB of RGB
MAX_DURATION_S = 48 * 3600.0
MAX_HELD_S = 1.0  # damage up to this long shows the picture before it, as players do; more is a failure
ORDER_ONLY = {"avi", "h264", "hevc", "m4v", "mjpeg", "mpegvideo", "obu"}  # forms that store no display times
NO_TIME = -(2**63)


class VideoError(ValueError):
    """A video that cannot be used: the stage ('open', 'probe' or 'decode') and the reason, one sentence."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(stage, reason)  # both as args: the error must survive pickling between processes
        self.stage, self.reason = stage, reason

    def __str__(self) -> str:
        return f"{self.stage}: {self.reason}"


@dataclass(frozen=True)
class Orientation:
    """How stored pictures become upright: transpose first, then flip."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, frame: Any) -> Orientation:
        """From the display matrix: x = a p + c q, y = b p + d q for the stored column p and row q.

        Angles between the quarter turns go to the nearest; a matrix of zeros is no turn.
        """
        side = frame.side_data.get("DISPLAYMATRIX")
        if side is None:
            return cls()
        a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(side), np.int32)[:5])
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, flip_x=c < 0, flip_y=b < 0)
        return cls(False, flip_x=a < 0, flip_y=d < 0)

    @property
    def mirrored(self) -> bool:
        return self.transpose ^ self.flip_x ^ self.flip_y

    @property
    def degrees(self) -> int:
        """The clockwise turn; of a mirrored picture, the turn that follows a horizontal mirroring."""
        if self.transpose:
            return 90 if self.flip_x != self.mirrored else 270
        return 180 if self.flip_y else 0

    def upright(self, picture: np.ndarray) -> np.ndarray:
        """[H, W, 3] as stored -> [H', W', 3] as displayed."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        return np.ascontiguousarray(picture[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1])


@dataclass(frozen=True)
class Timeline:
    """The picture stream of a file, frame by frame in display order."""

    stream: int
    """Index of the stream in the file."""
    codec: str
    pts: np.ndarray
    """int64 [frames], increasing, in the stream's own units."""
    times_s: np.ndarray
    """float64 [frames], the first is 0."""
    duration_s: float
    """End of the last frame."""
    keyframes: np.ndarray
    """Frames where decoding can start; empty where that is not certain (overlapping groups of pictures)."""
    by_order: bool
    """The k-th decoded picture is frame k, whatever time it carries: the file stores no usable times."""
    whole: bool
    """Every packet displays a picture: no edit list hides some, and none at the start is undecodable."""
    orientation: Orientation
    pixel_aspect: float
    """Width over height of a pixel of the upright picture."""
    first: np.ndarray
    """uint8 [H, W, 3], the first displayed picture, upright."""


@contextmanager
def opened(path: Path, stream: int | None = None) -> Iterator[tuple[Any, Any]]:
    """(container, picture stream) by PyAV, decoding in one thread. Raises VideoError of stage 'open'."""
    import av

    try:
        # no other protocol: a playlist that calls itself .mp4 must not reach the network
        container = av.open(str(path), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError("open", f"FFmpeg cannot open the file ({reason})") from error
    with container:
        cover = av.stream.Disposition.attached_pic
        moving = [s for s in container.streams.video if not s.disposition & cover]
        best = container.streams.best("video")  # the choice of decord, and of the ffmpeg command
        if stream is not None:
            chosen = container.streams[stream]
        elif not moving:
            raise VideoError("open", "the file has no video stream")
        else:
            chosen = next((s for s in moving if best is not None and s.index == best.index), moving[0])
        codec = chosen.codec_context
        if codec is None:
            raise VideoError("open", "FFmpeg has no decoder for the video stream")
        if codec.width * codec.height > MAX_PIXELS:
            raise VideoError("probe", f"frames of {codec.width}x{codec.height} exceed {MAX_PIXELS} pixels")
        codec.thread_count = 1
        codec.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, chosen


def probe(path: Path) -> Timeline:
    """The timeline of a file. Raises VideoError: 'open', 'probe' (times, limits, cut short) or 'decode'."""
    if not path.is_file():
        raise VideoError("open", "there is no such file")
    if path.stat().st_size == 0:
        raise VideoError("open", "the file is empty")
    path = path.resolve()  # absolute, so that FFmpeg cannot read a protocol into the name
    with opened(path) as (container, stream):
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        index, unit = stream.index, stream.time_base or 1 / rate
        by_order = container.format.name.split(",")[0] in ORDER_ONLY
        pts, durations, keys, hidden = _packets(container, stream)
        frames = len(pts)
        if not frames:
            raise VideoError("probe", "the video stream has no frames")
        claimed = stream.duration * float(unit) if stream.duration else (container.duration or 0) / 1e6
        read_s = float((pts + durations).max() * unit) if (pts != NO_TIME).all() else frames / float(rate)
        missing_s = missing_seconds(path, container, stream, frames, read_s)
        if missing_s > MAX_HELD_S:
            raise VideoError("probe", f"the file is cut short: about {missing_s:.1f} s of it are missing")
    with opened(path, index) as (container, stream):
        codec = stream.codec_context.name
        frame = next(pictures(container, stream), None)
        if frame is None:
            raise VideoError("decode", f"none of {frames} frames decodes: the file is damaged or encrypted")
        orientation = Orientation.of(frame)
        aspect = float(stream.sample_aspect_ratio or 1)
        first_pts = frame.pts
        first = orientation.upright(rgb(frame))

    order = np.argsort(pts, kind="stable")
    ordered, last_duration = pts[order], int(durations[order[-1]])
    if ordered[0] == NO_TIME:
        unit, by_order, last_duration = 1 / rate, True, 1
        ordered, order = np.arange(frames), np.arange(frames)
    by_order = by_order or first_pts is None or first_pts > ordered[-1] or bool((np.diff(ordered) == 0).any())
    starts = np.flatnonzero(keys)  # in decoding order
    # A picture displayed before the keyframe it follows in the file refers back to the group before.
    apart = not by_order and not hidden and np.array_equal(order[starts], starts)
    keyframes = starts if apart else starts[:0]
    skipped = 0 if by_order else int(np.searchsorted(ordered, first_pts))
    if skipped:
        # What precedes the first keyframe cannot decode (a recording begins anywhere); what follows should.
        expected = pts[starts[0]] if len(starts) else ordered[0]
        if (lost_s := float((first_pts - expected) * unit)) > MAX_HELD_S:
            raise VideoError("decode", f"the first {lost_s:.1f} s do not decode: the file is damaged")
        ordered, keyframes = ordered[skipped:], starts[:0]

    ticks = (ordered - ordered[0]).astype(np.float64)
    times_s = ticks * unit.numerator / unit.denominator  # rounded once, so that k / 25 is 0.04 k
    gaps = np.diff(times_s)
    if last_duration > 0:
        end_s = float(last_duration * unit)
    elif (gaps > 0).any():
        end_s = float(np.median(gaps[gaps > 0]))
    else:
        end_s = claimed or float(1 / rate)
    duration_s = float(times_s[-1]) + end_s
    if not (math.isfinite(duration_s) and 0 < duration_s <= MAX_DURATION_S):
        raise VideoError("probe", f"its frames span {duration_s:g} s; expected 0 to {MAX_DURATION_S:g} s")
    if not 1 / 8 <= aspect <= 8:
        aspect = 1.0
    aspect = 1 / aspect if orientation.transpose else aspect
    whole = not hidden and not skipped
    return Timeline(index, codec, ordered, times_s, duration_s, keyframes, by_order, whole, orientation, aspect, first)


def pictures(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames from the container's position on.

    After a packet that does not decode nothing is believed until the next keyframe: decoders invent what they
    lack. The gap shows as a picture that is held too long.
    """
    import av

    packets = container.demux(stream)
    damaged = False
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            return
        if packet is None:
            return
        try:
            decoded = packet.decode()
        except (av.FFmpegError, OSError, MemoryError):
            damaged = True
            continue
        for frame in decoded:
            damaged = damaged and not frame.key_frame
            if not damaged:
                yield frame


def rgb(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [H, W, 3] as stored, scaled to (width, height) if given. Raises VideoError('decode')."""
    import av

    if frame.width * frame.height > MAX_PIXELS:
        raise VideoError("decode", f"a frame of {frame.width}x{frame.height} exceeds {MAX_PIXELS} pixels")
    width, height = size or (frame.width, frame.height)
    try:
        picture: np.ndarray = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("decode", f"{frame.format.name} pixels do not convert to RGB") from error
    return picture


def _packets(container: Any, stream: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """pts, duration and keyframe flag of every displayed packet in decoding order, and how many are not."""
    import av

    pts, durations, keys, hidden = array("q"), array("q"), bytearray(), 0
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue  # the end of the stream, or a chunk that repeats the picture before it
            if packet.is_discard:
                hidden += 1  # decoded for those after it, but before the edit list's start
                continue
            pts.append(NO_TIME if packet.pts is None else packet.pts)
            durations.append(packet.duration or 0)
            keys.append(packet.is_keyframe)
    except (av.FFmpegError, OSError):
        pass  # what was read counts; missing_seconds says whether too much is not there
    return np.array(pts, np.int64), np.array(durations, np.int64), np.array(keys, np.uint8), hidden
