"""Clips: bounds, frame times, square pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.extract.clips import centre_square, clip_bounds, clip_frame_times

lengths = st.floats(0.05, 4000, allow_nan=False)


@settings(max_examples=80, deadline=None)
@given(lengths, st.sampled_from([0.5, 1.0, 2.0, 2.13, 8 / 3]))
def test_clips_cover_the_video_without_gaps_and_only_the_last_is_short(duration: float, clip: float) -> None:
    bounds = clip_bounds(duration, clip)
    assert len(bounds) == max(1, math.ceil(duration / clip - 1e-3))
    assert bounds[0, 0] == 0
    assert (bounds[1:, 0] == bounds[:-1, 1]).all()
    assert duration - 1.001e-3 * clip <= bounds[-1, 1] <= duration
    widths = bounds[:, 1] - bounds[:, 0]
    np.testing.assert_allclose(widths[:-1], clip, rtol=1e-9)
    assert 0 < widths[-1] <= clip * (1 + 1e-9)


@pytest.mark.parametrize(
    ("duration", "clip", "ends"),
    [
        (4.0, 2.0, [2, 4]),
        (4.0004, 2.0, [2, 4]),  # a rest below a thousandth of a clip makes no clip
        (3.9999, 2.0, [2, 3.9999]),
        (5.0, 2.0, [2, 4, 5]),
        (0.3, 2.0, [0.3]),
        (0.001, 2.0, [0.001]),  # never no clip at all
    ],
)
def test_the_last_clip_ends_with_the_video(duration: float, clip: float, ends: list[float]) -> None:
    np.testing.assert_allclose(clip_bounds(duration, clip)[:, 1], ends, rtol=1e-12)


@pytest.mark.parametrize(("duration", "clip"), [(0, 1), (-1, 1), (math.nan, 1), (math.inf, 1), (9, 0), (1e9, 1e-6)])
def test_impossible_clips_are_refused(duration: float, clip: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        clip_bounds(duration, clip)


def test_32_frames_over_32_fifteenths_of_a_second_are_a_fifteenth_apart_around_the_centre() -> None:
    bounds = clip_bounds(60.0, 2.0)
    times = clip_frame_times(bounds, 32, 32 / 15, 60.0)
    assert times.shape == (30, 32)
    np.testing.assert_allclose(np.diff(times[3:-3], axis=1), 1 / 15)
    np.testing.assert_allclose(times[3:-3].mean(axis=1), bounds[3:-3].mean(axis=1))


def test_frame_times_are_clamped_into_the_video() -> None:
    times = clip_frame_times(clip_bounds(1.4, 1.0), 32, 2.13, 1.4)
    assert times.min() == 0
    assert times.max() == 1.4
    assert (np.diff(times, axis=1) >= 0).all()
    assert clip_frame_times(np.array([[0.0, 0.5]]), 1, 2.13, 0.5).tolist() == [[0.25]]


@pytest.mark.parametrize(("frames", "span"), [(0, 1.0), (4, -1.0), (4, math.nan)])
def test_impossible_samplings_are_refused(frames: int, span: float) -> None:
    with pytest.raises(ValueError, match="at least 1 frame"):
        clip_frame_times(clip_bounds(4, 2), frames, span, 4)


@pytest.mark.parametrize(("height", "width"), [(48, 80), (80, 48), (36, 36), (24, 64), (200, 100)])
def test_square_is_the_short_side_resized_and_the_centre_cropped(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    rough = torch.from_numpy(rng.integers(0, 256, (1, 3, 6, 8), np.uint8)).float()
    smooth = torch.nn.functional.interpolate(rough, (height, width), mode="bicubic").clamp(0, 255).byte()
    picture = smooth[0].permute(1, 2, 0).numpy()
    size = 24
    scale = size / min(height, width)
    whole = (
        torch.nn.functional.interpolate(
            smooth, (round(height * scale), round(width * scale)), mode="bilinear", antialias=True
        )[0]
        .permute(1, 2, 0)
        .numpy()
    )
    top, left = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
    expected = whole[top : top + size, left : left + size].astype(int)
    got = centre_square(picture, size).astype(int)
    inside = np.s_[1:-1, 1:-1]  # at the border the antialias filter sees the crop's edge
    assert np.abs(got - expected)[inside].max() <= 2


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    np.testing.assert_array_equal(centre_square(picture, 24), picture)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 5), (2, 100_000), (100_000, 1), (31, 33)])
@pytest.mark.parametrize("aspect", [1.0, 0.3, 4.0])
def test_any_shape_becomes_a_square_of_its_colour(shape: tuple[int, int], aspect: float) -> None:
    picture = np.full((*shape, 3), (10, 120, 250), np.uint8)
    square = centre_square(picture, 16, aspect)
    assert square.shape == (16, 16, 3)
    assert (square == (10, 120, 250)).all()


def test_pixels_that_are_not_square_are_squared() -> None:
    # A disc as a camera with pixels twice as wide as high stores it: an ellipse half as wide.
    y, x = np.mgrid[:96, :96]
    ellipse = ((x - 47.5) ** 2 * 4 + (y - 47.5) ** 2 < 30**2).astype(np.uint8) * 255
    square = centre_square(np.repeat(ellipse[:, :, None], 3, axis=2), 96, pixel_aspect=2.0)[..., 0] > 127
    high, wide = square.any(axis=1).sum(), square.any(axis=0).sum()
    assert abs(int(high) - int(wide)) <= 2
    assert abs(int(high) - 60) <= 2
