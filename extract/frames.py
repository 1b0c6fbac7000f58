"""Frames of a video by time: `with open_video(path) as reader: reader.frames_at(times_s)`.

decord decodes where it agrees with the file's own timeline (probe.py), PyAV where decord refuses, differs,
stops or could fill the memory (decoders.py); both give the same pictures. Time 0 is the first displayed
frame, and a frame is on display until the next one. The duration is the end of the last frame, not what the
container claims.

A file that ends before its frames do, or of which more than MAX_HELD_S in a row does not decode, is a
VideoError: features of a part would be taken for features of the whole. Shorter damage shows the picture
before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from .clips import PREPROCESSING, centre_square, clip_bounds, clip_frame_times, read_clips
from .decoders import DecoderFailed, DecordFrames, PyAVFrames
from .probe import MAX_DURATION_S, MAX_HELD_S, MAX_PIXELS, Timeline, VideoError, probe
from .video_files import VIDEO_ENDINGS, find_videos

__all__ = [
    "MAX_DURATION_S",
    "MAX_HELD_S",
    "MAX_PIXELS",
    "PREPROCESSING",
    "VIDEO_ENDINGS",
    "VideoError",
    "VideoInfo",
    "VideoReader",
    "centre_square",
    "clip_bounds",
    "clip_frame_times",
    "find_videos",
    "open_video",
    "read_clips",
]

SAME_TIME_S = 1e-6  # a frame that starts this little after a time counts as on display: times get rounded


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before its frames are read."""

    duration_s: float
    """From the first displayed frame to the end of the last one."""
    frames: int
    fps: float
    """Frames per second on average; the frame rate may vary."""
    width: int
    """In stored pixels of the upright picture."""
    height: int
    rotation: int
    """Degrees clockwise that were applied to make it upright: 0, 90, 180 or 270."""
    decoder: str
    """'decord' or 'pyav'."""
    pixel_aspect: float = 1.0
    """Width over height of a pixel of the upright picture. read_clips squares it, frames_at does not."""


class VideoReader:
    """A context manager; open_video makes one."""

    info: VideoInfo
    frame_times_s: np.ndarray
    """float64 [frames], when each frame is first on display; the first is 0."""

    def __init__(self, path: Path, timeline: Timeline, decoder: DecordFrames | PyAVFrames) -> None:
        self._path, self._timeline = path, timeline
        self._decoder: DecordFrames | PyAVFrames | None = decoder
        self.frame_times_s = timeline.times_s
        height, width, _ = timeline.first.shape
        self.info = VideoInfo(
            duration_s=timeline.duration_s,
            frames=len(timeline.times_s),
            fps=len(timeline.times_s) / timeline.duration_s,
            width=width,
            height=height,
            rotation=timeline.orientation.degrees,
            decoder=decoder.name,
            pixel_aspect=timeline.pixel_aspect,
        )

    def frame_indices(self, times_s: np.ndarray) -> np.ndarray:
        """The frame on display at each time, int64 of the same shape; before the first frame that one, after
        the end the last one. Raises ValueError for times that are not numbers."""
        times_s = np.asarray(times_s, np.float64)
        if np.isnan(times_s).any():
            raise ValueError("expected times in seconds, got NaN")
        found = np.searchsorted(self.frame_times_s, times_s + SAME_TIME_S, side="right") - 1
        return np.maximum(found, 0).astype(np.int64)

    def frames(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(index, uint8 [H, W, 3] upright RGB) of each frame in the order given; increasing is fastest."""
        for index in indices:
            yield int(index), self._picture(int(index))

    def frames_at(self, times_s: np.ndarray) -> np.ndarray:
        """The frame on display at each of [n] times: uint8 [n, H, W, 3] RGB, upright.

        Raises VideoError('decode') where too much of the video does not decode.
        """
        needed, place = np.unique(self.frame_indices(np.ravel(times_s)), return_inverse=True)
        out = np.empty((len(place), *self._timeline.first.shape), np.uint8)
        for k, (_, picture) in enumerate(self.frames(needed)):
            out[place == k] = picture
        return out

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _picture(self, index: int) -> np.ndarray:
        if self._decoder is None:
            raise ValueError("expected an open video, got one that was closed")
        try:
            return self._decoder.picture(index)
        except DecoderFailed:  # only decord raises it; a newer FFmpeg may go on where it stopped
            self._decoder.close()
            self._decoder = PyAVFrames(self._path, self._timeline)
            self.info = replace(self.info, decoder=self._decoder.name)
            return self._decoder.picture(index)


def open_video(path: Path) -> VideoReader:
    """A reader of the file's main video stream. Raises VideoError naming the stage and the reason."""
    path = Path(path).resolve()
    timeline = probe(path)
    decoder: DecordFrames | PyAVFrames
    try:
        decoder = DecordFrames(path, timeline)
    except DecoderFailed:
        decoder = PyAVFrames(path, timeline)
    return VideoReader(path, timeline, decoder)
