"""Stores as files of other tools, and back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rdmf.extract.alignment import Grid
from rdmf.extract.export import INDEX_FILE, export_stores, file_names, read_export_index
from rdmf.extract.extractors import one_by_one
from rdmf.extract.foreign import parse_stream
from rdmf.extract.imports import Recipe, locate_files, survey
from rdmf.extract.layout import Item, Kind, Source, StoreSpec
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import extract_store

WIDTH = 6
ODD_IDS = ["a", "A", "-dash", "x/y", "..", ".hidden", "a:b", "with space", "ünï中", "50%", "é" * 90]


def make_item(source: Source) -> Item:
    """Values of every size that float16 has, times that are not on any even grid."""
    rng = np.random.default_rng([3, *source.id.encode()])
    rows = int(rng.integers(1, 9))
    values = (rng.normal(size=(rows, WIDTH)) * 10.0 ** rng.integers(-7, 4, (rows, WIDTH))).astype(np.float16)
    if source.content.startswith("text"):
        return Item(source.id, values, None, None, "0" * 64)
    duration_s = 1.5 * rows - float(rng.uniform(0.01, 1.4))
    return Item(source.id, values, Grid(1.5, 1.5).times(rows, duration_s), duration_s, "0" * 64)


def make_store(folder: Path, kind: Kind, ids: Sequence[str] = ODD_IDS) -> FeatureStore:
    spec = StoreSpec(kind, "made", {"sha256": "1" * 64, "random": False}, {}, 1.5 if kind == "video" else None, WIDTH)
    extract_store(folder, spec, [Source(id_, f"{kind} {id_}") for id_ in ids], lambda: one_by_one(make_item))
    return FeatureStore.open(folder)


@pytest.mark.parametrize("kind", ["video", "text"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_exported_is_imported_to_the_same_values_and_times(tmp_path, kind, dtype):
    store = make_store(tmp_path / "store", kind)
    export_stores([(Path(), store)], tmp_path / "out", "npz", dtype)
    grid = Grid(1.5, 1.5) if kind == "video" else None
    recipe = Recipe(kind, (parse_stream(tmp_path / "out"),), grid, normalise="none")
    located = locate_files(recipe, store.ids)
    assert not located.missing
    assert located.unused == (0,)
    # what the annotations say of the length is not better than what the store measured
    extraction = survey(recipe, located, dict.fromkeys(store.ids, 100.0) if kind == "video" else {})
    extract_store(tmp_path / "again", extraction.spec(), extraction.sources(), extraction)
    again = FeatureStore.open(tmp_path / "again")
    assert set(again.ids) == set(store.ids)
    assert not again.failures
    for id_ in store.ids:
        for ours, theirs in zip(store.features(id_), again.features(id_), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_video_and_text_lie_as_the_moment_detr_family_reads_them(tmp_path):
    video, text = make_store(tmp_path / "v", "video", ["vid1"]), make_store(tmp_path / "t", "text", ["7803"])
    export_stores([(Path("video/a"), video), (Path("text/b"), text)], tmp_path / "out", "npz", "float32")
    with np.load(tmp_path / "out" / "video" / "a" / "vid1.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["features"], video.features("vid1").values.astype(np.float32))
        assert file["features"].dtype == np.float32
        np.testing.assert_array_equal(file["times_s"], video.features("vid1").times_s)
    with np.load(tmp_path / "out" / "text" / "b" / "qid7803.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["last_hidden_state"], text.features("7803").values)


def test_every_id_has_a_name_of_its_own_that_stays_in_its_folder(tmp_path):
    ids = [*ODD_IDS, "../../up", "/root", "con\u200b", "x\\y", "é" * 100]
    for kind in ("video", "text"):
        names = file_names(kind, ids)
        assert set(names) == set(ids)
        assert len({name.casefold() for name in names.values()}) == len(ids)
        for name in names.values():
            assert Path(name).name == name
            assert not name.startswith(".")
            (tmp_path / name).touch()
            (tmp_path / name).unlink()
    assert file_names("video", ["RoripwjYFp8_360.0_510.0"]) == {
        "RoripwjYFp8_360.0_510.0": "RoripwjYFp8_360.0_510.0.npz"
    }


def test_the_index_has_the_spec_and_every_id_whatever_its_file_is_called(tmp_path):
    store = make_store(tmp_path / "store", "video")
    export_stores([(Path(), store)], tmp_path / "out", "npz")
    tree = json.loads((tmp_path / "out" / INDEX_FILE).read_text())
    assert tree["spec"]["fingerprint"] == store.spec.fingerprint
    files = {entry.name for entry in os.scandir(tmp_path / "out")} - {INDEX_FILE}
    assert set(tree["files"]) == set(store.ids)
    assert set(tree["files"].values()) == files


def test_an_index_of_another_tool_is_not_ours_and_a_damaged_one_is_said(tmp_path):
    assert read_export_index(tmp_path) is None
    for other in ("{}", "[1, 2]", "not json", '{"format": "something else"}'):
        (tmp_path / INDEX_FILE).write_text(other)
        assert read_export_index(tmp_path) is None
    (tmp_path / INDEX_FILE).write_text('{"format": "rdmf export 1", "files": {"a": 3}}')
    with pytest.raises(ValueError, match="damaged"):
        read_export_index(tmp_path)


@pytest.mark.parametrize("kind", ["video", "text"])
def test_parquet_has_a_row_for_every_clip_and_the_spec(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("rdmf.extract.export.ROW_GROUP", 10)  # several groups
    store = make_store(tmp_path / "store", kind)
    export_stores([(Path(), store)], tmp_path / "out", "parquet")
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == f"{store.spec.folder_name}.parquet"
    table = pq.read_table(path)
    assert json.loads(table.schema.metadata[b"rdmf"])["fingerprint"] == store.spec.fingerprint
    assert {f.name: str(f.type) for f in table.schema} == {
        "id": "string", "row": "int32", "start_s": "double", "end_s": "double", "values": "list<element: float>",
    }  # fmt: skip
    assert list(dict.fromkeys(table["id"].to_pylist())) == list(store.ids)
    for id_ in store.ids:
        mine = table.filter([name == id_ for name in table["id"].to_pylist()])
        values, times_s, _ = store.features(id_)
        assert mine["row"].to_pylist() == list(range(len(values)))
        np.testing.assert_array_equal(np.array(mine["values"].to_pylist(), np.float32), values)
        if times_s is None:
            assert mine["start_s"].null_count == len(values)
        else:
            np.testing.assert_array_equal(np.stack([mine["start_s"], mine["end_s"]], 1), times_s)


def test_an_export_that_fails_leaves_nothing_and_never_overwrites(tmp_path):
    store = make_store(tmp_path / "store", "video")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(ValueError, match="new or empty"):
        export_stores([(Path(), store)], tmp_path / "full", "npz")

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    before = set(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        export_stores([(Path(), store)], tmp_path / "out", "npz", on_item=stop)
    assert set(tmp_path.iterdir()) == before
    (tmp_path / "out").mkdir()
    export_stores([(Path(), store)], tmp_path / "out", "npz")
    shutil.rmtree(tmp_path / "out")
