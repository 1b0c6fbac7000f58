"""Clips of a video: their bounds, the times of their frames, and the square pictures an encoder takes.

T clips; clip i covers [i c, min((i + 1) c, D)] of a video of D seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .frames import VideoReader

MAX_CLIPS = 10_000_000

PREPROCESSING = {
    "frame": "on display at each time",
    "orientation": "upright",
    "pixels": "square (sample aspect ratio applied)",
    "crop": "centre square",
    "resize": "bilinear, antialias, uint8",
}
"""What read_clips does to a frame, for the spec of a feature store: made otherwise, features differ."""


def clip_bounds(duration_s: float, clip_seconds: float) -> np.ndarray:
    """Start and end of every clip in seconds, float64 [T, 2].

    T = max(1, ceil(D / c - 1e-3)): a rest shorter than a thousandth of a clip makes no clip of its own, any
    other makes a short last clip. Raises ValueError unless both are finite and > 0.
    """
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise ValueError(f"expected a video of a duration > 0 s, got {duration_s}")
    if not (math.isfinite(clip_seconds) and clip_seconds > 0):
        raise ValueError(f"expected clips of a length > 0 s, got {clip_seconds}")
    if duration_s / clip_seconds > MAX_CLIPS:
        raise ValueError(f"expected at most {MAX_CLIPS} clips, got {duration_s:g} s by {clip_seconds:g} s")
    count = max(1, math.ceil(duration_s / clip_seconds - 1e-3))
    edges = np.arange(count + 1) * clip_seconds
    return np.stack([edges[:-1], np.minimum(edges[1:], duration_s)], axis=1)


def clip_frame_times(bounds: np.ndarray, frames: int, span_s: float, duration_s: float) -> np.ndarray:
    """Times of the frames of every clip, float64 [T, frames].

    The span is cut into `frames` equal parts, centred on the clip's centre, and each part gives its middle:
    32 frames over 2.13 s are one frame every 1/15 s, whatever the frame rate. Times outside the video are
    clamped to it, so that the first and last frame repeat. Raises ValueError for fewer than 1 frame or a
    negative span.
    """
    if frames < 1 or not (math.isfinite(span_s) and span_s >= 0):
        raise ValueError(f"expected at least 1 frame over a span >= 0 s, got {frames} frames over {span_s} s")
    offsets = ((np.arange(frames) + 0.5) / frames - 0.5) * span_s
    return np.clip(bounds.mean(axis=1)[:, None] + offsets, 0.0, duration_s)


def centre_square(picture: np.ndarray, size: int, pixel_aspect: float = 1.0) -> np.ndarray:
    """uint8 [H, W, 3] -> [size, size, 3]: the centre square as displayed, bilinear with antialias.

    The same as resizing the short side and cropping the centre, within half a pixel of the source; cropping
    first bounds the memory for very long pictures and costs less for all others.
    """
    import torch
    from torch.nn.functional import interpolate

    height, width, _ = picture.shape
    side = min(height, width * pixel_aspect)
    rows = min(height, max(1, round(side)))
    columns = min(width, max(1, round(side / pixel_aspect)))
    top, left = (height - rows) // 2, (width - columns) // 2
    square = np.array(picture[top : top + rows, left : left + columns])  # a copy: torch wants it writable
    pixels = torch.from_numpy(square).permute(2, 0, 1)[None]  # [1, 3, rows, columns], channels last in memory
    resized = interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def read_clips(reader: VideoReader, times_s: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The clips of [T, frames] times, one by one: uint8 [frames, size, size, 3].

    Every frame that any clip shows is decoded once, in order, and kept (resized) only until the last clip
    that shows it. Raises VideoError('decode') when it comes to a part of the video that does not decode.
    """
    if size < 1:
        raise ValueError(f"expected pictures of at least 1 pixel, got {size}")
    wanted = reader.frame_indices(times_s)  # [T, frames]
    if wanted.ndim != 2 or not wanted.size:
        raise ValueError(f"expected frame times [clips, frames], got shape {wanted.shape}")
    needed_from = np.minimum.accumulate(wanted.min(axis=1)[::-1])[::-1]  # by this clip or a later one
    decoded = reader.frames(np.unique(wanted))
    window: dict[int, np.ndarray] = {}
    newest = -1
    for clip, oldest in zip(wanted, needed_from, strict=True):
        while newest < clip.max():
            newest, picture = next(decoded)
            window[newest] = centre_square(picture, size, reader.info.pixel_aspect)
        window = {index: picture for index, picture in window.items() if index >= oldest}
        yield np.stack([window[index] for index in clip.tolist()])
