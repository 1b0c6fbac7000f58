"""Parquet manifests: lossless, atomic, and never half believed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.manifests import DATASETS
from rdmf.manifests.files import atomic_file, read_manifest, write_manifest
from rdmf.manifests.schema import Finding, Manifest, Moment, Query, Saliency, Video

ids = st.text(st.characters(categories=("L", "N"), codec="utf-8"), min_size=1, max_size=8)
words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
moments = st.tuples(st.floats(0, 1e6), st.floats(1e-3, 1e3)).map(lambda w: Moment(w[0], w[0] + w[1]))


@st.composite
def saliencies(draw: st.DrawFn) -> Saliency:
    low, high = sorted((draw(st.floats(-10, 10)), draw(st.floats(-10, 10))))
    clips = draw(st.lists(st.integers(0, 2**31 - 1), max_size=4, unique=True))
    annotators = draw(st.integers(1, 3))
    row = st.tuples(*[st.floats(low, high)] * annotators)
    rows = draw(st.lists(row, min_size=len(clips), max_size=len(clips)))
    return Saliency(tuple(clips), tuple(rows), draw(st.floats(0.1, 10)), low, high)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    vids = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    videos = {vid: Video(vid, draw(st.none() | st.floats(1e-3, 1e6))) for vid in vids}
    queries = tuple(
        Query(
            qid,
            draw(st.sampled_from(vids)),
            draw(words),
            draw(st.sampled_from(["train", "val", "test"])),
            tuple(draw(st.lists(moments, max_size=3))),
            draw(st.none() | saliencies()),
            draw(st.none() | st.just("") | words),
        )
        for qid in draw(st.lists(ids, max_size=5, unique=True))
    )
    findings = draw(st.lists(st.builds(Finding, words, ids | st.just(""), words, st.text(max_size=9)), max_size=3))
    return Manifest(draw(words), draw(st.floats(0.1, 10)), videos, queries, tuple(findings))


@pytest.fixture
def manifest() -> Manifest:
    videos = {"a": Video("a", 12.5), "b": Video("b"), "unasked": Video("unasked", 3.25)}
    saliency = Saliency((0, 3), ((0.1, 4.0), (2.0, 0.0)))
    queries = (
        Query("1", "a", "she sits", "train", (Moment(0.1, 2.3), Moment(4, 12.5)), saliency, "action"),
        Query("2", "b", "日本 🎬", "val"),
    )
    return Manifest("mine", 2.0, videos, queries, (Finding("train.jsonl:1", "1", "clipped", "why"),))


@settings(max_examples=60, deadline=None)
@given(some=manifests())
def test_what_is_read_is_what_was_written(some: Manifest, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("round") / "manifest.parquet"
    write_manifest(some, path)
    assert read_manifest(path) == some


def test_the_table_reads_without_rdmf(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(manifest, tmp_path / "m.parquet")
    first, second = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert (first["qid"], first["text"], first["duration_s"], first["kind"]) == (
        "1",
        "she sits",
        12.5,
        "action",
    )
    assert first["windows"] == [{"start_s": 0.1, "end_s": 2.3}, {"start_s": 4.0, "end_s": 12.5}]
    assert first["saliency_scores"] == [[0.1, 4.0], [2.0, 0.0]]
    assert second["duration_s"] is None
    assert second["saliency_clip_ids"] is None
    assert second["windows"] == []


def test_a_folder_named_like_a_partition_adds_no_column(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "seed=3" / "m.parquet"
    write_manifest(manifest, path)
    assert read_manifest(path) == manifest


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(manifest, path)

    def fail_midway() -> None:
        with atomic_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_midway()
    assert read_manifest(path) == manifest
    assert [p.name for p in tmp_path.iterdir()] == ["m.parquet"]


def test_no_damaged_byte_is_ever_believed(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(manifest, path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        with pytest.raises(ValueError, match=r"m\.parquet"):
            read_manifest(path)
    for end in range(0, len(whole), 101):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="damaged"):
            read_manifest(path)


def test_a_changed_value_is_refused_even_in_a_sound_file(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(manifest, path)
    table = pq.read_table(path)
    columns = table.to_pydict()
    columns["windows"][0][0]["end_s"] = 2.4
    pq.write_table(pa.table(columns, schema=table.schema), path)
    with pytest.raises(ValueError, match="changed by another tool; make it again"):
        read_manifest(path)


def test_another_version_another_file_and_no_file_are_told_apart(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    with pytest.raises(ValueError, match="got nothing there; make it with"):
        read_manifest(path)
    write_manifest(manifest, path)
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[b"rdmf"]) | {"format_version": 1}
    pq.write_table(table.replace_schema_metadata({b"rdmf": json.dumps(header)}), path)
    with pytest.raises(ValueError, match=r"expected manifest format 2 .* got 1"):
        read_manifest(path)
    pq.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(ValueError, match="got another Parquet file"):
        read_manifest(path)


def test_equal_manifests_give_equal_bytes(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(manifest, tmp_path / "a")
    write_manifest(replace(manifest), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.shared
@pytest.mark.parametrize(("name", "folder"), [("charades", "charades_sta"), ("tvsum", "jsonl")])
def test_real_data_survive_the_file(name: str, folder: str, shared: Path, tmp_path: Path) -> None:
    manifest = DATASETS[name].read(shared / "annotations" / folder)
    write_manifest(manifest, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == manifest
