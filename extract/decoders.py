"""Decoders: the picture of frame k of a timeline, by decord or by PyAV.

Both decode forward in one thread, each needed picture once, and seek only over SEEK_AHEAD frames or more. Both
take about the same CPU time (4.3 s for 2,400 of 4,500 pictures of 640x360 H.264, resizing included). Of decord
two more things were measured. Its own seeking (`get_batch`, `skip_frames`) returns wrong pictures where groups
of pictures overlap, so it is walked from group to group. And while it waits for a picture it queues packets
without limit and decodes them all: up to 1.3 GB ahead in 150 s of 640x360. So it only gets files that would fit
into DECORD_BYTES as a whole; PyAV holds a few pictures, whatever the length.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from .probe import MAX_HELD_S, Timeline, VideoError, opened, pictures, rgb

SEEK_AHEAD = 256  # frames worth decoding rather than seeking: a seek costs about as much as 50
DECORD_BYTES = 1 << 30  # of all pictures of a file as RGB
DECORD_CODECS = {"h264", "hevc", "vp9", "mjpeg"}  # one packet, one picture; others may hide or repeat some
SAME_PICTURE = 8.0  # mean difference in levels; measured: 0 for files of 8 bits, 3 for 10 bits


class DecoderFailed(Exception):
    """decord cannot go on with this file."""


class DecordFrames:
    """Pictures by decord. Raises DecoderFailed where decord disagrees with the timeline or stops."""

    name = "decord"
    _reader: Any

    def __init__(self, path: Path, timeline: Timeline) -> None:
        if timeline.codec not in DECORD_CODECS or not timeline.whole or timeline.orientation.mirrored:
            raise DecoderFailed(f"decord is not right for this form of {timeline.codec}")
        if len(timeline.pts) * timeline.first.nbytes > DECORD_BYTES:
            raise DecoderFailed("decord could decode it all ahead, into more memory than it may take")
        try:
            import decord
        except (ImportError, OSError) as error:
            raise DecoderFailed(f"decord is not installed ({error})") from error
        decord.logging.set_level(decord.logging.QUIET)
        # ValueError, AssertionError: from its Python side; StopIteration: it ran out of frames
        self._failures = (
            decord.DECORDError, RuntimeError, IndexError, ValueError, AssertionError, StopIteration,
        )  # fmt: skip
        self._path, self._timeline, self._context = path, timeline, decord.cpu(0)
        self._reader_class = decord.VideoReader
        self._restart()
        try:
            self._check()
        except self._failures as error:
            raise DecoderFailed(f"decord cannot index it ({type(error).__name__})") from error

    def picture(self, frame: int) -> np.ndarray:
        """uint8 [H, W, 3], upright."""
        try:
            self._go_to(frame)
            picture: np.ndarray = self._reader.next().asnumpy()
            self._at += 1
        except self._failures as error:
            raise DecoderFailed(f"decord stopped at frame {frame} ({type(error).__name__})") from error
        if picture.shape != self._timeline.first.shape:
            raise DecoderFailed(f"decord returned a picture of shape {picture.shape}")
        return picture

    def close(self) -> None:
        self._reader = None

    def _restart(self) -> None:
        try:
            self._reader = self._reader_class(str(self._path), ctx=self._context, num_threads=1)
            self._keys = self._reader.get_key_indices()
        except self._failures as error:
            raise DecoderFailed(f"decord cannot open it ({type(error).__name__})") from error
        self._at = 0

    def _check(self) -> None:
        """Trust decord only where its frame count, times and first picture are the timeline's."""
        times_s = self._timeline.times_s
        if len(self._reader) != len(times_s):
            raise DecoderFailed(f"decord counts {len(self._reader)} frames of {len(times_s)}")
        theirs = self._reader.get_frame_timestamp(np.arange(len(times_s)))[:, 0].astype(np.float64)
        tolerance = 1e-4 + 2.5e-7 * times_s  # theirs are float32
        if not (np.abs(theirs - theirs[0] - times_s) <= tolerance).all():
            raise DecoderFailed("decord gives the frames other times")
        difference = np.abs(self.picture(0).astype(np.int16) - self._timeline.first)
        if difference.mean() > SAME_PICTURE:
            raise DecoderFailed("decord decodes another first picture")

    def _go_to(self, frame: int) -> None:
        """Make `frame` the next picture of the reader."""
        starts = self._timeline.keyframes
        key = int(starts[np.searchsorted(starts, frame, "right") - 1]) if len(starts) else 0
        if frame < self._at and not key:
            self._restart()
        elif frame < self._at or key - self._at > SEEK_AHEAD:
            self._reader.seek_accurate(frame)
            self._at = frame
        while self._at < frame:
            # seek_accurate walks within a group of pictures, and seeks beyond; next() steps over the border
            following = bisect_right(self._keys, self._at)
            border = self._keys[following] if following < len(self._keys) else frame + 1
            stop = min(frame, border - 1)
            if stop > self._at:
                self._reader.seek_accurate(stop)
                self._at = stop
            else:
                self._reader.next()
                self._at += 1


