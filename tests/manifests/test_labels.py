"""Labels for every clip: TVSum's clips of 2 s, YouTube Highlights' ranges of frames, own data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rdmf.manifests import DATASETS
from rdmf.manifests.jsonl import read_jsonl
from rdmf.manifests.labels import Labels
from rdmf.manifests.schema import AnnotationError, Manifest, Saliency


def read(folder: Path, record: dict, **how: Labels) -> Manifest:
    path = folder / "train.jsonl"
    path.write_text(json.dumps({"vid": "v", "query": "x"} | record), encoding="utf-8")
    return read_jsonl(path, **how)


def test_labels_share_the_video_evenly(tmp_path: Path) -> None:
    (query,) = read(tmp_path, {"duration": 10, "label": [[0], [1], [1], [0]]}).queries
    assert query.saliency == Saliency((0, 1, 2, 3), ((0.0,), (1.0,), (1.0,), (0.0,)), 2.5, 0.0, 1.0)


def test_frame_ranges_say_how_much_of_the_video_is_labelled(tmp_path: Path) -> None:
    record = {"duration": 10, "label": [0, 1], "clip": [[0, 100], [50, 150]], "fps": 25}
    saliency = read(tmp_path, record).queries[0].saliency
    assert saliency is not None
    assert saliency.clip_seconds == 3.0  # 150 frames at 25 fps, over two rows


def test_a_duration_that_counts_labelled_clips_is_made_seconds_and_reported(tmp_path: Path) -> None:
    how = Labels(low=1, high=5, clip_seconds=2.0)
    manifest = read(tmp_path, {"duration": 3, "label": [[1, 5], [2, 2], [3, 1]]}, labels=how)
    assert manifest.videos["v"].duration_s == 6.0
    assert [f.action for f in manifest.findings] == ["changed duration"]
    manifest = read(tmp_path, {"duration": 6.4, "label": [[1, 5], [2, 2], [3, 1]]}, labels=how)
    assert manifest.videos["v"].duration_s == 6.4
    assert manifest.findings == ()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"label": [[0], [1]]}, "a duration beside the label"),
        ({"label": [[0], [2]], "duration": 4}, "scores from 0 to 1"),
        ({"label": [[0], [1, 1]], "duration": 4}, "same number"),
        ({"label": [["a"]], "duration": 4}, "rows of numbers"),
        ({"label": "0101", "duration": 4}, "label as a list"),
        ({"label": [[0]], "duration": 4, "clip": [], "fps": 25}, "one .* frame for each label"),
        ({"label": [[0]], "duration": 4, "clip": [5], "fps": 25}, "one .* frame for each label"),
        ({"label": [[0]], "duration": 4, "clip": [[0, 9]], "fps": 0}, "fps as a number"),
    ],
)
def test_labels_that_fit_nothing_are_refused(record: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=rf"train.jsonl:1: expected .*{message}"):
        read(tmp_path, record)


@pytest.mark.shared
def test_tvsum_has_twenty_annotators_of_two_second_clips(shared: Path) -> None:
    manifest = DATASETS["tvsum"].read(shared / "annotations" / "jsonl")
    # Lengths of the videos as their source gives them, rounded to seconds.
    for vid, real_s in {
        "sTEELN-vY30": 149,
        "akI8YFjEmUw": 133,
        "J0nA4VgnoCo": 584,
        "fWutDQy1nnY": 585,
    }.items():
        assert 0 <= real_s - (manifest.videos[vid].duration_s or 0) <= 3
    for query in manifest.queries:
        saliency = query.saliency
        assert saliency is not None
        assert (saliency.annotators, saliency.clip_seconds, saliency.low, saliency.high) == (20, 2.0, 1, 5)
        assert len(saliency.clip_ids) * 2.0 == manifest.videos[query.vid].duration_s


@pytest.mark.shared
def test_youtube_rows_lie_near_the_frames_they_label(shared: Path) -> None:
    folder = shared / "annotations" / "jsonl"
    queries = {query.qid: query for query in DATASETS["youtube_highlights"].read(folder).queries}
    apart: list[float] = []
    for path in folder.glob("youtube_highlight_*.jsonl"):
        for line in path.read_text("utf-8").splitlines():
            raw = json.loads(line)
            saliency = queries[raw["qid"]].saliency
            assert saliency is not None
            np.testing.assert_array_equal(saliency.dense(len(raw["label"])), raw["label"])
            centres = np.mean(raw["clip"], axis=1) / raw["fps"]
            apart += list(abs(centres - (np.arange(len(centres)) + 0.5) * saliency.clip_seconds))
    assert np.median(apart) < 0.55
    assert np.quantile(apart, 0.95) < 0.85
