"""Charades-STA: both forms, lengths from the CSVs, windows that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdmf.manifests.charades import read_charades
from rdmf.manifests.schema import AnnotationError, Manifest, Moment

HEADER = "id,script,length\n"


def put(folder: Path, lines: str, lengths: str | None = None) -> None:
    (folder / "charades_sta_test.txt").write_text(lines, encoding="utf-8")
    if lengths is not None:
        (folder / "Charades_v1_test.csv").write_text(HEADER + lengths, encoding="utf-8")


def test_lines_become_queries_and_what_does_not_fit_is_reported(tmp_path: Path) -> None:
    lines = ["A 0.0 5.5##he sits ## down.", "A 8 14##x", "A 20 30##y", "A 9 4##z", "B 1 2##w"]
    put(tmp_path, "\r\n".join(lines), 'A,"a, ""quoted""\nscript",10.5\nB,,30\n')
    manifest = read_charades(tmp_path)
    assert [q.qid for q in manifest.queries] == [f"charades-test-{i:05d}" for i in range(1, 6)]
    assert manifest.queries[0].text == "he sits ## down."
    assert [q.windows for q in manifest.queries] == [
        (Moment(0, 5.5),),
        (Moment(8, 10.5),),
        (),
        (),
        (Moment(1, 2),),
    ]
    assert [(f.source, f.action) for f in manifest.findings] == [
        ("charades_sta_test.txt:2", "clipped"),
        ("charades_sta_test.txt:3", "dropped window"),
        ("charades_sta_test.txt:4", "dropped window"),
    ]


@pytest.mark.parametrize("lengths", [None, "B,,30\n"])
def test_unknown_lengths_are_reported_and_windows_kept(lengths: str | None, tmp_path: Path) -> None:
    put(tmp_path, "A 8 14##x\nA 1 2##y\n", lengths)
    manifest = read_charades(tmp_path)
    assert manifest.videos["A"].duration_s is None
    assert manifest.queries[0].windows == (Moment(8, 14),)
    (finding,) = manifest.findings
    assert finding.action == "no duration"
    assert "Charades_v1_test.csv" in finding.detail
    assert "1 videos (A)" in finding.detail


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("A 1 2", "'VID start end##sentence'"),
        ("A 1##x", "'VID start end##sentence'"),
        ("A one 2##x", "seconds as a number"),
        ("A nan 2##x", "seconds as a number"),
        ("A 1 inf##x", "seconds as a number"),
        ("A 1 2##", "a sentence"),
        ("../A 1 2##x", "plain file name"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    put(tmp_path, f"A 1 2##fine\n{line}\n", "A,,9\n")
    with pytest.raises(AnnotationError, match=f"charades_sta_test.txt:2: expected .*{message}"):
        read_charades(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [("A,,zero", "a number"), ("A,,0", "above 0"), ("A,,-3", "a number"), ("A", "a number")],
)
def test_a_bad_length_is_named(row: str, message: str, tmp_path: Path) -> None:
    put(tmp_path, "A 1 2##x\n", f"B,,5\n{row}\n")
    with pytest.raises(AnnotationError, match=f"Charades_v1_test.csv:3: expected .*{message}"):
        read_charades(tmp_path)


def test_a_csv_without_lengths_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "A 1 2##x\n")
    (tmp_path / "Charades_v1_test.csv").write_text("id,subject\nA,B\n")
    with pytest.raises(AnnotationError, match=r"Charades_v1_test.csv:1: expected the columns id and length"):
        read_charades(tmp_path)


def test_the_common_form_is_read_where_there_is_no_raw_one(tmp_path: Path) -> None:
    record = {"qid": 3, "vid": "A", "query": "x", "duration": 9, "relevant_windows": [[1, 2]]}
    (tmp_path / "charades_test_release.jsonl").write_text(json.dumps(record))
    assert [q.qid for q in read_charades(tmp_path).queries] == ["3"]
    put(tmp_path, "A 1 2##x\n", "A,,9\n")
    assert [q.qid for q in read_charades(tmp_path).queries] == ["charades-test-00001"]


def test_a_folder_with_neither_form_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"charades_sta_train.txt.*charades_\*.jsonl.*none.*put them there"):
        read_charades(tmp_path)


@pytest.mark.shared
def test_every_published_line_is_a_query(shared: Path) -> None:
    manifest = read_charades(shared / "annotations" / "charades_sta")
    assert {s: len(manifest.split(s)) for s in manifest.splits} == {"train": 12408, "test": 3720}
    dropped = [f.source for f in manifest.findings if f.action == "dropped window"]
    assert dropped == [f"charades_sta_train.txt:{line}" for line in (8252, 8440, 9623, 9624)]
    assert all(video.duration_s for video in manifest.videos.values())
    assert manifest.clip_seconds == 1.0


@pytest.mark.shared
def test_both_forms_agree_on_every_sentence_and_window(shared: Path) -> None:
    def content(manifest: Manifest, split: str) -> list[tuple]:
        return sorted(
            (q.vid, " ".join(q.text.split()), round(q.windows[0].start_s, 2), round(q.windows[0].end_s, 2))
            for q in manifest.split(split)
            if q.windows
        )

    raw = read_charades(shared / "annotations" / "charades_sta")
    common = read_charades(shared / "annotations" / "jsonl")
    for split in ("train", "test"):
        assert content(raw, split) == content(common, split)