class PyAVFrames:
    """Pictures by PyAV. A frame that does not decode shows the one before it, for at most MAX_HELD_S."""

    name = "pyav"
    _shown: Any
    _next: tuple[int, Any] | None

    def __init__(self, path: Path, timeline: Timeline) -> None:
        self._path, self._timeline = path, timeline
        self._resources = ExitStack()
        self._restart(0)

    def picture(self, frame: int) -> np.ndarray:
        """uint8 [H, W, 3], upright. Raises VideoError('decode') where nothing near the frame decodes."""
        starts, times_s = self._timeline.keyframes, self._timeline.times_s
        key = int(starts[np.searchsorted(starts, frame, "right") - 1]) if len(starts) else 0
        if frame < self._at or key - self._at > SEEK_AHEAD:
            self._restart(key)
            if self._at > frame:  # the seek landed too late
                self._restart(0)
        while self._next is not None and self._next[0] <= frame:
            self._step()
        lost_s = float(times_s[frame] - times_s[max(self._at, 0)])
        if self._shown is None or lost_s > MAX_HELD_S:
            raise VideoError(
                "decode",
                f"nothing decodes between {times_s[max(self._at, 0)]:.2f} s and {times_s[frame]:.2f} s of "
                f"{self._timeline.duration_s:.2f} s: the file is damaged",
            )
        height, width, _ = self._timeline.first.shape
        if self._timeline.orientation.transpose:
            height, width = width, height
        # a stream that changes its size keeps the first one
        return self._timeline.orientation.upright(rgb(self._shown, (width, height)))

    def close(self) -> None:
        self._shown = self._next = None
        self._resources.close()

    def _restart(self, key: int) -> None:
        """Decode from a keyframe, or from the start of the file."""
        self._resources.close()
        container, stream = self._resources.enter_context(opened(self._path, self._timeline.stream))
        if key:
            container.seek(int(self._timeline.pts[key]), stream=stream, backward=True)
        self._decoded = self._numbered(pictures(container, stream))
        self._at, self._shown = -1, None
        self._next = next(self._decoded, None)
        self._step()

    def _step(self) -> None:
        if self._next is not None:
            self._at, self._shown = self._next
            self._next = next(self._decoded, None)

    def _numbered(self, decoded: Iterator[Any]) -> Iterator[tuple[int, Any]]:
        """(index in the timeline, frame), the index increasing."""
        pts, newest = self._timeline.pts, -1
        for picture in decoded:
            if self._timeline.by_order or picture.pts is None:
                index = newest + 1
            else:
                index = int(np.searchsorted(pts, picture.pts, "right")) - 1
            if newest < index < len(pts):
                newest = index
                yield index, picture
