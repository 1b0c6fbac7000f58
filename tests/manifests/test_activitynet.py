"""ActivityNet Captions: three files, three splits, windows that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdmf.manifests.activitynet import read_activitynet
from rdmf.manifests.schema import AnnotationError, Moment

GOOD = {"duration": 10, "timestamps": [[0, 4], [5, 10.5]], "sentences": [" He sits.", " Then\nhe stands."]}


def put(folder: Path, **files: object) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_files_are_splits_and_ids_name_split_video_and_place(tmp_path: Path) -> None:
    manifest = read_activitynet(put(tmp_path, train={"v_a": GOOD}, val_1={"v_b": GOOD}, val_2={"v_b": GOOD}))
    assert manifest.splits == ("train", "val", "test")
    assert [q.qid for q in manifest.queries][2:] == [
        "activitynet-val-v_b-0",
        "activitynet-val-v_b-1",
        "activitynet-test-v_b-0",
        "activitynet-test-v_b-1",
    ]
    assert manifest.queries[1].text == "Then he stands."
    assert manifest.queries[1].windows == (Moment(5, 10),)
    assert (manifest.findings[0].source, manifest.findings[0].action) == ("train.json:v_a", "clipped")


def test_one_file_can_be_read_alone(tmp_path: Path) -> None:
    put(tmp_path, train={"v_a": GOOD}, val_1={"v_b": GOOD})
    assert read_activitynet(tmp_path / "val_1.json").splits == ("val",)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "an object with duration"),
        ({"duration": 1, "timestamps": []}, "an object with duration"),
        (GOOD | {"sentences": ["one"]}, "one sentence for each window, got 1 for 2"),
        (GOOD | {"duration": True}, "a duration"),
        (GOOD | {"duration": 0}, "a duration"),
        (GOOD | {"timestamps": [[0], [1, 2]]}, "a window as"),
        (GOOD | {"timestamps": [["0", 1], [1, 2]]}, "seconds of a window"),
        (GOOD | {"sentences": ["", "x"]}, "a sentence"),
        (GOOD | {"sentences": [None, "x"]}, "a query as text"),
    ],
)
def test_a_bad_entry_is_named_by_video(entry: object, message: str, tmp_path: Path) -> None:
    put(tmp_path, train={"v_a": GOOD, "v_bad": entry})
    with pytest.raises(AnnotationError, match=f"^train.json:v_bad: expected .*{message}"):
        read_activitynet(tmp_path)


@pytest.mark.parametrize("document", [[], {}, 5])
def test_a_document_without_videos_is_refused(document: object, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"train.json: expected an object"):
        read_activitynet(put(tmp_path, train=document))


def test_a_video_given_twice_is_refused_not_overwritten(tmp_path: Path) -> None:
    good = json.dumps(GOOD)
    (tmp_path / "train.json").write_text(f'{{"v_a": {good}, "v_a": {good}}}')
    with pytest.raises(AnnotationError, match="'v_a' twice"):
        read_activitynet(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"train.json, val_1.json, val_2.json, got none of them; put them"):
        read_activitynet(tmp_path)


@pytest.mark.shared
def test_every_published_sentence_is_a_query(shared: Path) -> None:
    manifest = read_activitynet(shared / "annotations" / "activitynet_captions")
    counts = {split: len(manifest.split(split)) for split in manifest.splits}
    assert counts == {"train": 37421, "val": 17505, "test": 17031}
    vids = {split: {q.vid for q in manifest.split(split)} for split in manifest.splits}
    assert {split: len(v) for split, v in vids.items()} == {"train": 10009, "val": 4917, "test": 4885}
    assert vids["test"] < vids["val"]
    assert not vids["train"] & vids["val"]
    without = [q for q in manifest.queries if not q.windows]
    dropped = {f.qid for f in manifest.findings if f.action == "dropped window"}
    assert {q.qid for q in without} == dropped
    assert len(dropped) == 4
