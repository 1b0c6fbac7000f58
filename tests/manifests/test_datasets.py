"""The table of datasets, own data under any other name, and the summary."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from rdmf.manifests import DATASETS, PROTOCOLS, dataset
from rdmf.manifests.schema import Manifest, Moment, Query, Video
from rdmf.manifests.summary import SplitSummary, summary


def test_every_dataset_stands_under_its_name_with_a_known_protocol() -> None:
    assert all(name == known.name and known.protocol in PROTOCOLS for name, known in DATASETS.items())
    assert {n: d.clip_seconds for n, d in DATASETS.items() if d.clip_seconds != 2} == {
        "charades": 1,
        "demo": 1,
    }


@pytest.mark.parametrize("name", [*DATASETS, "my videos"])
def test_readers_travel_to_other_processes(name: str, tmp_path: Path) -> None:
    found = pickle.loads(pickle.dumps(dataset(name, clip_seconds=3.0)))
    with pytest.raises(ValueError, match="expected a folder with"):
        found.read(tmp_path)


def test_an_unknown_name_is_own_data_in_the_common_form(tmp_path: Path) -> None:
    record = {"vid": "v", "query": "x", "relevant_clip_ids": [1], "saliency_scores": [[4]]}
    (tmp_path / "train.jsonl").write_text(json.dumps(record))
    manifest = dataset("kitchens").read(tmp_path)
    assert (manifest.dataset, manifest.clip_seconds, len(manifest.queries)) == ("kitchens", 2.0, 1)


def test_another_clip_length_leaves_the_grid_of_the_annotations_alone(tmp_path: Path) -> None:
    record = {"vid": "v", "query": "x", "relevant_clip_ids": [1], "saliency_scores": [[4]]}
    (tmp_path / "train.jsonl").write_text(json.dumps(record))
    found = dataset("kitchens", clip_seconds=0.5)
    manifest = found.read(tmp_path)
    assert found.clip_seconds == manifest.clip_seconds == 0.5
    saliency = manifest.queries[0].saliency
    assert saliency is not None
    assert saliency.clip_seconds == 2.0


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\nb"])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="dataset name"):
        dataset(name)


@pytest.mark.parametrize("clip_seconds", [0, -1, float("nan"), float("inf")])
def test_a_clip_length_that_is_none_is_refused(clip_seconds: float) -> None:
    with pytest.raises(ValueError, match="clip_seconds above 0"):
        dataset("charades", clip_seconds)


def test_the_summary_counts_each_video_once() -> None:
    videos = {"a": Video("a", 1800), "b": Video("b"), "unasked": Video("unasked", 9000)}
    queries = (
        Query("1", "a", "x", "train", (Moment(0, 1), Moment(2, 3))),
        Query("2", "a", "y", "train", (Moment(0, 1),)),
        Query("3", "b", "z", "train"),
        Query("4", "b", "z", "val"),
    )
    assert summary(Manifest("d", 2.0, videos, queries)) == [
        SplitSummary("train", queries=3, videos=2, windows=3, unlabelled=1, hours=0.5, unknown_durations=1),
        SplitSummary("val", queries=1, videos=1, windows=0, unlabelled=1, hours=0.0, unknown_durations=1),
    ]
