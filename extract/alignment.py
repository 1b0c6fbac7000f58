"""Rows of foreign features as clips of a video: how many there should be, which are kept, and when each one is.

T rows; row i covers [i s, min(i s + c, D)] of a video of D seconds, for clips of c every s seconds (s = c where
clips do not overlap).

Extractors round the end of a video in their own ways, so a row more or less than the duration says is ordinary. A
row that begins at or after the end shows nothing of the video and is cut; where a row lacks, the clips end early.
More than the tolerance is no rounding but another clip length, or another video, and refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .clips import MAX_CLIPS

GRID_TOLERANCE_S = 0.05  # clips that a file dates itself are on the stated grid when they start within this of it


@dataclass(frozen=True)
class Grid:
    """How a video is cut."""

    clip_seconds: float
    stride_seconds: float
    """From the start of a clip to that of the next."""

    def __post_init__(self) -> None:
        for what, seconds in (("clips", self.clip_seconds), ("a stride", self.stride_seconds)):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"expected {what} of a length > 0 s, got {seconds}")
        if self.stride_seconds > self.clip_seconds:
            raise ValueError(
                f"expected a stride of at most a clip ({self.clip_seconds:g} s), got {self.stride_seconds:g} s, which "
                "would leave parts of the video to no clip"
            )

    def expected_rows(self, duration_s: float) -> tuple[int, int]:
        """The fewest and the most rows that a video has.

        Most: every clip that begins before the end, ceil(D / s); what is left of a thousandth of a stride makes none.
        Fewest: the same, but where clips overlap an extractor may stop with the last whole one.
        """
        if duration_s / self.stride_seconds > MAX_CLIPS:
            raise ValueError(f"expected at most {MAX_CLIPS} clips, got {duration_s:g} s by {self.stride_seconds:g} s")
        most = max(1, math.ceil(duration_s / self.stride_seconds - 1e-3))
        if self.stride_seconds == self.clip_seconds:
            return most, most
        whole = math.floor((duration_s - self.clip_seconds) / self.stride_seconds + 1e-3) + 1
        return min(most, max(1, whole)), most

    def times(self, rows: int, duration_s: float | None) -> np.ndarray:
        """Start and end of every row in seconds, float64 [T, 2]."""
        starts = np.arange(rows) * self.stride_seconds
        ends = starts + self.clip_seconds
        return np.stack([starts, ends if duration_s is None else np.minimum(ends, duration_s)], axis=1)

    def check_times(self, times_s: np.ndarray, rows: int) -> np.ndarray:
        """The times that a file gives its first `rows` rows. Raises ValueError where they are not on the grid."""
        times = np.asarray(times_s)
        if times.ndim != 2 or times.shape[1] != 2 or len(times) < rows or not np.issubdtype(times.dtype, np.number):
            raise ValueError(f"expected times_s of {rows} rows as [{rows}, 2], got {times.dtype} {times.shape}")
        times = times[:rows].astype(np.float64)
        if not np.allclose(times[:, 0], self.times(rows, None)[:, 0], rtol=0, atol=GRID_TOLERANCE_S):
            step = float(np.median(np.diff(times[:, 0]))) if rows > 1 else float(times[0, 0])
            raise ValueError(
                f"expected clips every {self.stride_seconds:g} s, the file itself says every {step:g} s; "
                "give the length of its clips with --clip-seconds"
            )
        return times


@dataclass(frozen=True)
class Fit:
    """What becomes of the rows of one item."""

    given: tuple[int, ...]
    """Rows of each stream."""
    expected: tuple[int, int] | None
    """Fewest and most by the duration; None where that is not known."""
    kept: int

    @property
    def off(self) -> int:
        """Rows more (> 0) or less (< 0) than the duration says, in the shortest stream."""
        fewest, most = self.expected or (min(self.given),) * 2
        return max(0, min(self.given) - most) + min(0, min(self.given) - fewest)

    @property
    def spread(self) -> int:
        """Rows that the longest stream has more than the shortest."""
        return max(self.given) - min(self.given)


def fit_rows(given: Sequence[int], duration_s: float | None, grid: Grid, tolerance: int) -> Fit:
    """Cut streams to the shortest of them and to the video. Raises ValueError where more than `tolerance` is off."""
    expected = None if duration_s is None else grid.expected_rows(duration_s)
    fit = Fit(tuple(given), expected, min(given) if expected is None else min(*given, expected[1]))
    if fit.spread > tolerance:
        raise ValueError(
            f"its streams have {' and '.join(map(str, given))} rows, more than {tolerance} apart; they are of other "
            f"clip lengths or videos (--row-tolerance {fit.spread} cuts them to the shortest)"
        )
    if expected is not None and abs(fit.off) > tolerance:
        assert duration_s is not None
        fewest, most = expected
        wanted = str(most) if fewest == most else f"{fewest} to {most}"
        raise ValueError(
            f"it has {min(given)} rows, but {duration_s:g} s by {grid.stride_seconds:g} s are {wanted}, more than "
            f"{tolerance} apart; check --clip-seconds (--row-tolerance {abs(fit.off)} accepts it)"
        )
    return fit
