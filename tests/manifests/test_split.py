"""Carving a validation split: by video, reproducible, and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.manifests.charades import read_charades
from rdmf.manifests.schema import Manifest, Query, Video
from rdmf.manifests.split import carve_validation


def make(videos: int, queries_each: int = 3) -> Manifest:
    vids = [f"video{i}" for i in range(videos)]
    queries = [Query(f"{v}-{i}", v, "x", "train") for v in vids for i in range(queries_each)]
    queries.append(Query("t", vids[0], "x", "test"))
    return Manifest("d", 2.0, {v: Video(v) for v in vids}, tuple(queries))


def vids(manifest: Manifest, split: str) -> set[str]:
    return {query.vid for query in manifest.split(split)}


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 5))
def test_whole_videos_move_and_nothing_else_changes(videos: int, fraction: float, seed: int) -> None:
    manifest = make(videos)
    carved = carve_validation(manifest, fraction, seed)
    assert not vids(carved, "train") & vids(carved, "val")
    assert len(vids(carved, "val")) == min(max(round(fraction * videos), 1), videos - 1)
    assert [(q.qid, q.vid) for q in carved.queries] == [(q.qid, q.vid) for q in manifest.queries]
    assert carved.split("test") == manifest.split("test")
    assert carved.videos == manifest.videos
    assert [f.action for f in carved.findings] == ["carved split"]


def test_the_choice_depends_on_ids_and_seed_alone() -> None:
    manifest = make(20)
    backwards = replace(manifest, queries=manifest.queries[::-1])
    assert vids(carve_validation(manifest), "val") == vids(carve_validation(backwards), "val")
    choices = {frozenset(vids(carve_validation(manifest, seed=seed), "val")) for seed in range(8)}
    assert len(choices) > 4


def test_the_choice_is_that_of_the_documented_hash() -> None:
    # printf '0:video%d' 0 to 9 | sha256sum, sorted: 2f02ad7f video5, 45282e94 video7, 526f971e video1
    assert vids(carve_validation(make(10), fraction=0.2), "val") == {"video5", "video7"}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"fraction": 0}, "a fraction between 0 and 1"),
        ({"fraction": 1}, "a fraction between 0 and 1"),
        ({"fraction": float("nan")}, "a fraction between 0 and 1"),
        ({"source": "training"}, "no split 'training'; it has train, test"),
        ({"target": "test"}, "which d has already"),
        ({"source": "test"}, "at least 2 videos in split 'test'"),
    ],
)
def test_a_split_that_cannot_be_carved_is_refused(how: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        carve_validation(make(4), **how)


@pytest.mark.shared
def test_a_tenth_of_charades(shared: Path) -> None:
    carved = carve_validation(read_charades(shared / "annotations" / "charades_sta"))
    assert len(vids(carved, "val")) == 534
    assert len(carved.split("train")) + len(carved.split("val")) == 12408
    assert 0.08 < len(carved.split("val")) / 12408 < 0.12
