"""The common form: files and splits, ids, windows, saliency; own data and the published files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdmf.manifests import DATASETS
from rdmf.manifests.jsonl import read_jsonl, split_files, split_of
from rdmf.manifests.schema import AnnotationError, Moment, Saliency


def put(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_own_data_needs_only_video_query_and_windows(tmp_path: Path) -> None:
    path = put(
        tmp_path / "train.jsonl",
        {"vid": "kitchen", "query": " she opens \n the fridge ", "relevant_windows": [[3.5, 9], [20, 21]]},
        {"vid": "kitchen", "query": "unlabelled"},
        {"vid": 7, "query": "null is unlabelled too", "relevant_windows": None, "kind": "scene"},
    )
    manifest = read_jsonl(path.parent, "mine")
    assert (manifest.dataset, manifest.clip_seconds, manifest.splits) == ("mine", 2.0, ("train",))
    assert {vid: v.duration_s for vid, v in manifest.videos.items()} == {"kitchen": None, "7": None}
    first, second, third = manifest.queries
    assert first.text == "she opens the fridge"
    assert first.windows == (Moment(3.5, 9.0), Moment(20.0, 21.0))
    assert [q.qid for q in manifest.queries] == ["train-00001", "train-00002", "train-00003"]
    assert second.windows == third.windows == ()
    assert (second.kind, third.kind) == (None, "scene")
    assert manifest.findings == ()


def test_a_length_said_once_fits_all_windows_of_that_video(tmp_path: Path) -> None:
    put(
        tmp_path / "train.jsonl",
        {"vid": "v", "query": "before the length is known", "relevant_windows": [[5, 12]]},
        {"vid": "v", "query": "says it", "duration": 10, "relevant_windows": [[11, 12], [4, 3], [-1, 2]]},
        {"vid": "v", "query": "contradicts it", "duration": 11},
    )
    manifest = read_jsonl(tmp_path)
    assert manifest.videos["v"].duration_s == 10
    assert [q.windows for q in manifest.queries] == [(Moment(5, 10),), (Moment(0, 2),), ()]
    assert [(f.source, f.action) for f in manifest.findings] == [
        ("train.jsonl:3", "changed duration"),
        ("train.jsonl:1", "clipped"),
        ("train.jsonl:2", "dropped window"),
        ("train.jsonl:2", "clipped"),
        ("train.jsonl:2", "dropped window"),
    ]


def test_a_repeated_id_is_renamed_by_split_and_line_and_reported(tmp_path: Path) -> None:
    put(
        tmp_path / "train.jsonl",
        *({"qid": qid, "vid": "v", "query": "x"} for qid in (7, 8, "7", "7-train-3")),
    )
    put(tmp_path / "val.jsonl", {"qid": 8, "vid": "v", "query": "x"}, {"vid": "v", "query": "x"})
    manifest = read_jsonl(tmp_path)
    assert [q.qid for q in manifest.queries] == [
        "7",
        "8",
        "7-train-3",
        "7-train-3-train-4",
        "8-val-1",
        "val-00002",
    ]
    assert [(f.source, f.qid, f.action) for f in manifest.findings] == [
        ("train.jsonl:3", "7-train-3", "renamed query"),
        ("train.jsonl:4", "7-train-3-train-4", "renamed query"),
        ("val.jsonl:1", "8-val-1", "renamed query"),
    ]


def test_scores_are_on_the_readers_grid_unless_the_record_says_another(tmp_path: Path) -> None:
    scored = {"vid": "v", "query": "x", "relevant_clip_ids": [3, 1], "saliency_scores": [[4, 0], [2.5, 1]]}
    plain = {"vid": "v", "query": "x", "relevant_clip_ids": [2], "saliency_scores": [3], "clip_seconds": 5}
    empty = {"vid": "v", "query": "x", "relevant_clip_ids": [], "saliency_scores": []}
    put(tmp_path / "train.jsonl", scored, plain, empty)
    saliency = [q.saliency for q in read_jsonl(tmp_path, clip_seconds=1.0).queries]
    assert saliency == [
        Saliency((3, 1), ((4.0, 0.0), (2.5, 1.0)), clip_seconds=1.0),
        Saliency((2,), ((3.0,),), clip_seconds=5.0),
        None,
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("tacos_val_release.jsonl", "val"),
        ("my-data.test.jsonl", "test"),
        ("constrain.jsonl", None),
        ("validation.jsonl", None),
        ("latest_news.jsonl", None),
    ],
)
def test_the_split_is_a_word_of_the_file_name(name: str, split: str | None) -> None:
    assert split_of(Path(name)) == split


def test_files_named_like_the_dataset_come_before_plain_ones_and_others_are_left_alone(
    tmp_path: Path,
) -> None:
    for name in ("train", "val", "mine_test_2", "mine_v2_train", "mines_val", "preds"):
        put(tmp_path / f"{name}.jsonl", {"vid": name, "query": "x"})
    assert {s: p.stem for s, p in split_files(tmp_path, "mine").items()} == {
        "train": "mine_v2_train",
        "test": "mine_test_2",
    }
    assert {s: p.stem for s, p in split_files(tmp_path, "another").items()} == {
        "train": "train",
        "val": "val",
    }


def test_two_files_for_one_split_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("train.jsonl", "train_old.jsonl"):
        put(tmp_path / name, {"vid": "v", "query": "x"})
    with pytest.raises(AnnotationError, match=r"one train file of own, got train.jsonl, train_old.jsonl; move"):
        read_jsonl(tmp_path)


def test_a_folder_without_files_says_what_to_put_there(tmp_path: Path) -> None:
    wanted = r"expected a folder with train.jsonl, .*mine_train.jsonl.*got none of them; put them there"
    with pytest.raises(AnnotationError, match=wanted):
        read_jsonl(tmp_path, "mine")
    with pytest.raises(AnnotationError, match="got no such folder"):
        read_jsonl(tmp_path / "absent", "mine")


def test_a_single_file_is_one_split(tmp_path: Path) -> None:
    record = {"vid": "v", "query": "x"}
    assert read_jsonl(put(tmp_path / "some_val.jsonl", record)).splits == ("val",)
    assert read_jsonl(put(tmp_path / "some.jsonl", record)).splits == ("all",)


PUBLISHED = {
    "charades": {"train": (12404, 5336), "test": (3720, 1334)},
    "tacos": {"train": (9790, 75), "val": (4436, 27), "test": (4001, 25)},
    "tvsum": {"train": (40, 40), "val": (10, 10)},
    "youtube_highlights": {"train": (233, 233), "val": (152, 152)},
}


@pytest.mark.shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_give_their_published_counts(name: str, shared: Path) -> None:
    manifest = DATASETS[name].read(shared / "annotations" / "jsonl")
    counts = {
        split: (len(manifest.split(split)), len({q.vid for q in manifest.split(split)})) for split in manifest.splits
    }
    assert counts == PUBLISHED[name]
    assert {f.action for f in manifest.findings} <= {"changed duration"}  # ids and windows as published
    assert all(video.duration_s for video in manifest.videos.values())
