"""The normalised form: what exists is valid, and windows always lie inside their video."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video, fit_windows


@pytest.mark.parametrize(("start_s", "end_s"), [(1, 1), (2, 1), (-1, 2), (0, math.inf), (math.nan, 1), (0, math.nan)])
def test_a_moment_that_is_no_window_is_refused(start_s: float, end_s: float) -> None:
    with pytest.raises(ValueError, match="expected a window"):
        Moment(start_s, end_s)


@pytest.mark.parametrize("vid", ["", " a", "a\n", "a/b", "a\\b", "..", ".", "\ud800", "\x00", "x" * 201, "é" * 101])
def test_a_video_id_that_cannot_be_a_file_name_is_refused(vid: str) -> None:
    with pytest.raises(ValueError, match="video id"):
        Video(vid)


@pytest.mark.parametrize("duration_s", [0, -1, math.nan, math.inf])
def test_a_duration_must_be_positive_and_finite(duration_s: float) -> None:
    with pytest.raises(ValueError, match="duration"):
        Video("v", duration_s)


@pytest.mark.parametrize(
    "parts",
    [
        {"clip_ids": (0, 1), "scores": ((1.0,),)},
        {"clip_ids": (0, 0), "scores": ((1.0,), (1.0,))},
        {"clip_ids": (-1,), "scores": ((1.0,),)},
        {"clip_ids": (2**31,), "scores": ((1.0,),)},
        {"clip_ids": (0, 1), "scores": ((1.0,), (1.0, 2.0))},
        {"clip_ids": (0,), "scores": ((),)},
        {"clip_ids": (0,), "scores": ((4.5,),)},
        {"clip_ids": (0,), "scores": ((math.nan,),)},
        {"clip_ids": (0,), "scores": ((math.inf,),), "high": math.inf},
        {"clip_ids": (0,), "scores": ((1.0,),), "clip_seconds": 0},
        {"clip_ids": (0,), "scores": ((1.0,),), "clip_seconds": math.nan},
    ],
)
def test_saliency_that_contradicts_itself_is_refused(parts: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        Saliency(**parts)


def test_dense_saliency_scores_unlisted_clips_low_and_leaves_out_clips_beyond_the_end() -> None:
    saliency = Saliency((1, 5), ((4.0, 3.0), (5.0, 2.0)), low=1, high=5)
    assert saliency.annotators == 2
    np.testing.assert_array_equal(saliency.dense(3), np.array([[1, 1], [4, 3], [1, 1]], np.float32))


@pytest.mark.parametrize("text", ["", "  ", "a \ud800 b"])
def test_a_query_needs_whole_words(text: str) -> None:
    with pytest.raises(ValueError, match="for query 'q'"):
        Query("q", "v", text, "train")


@pytest.mark.parametrize(
    ("videos", "qids", "message"),
    [
        ({"v": Video("v")}, ("a", "a"), "'a' twice"),
        ({}, ("a",), "lacks"),
        ({"v": Video("w")}, (), "under its own id"),
    ],
)
def test_a_manifest_is_consistent(videos: dict, qids: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Manifest("d", 2.0, videos, tuple(Query(qid, "v", "x", "train") for qid in qids))


def test_splits_keep_their_order_and_an_unknown_one_is_named_with_those_there_are() -> None:
    queries = (Query("1", "v", "x", "val"), Query("2", "v", "y", "train"), Query("3", "v", "z", "val"))
    manifest = Manifest("d", 2.0, {"v": Video("v")}, queries)
    assert manifest.splits == ("val", "train")
    assert [q.qid for q in manifest.split("val")] == ["1", "3"]
    with pytest.raises(ValueError, match="no split 'test'; it has val, train"):
        manifest.split("test")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 50)), max_size=6), st.floats(0.5, 120))
def test_fitted_windows_lie_inside_and_every_change_is_reported(pairs: list, duration_s: float) -> None:
    windows = [Moment(start, start + length) for start, length in pairs]
    kept, findings = fit_windows(windows, duration_s, "q", "f:1")
    assert all(0 <= w.start_s < w.end_s <= duration_s for w in kept)
    dropped = [f for f in findings if f.action == "dropped window"]
    clipped = [f for f in findings if f.action == "clipped"]
    assert len(kept) + len(dropped) == len(windows)
    assert len(clipped) == sum(w.start_s < duration_s < w.end_s for w in windows)
    assert fit_windows(kept, duration_s, "q", "f:1") == (kept, [])


def test_measured_durations_count_only_where_none_was_known() -> None:
    videos = {"known": Video("known", 10.0), "new": Video("new")}
    queries = tuple(Query(vid, vid, "x", "train", (Moment(5, 30),)) for vid in videos)
    manifest = Manifest("d", 2.0, videos, queries).with_durations({"known": 99, "new": 20, "other": 1})
    assert {vid: v.duration_s for vid, v in manifest.videos.items()} == {"known": 10.0, "new": 20}
    assert [q.windows for q in manifest.queries] == [(Moment(5, 30),), (Moment(5, 20),)]
    assert [(f.qid, f.action) for f in manifest.findings] == [("new", "clipped")]
