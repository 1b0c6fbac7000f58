"""The store: what goes in comes out, through the map; what is there is reused, what changed is made again."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import re
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.extract import writer
from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import (
    Extractor,
    Failure,
    Item,
    Source,
    StoreError,
    StoreSpec,
    file_sha256,
    shard_files,
    text_sha256,
)
from rdmf.extract.reader import FeatureStore, list_stores
from rdmf.extract.schedule import extract_store


def test_features_come_back_as_float16_with_times_and_duration(fake, tmp_path: Path) -> None:
    sources = fake.videos(tmp_path / "in", 9)
    receipt = fake.extract(tmp_path / "s", sources, shard_items=4)
    assert (receipt.written, receipt.reused, receipt.failed, receipt.shards) == (9, 0, 0, 3)
    store, wanted = FeatureStore.open(tmp_path / "s"), {i.id: i for i in fake.video_extractor()(sources)}
    assert store.ids == tuple(s.id for s in sources)
    assert len(store) == 9
    assert "v3" in store
    assert "v99" not in store
    for source in sources:
        want, got = wanted[source.id], store.features(source.id)
        assert isinstance(want, Item)
        np.testing.assert_array_equal(got.values, want.values.astype(np.float16))
        np.testing.assert_array_equal(got.times_s, want.times_s)
        assert got.duration_s == want.duration_s == store.entry(source.id).duration_s
        assert store.entry(source.id).rows == len(want.values)
        assert store.entry(source.id).source_sha256 == file_sha256(Path(source.content))
    assert store.verify() == []


@settings(max_examples=15, deadline=None)
@given(
    items=st.dictionaries(
        st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters="/\\."), min_size=1, max_size=12),
        st.lists(st.lists(st.floats(-65504, 65504), min_size=3, max_size=3), min_size=1, max_size=5),
        max_size=6,
    )
)
def test_any_ids_and_values_round_trip(tmp_path_factory: pytest.TempPathFactory, items: dict) -> None:
    spec, folder = StoreSpec("text", "t", {}, {}, None, 3), tmp_path_factory.mktemp("any")
    arrays = {id_: np.array(rows, np.float32) for id_, rows in items.items()}
    sources = [Source(id_, id_) for id_ in arrays]
    extractor = one_by_one(lambda s: Item(s.id, arrays[s.id], None, None, "0" * 64))
    extract_store(folder, spec, sources, lambda: extractor, shard_items=2)
    store = FeatureStore.open(folder)
    assert store.ids == tuple(arrays)
    for id_, values in arrays.items():
        np.testing.assert_array_equal(store.features(id_).values, values.astype(np.float16))
        assert store.features(id_).times_s is None


def test_the_map_shows_what_h5py_reads_and_copies_nothing(filled: Path) -> None:
    store = FeatureStore.open(filled)
    for number, path in shard_files(filled).items():
        with h5py.File(path) as file:
            ids, offsets, values = file["ids"].asstr()[()], file["offsets"][()], file["values"][()]
            times = file["times_s"][()]
        for id_, first, end in zip(ids, offsets[:-1], offsets[1:], strict=True):
            np.testing.assert_array_equal(store.features(id_).values, values[first:end])
            np.testing.assert_array_equal(store.features(id_).times_s, times[first:end])
            assert store.entry(id_).shard == number
    values = store.features("v0").values
    assert values.flags.aligned
    assert not values.flags.writeable
    base: object = values
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


def test_a_pickled_store_reads_the_same_without_carrying_features(filled: Path) -> None:
    store = FeatureStore.open(filled)
    before = store.features("v1").values
    copy = pickle.loads(pickle.dumps(store))
    assert copy._maps == {}
    np.testing.assert_array_equal(copy.features("v1").values, before)


def test_an_unknown_id_is_refused_with_why_it_failed(filled: Path) -> None:
    store = FeatureStore.open(filled)
    with pytest.raises(StoreError, match=r"'v4', which has no features: expected a video, got rubbish \(extract\)"):
        store.features("v4")
    with pytest.raises(StoreError, match="'nobody'"):
        store.features("nobody")


def test_a_second_run_reuses_everything_and_changes_no_byte(fake, filled: Path, ten_videos: list[Source]) -> None:
    before = fake.contents(filled)
    receipt = fake.extract(filled, ten_videos)
    assert (receipt.written, receipt.reused, receipt.failed, receipt.shards) == (0, 9, 1, 0)
    assert fake.contents(filled) == before


def test_new_ids_are_appended_as_new_shards(fake, filled: Path) -> None:
    before = fake.contents(filled)
    receipt = fake.extract(filled, fake.videos(filled.parent / "in", 13, bad=(4,)), shard_items=4)
    assert (receipt.written, receipt.reused, receipt.shards) == (3, 9, 1)
    after = fake.contents(filled)
    assert all(after[name] == before[name] for name in before if name.endswith(".h5"))
    assert len(FeatureStore.open(filled)) == 12
    assert FeatureStore.open(filled).verify() == []


def test_a_changed_sentence_under_the_same_id_is_extracted_again(fake, tmp_path: Path) -> None:
    first = {"q1": "a dog runs", "q2": "a cat sleeps here"}
    fake.extract_text(tmp_path, first)
    receipt = fake.extract_text(tmp_path, {**first, "q1": "a wolf runs far away"})
    assert (receipt.written, receipt.reused, receipt.shards) == (1, 1, 1)
    store = FeatureStore.open(tmp_path)
    assert store.entry("q1").source_sha256 == text_sha256("a wolf runs far away")
    assert len(store.features("q1").values) == 5
    assert len(store.features("q2").values) == 4
    assert store.verify() == []
    # and back again: the newest record counts, not any that ever matched
    assert fake.extract_text(tmp_path, first).written == 1
    assert len(FeatureStore.open(tmp_path).features("q1").values) == 3


def test_a_changed_sentence_that_fails_does_not_keep_the_old_features(fake, tmp_path: Path) -> None:
    fake.extract_text(tmp_path, {"q1": "a dog"})
    fake.extract_text(tmp_path, {"q1": " "})  # no word: no row
    store = FeatureStore.open(tmp_path)
    assert "q1" not in store
    assert [(f.id, f.stage) for f in store.failures] == [("q1", "values")]


def test_a_changed_video_is_seen_by_its_size_or_with_rehash_by_its_bytes(fake, tmp_path: Path) -> None:
    sources = fake.videos(tmp_path / "in", 3)
    fake.extract(tmp_path / "s", sources)
    Path(sources[0].content).write_bytes(b"another video, longer")
    Path(sources[1].content).write_bytes(b"VIDEO1")  # of the same size
    assert fake.extract(tmp_path / "s", sources).written == 1
    assert fake.extract(tmp_path / "s", sources, rehash=True).written == 1
    store = FeatureStore.open(tmp_path / "s")
    assert all(store.entry(s.id).source_sha256 == file_sha256(Path(s.content)) for s in sources)


def test_a_failure_is_tried_again_when_its_source_changed_or_on_demand(fake, tmp_path: Path) -> None:
    sources = fake.videos(tmp_path / "in", 3, bad=(1,))
    assert fake.extract(tmp_path / "s", sources).failed == 1
    receipt = fake.extract(tmp_path / "s", sources, retry_failures=True)
    assert (receipt.reused, receipt.failed, receipt.shards) == (2, 1, 1)
    Path(sources[1].content).write_bytes(b"a whole video at last")
    receipt = fake.extract(tmp_path / "s", sources)
    assert (receipt.written, receipt.reused, receipt.failed) == (1, 2, 0)
    assert FeatureStore.open(tmp_path / "s").failures == ()


def test_missing_sources_are_recorded_and_planned_once_they_show_up(fake, tmp_path: Path) -> None:
    sources = fake.videos(tmp_path / "in", 3)
    gone = Failure("v2", "missing", "no file v2.* among the videos")
    receipt = fake.extract(tmp_path / "s", sources[:2], missing=[gone])
    assert (receipt.written, receipt.failed) == (2, 1)
    assert FeatureStore.open(tmp_path / "s").failures == (gone,)
    fake.extract(tmp_path / "s", sources[:2])  # says nothing about v2
    assert FeatureStore.open(tmp_path / "s").failures == (gone,)
    receipt = fake.extract(tmp_path / "s", sources)
    assert (receipt.written, receipt.reused, receipt.failed) == (1, 2, 0)
    assert FeatureStore.open(tmp_path / "s").failures == ()


WIDTH = 6
BAD_ITEMS = {
    "not finite": (np.full((2, WIDTH), np.nan), "got 12 values that are not"),
    "beyond float16": (np.full((2, WIDTH), 7e4), "at most 65504"),
    "no row": (np.empty((0, WIDTH)), "at least one row"),
    "another width": (np.zeros((2, WIDTH + 1)), rf"\[rows, {WIDTH}\]"),
    "no floats": (np.zeros((2, WIDTH), int), "float features"),
}


def test_features_that_training_should_never_see_are_failures_of_their_item(fake, tmp_path: Path) -> None:
    def make() -> Extractor:
        good = np.ones((2, WIDTH))
        return one_by_one(lambda s: Item(s.id, BAD_ITEMS.get(s.id, (good, ""))[0], None, None, "0" * 64))

    extract_store(tmp_path, fake.TEXT, [Source(id_, id_) for id_ in ["good", *BAD_ITEMS, "fine"]], make)
    store = FeatureStore.open(tmp_path)
    assert store.ids == ("good", "fine")
    assert [f.id for f in store.failures] == list(BAD_ITEMS)
    for failure in store.failures:
        assert failure.stage == "values"
        assert re.search(BAD_ITEMS[failure.id][1], failure.reason)


@pytest.mark.parametrize(
    ("times_s", "duration_s"),
    [
        (None, 4.0),
        ([[0, 2]], 4.0),
        ([[0, 2], [2, np.nan]], 4.0),
        ([[0, 2], [3, 2]], 4.0),
        ([[2, 4], [0, 2]], 4.0),
        ([[0, 2], [2, 4]], None),
        ([[0, 2], [2, 4]], np.inf),
    ],
)
def test_clips_without_sound_times_are_refused(fake, times_s: list | None, duration_s: float | None) -> None:
    times = None if times_s is None else np.array(times_s, float)
    with pytest.raises(ValueError, match="expected"):
        writer.check_item(Item("v", np.ones((2, WIDTH)), times, duration_s, "0" * 64), fake.VIDEO)


def test_the_fingerprint_follows_the_settings_and_not_the_place_of_the_weights() -> None:
    def spec(**change: object) -> StoreSpec:
        fields = {"kind": "video", "encoder": "e", "weights": {"source": "x", "sha256": "ab", "random": False}}
        return StoreSpec(**{**fields, "preprocessing": {"size": (2, 2)}, "clip_seconds": 2.0, "dim": 4, **change})

    same = spec(weights={"source": "/elsewhere/y", "sha256": "ab", "random": False})
    assert same.fingerprint == spec().fingerprint
    others = [
        spec(weights={"source": "x", "sha256": "ac", "random": False}),
        spec(preprocessing={"size": (2, 3)}),
        spec(clip_seconds=1.0),
        spec(dim=5),
        spec(encoder="f"),
    ]
    assert len({spec().fingerprint, *(other.fingerprint for other in others)}) == 6
    assert spec(encoder="org/../model").folder_name == f"org_.._model-{spec(encoder='org/../model').fingerprint}"


def test_a_folder_of_other_settings_or_another_version_is_refused_and_left_alone(fake, filled: Path) -> None:
    other = StoreSpec("video", "fake", fake.VIDEO.weights, {"frames": 8}, 2.0, WIDTH)
    with pytest.raises(StoreError, match=f"expected a store of fingerprint {other.fingerprint}"):
        extract_store(filled, other, [], fake.video_extractor)
    spec = json.loads((filled / "store.json").read_text())
    damaged = [{**spec, "clip_seconds": 1.0}, {**spec, "weights": {**spec["weights"], "source": "b.pth"}}]
    for text, complaint in (
        (json.dumps({**spec, "format_version": 1}), "expected a store of format version 2 .*, got version 1"),
        *((json.dumps(fields, indent=1, sort_keys=True) + "\n", "was changed") for fields in damaged),
        (json.dumps(spec), "was changed"),  # the same settings, written by another tool
        *((text, "cannot be read") for text in ("", "[]", "{", '{"format_version": 2, "a": 3}', "[" * 10_000, "\xe9")),
    ):
        (filled / "store.json").write_text(text, "latin-1")
        before = fake.contents(filled)
        with pytest.raises(StoreError, match=complaint):
            FeatureStore.open(filled)
        with pytest.raises(StoreError, match=complaint):
            fake.extract(filled, [])
        assert {**fake.contents(filled), ".lock": b""} == {**before, ".lock": b""}
    (filled / "store.json").unlink()
    for use in (FeatureStore.open, lambda folder: fake.extract(folder, [])):
        with pytest.raises(StoreError, match=r"has shards but no store\.json; `rdmf store repair .*` restores it"):
            use(filled)
    with pytest.raises(StoreError, match="no feature store"):
        FeatureStore.open(filled.parent)


def test_a_child_process_that_outlives_the_run_does_not_keep_the_lock(fake, tmp_path: Path) -> None:
    children = []

    def make() -> Extractor:
        pid = os.fork()  # has the lock file open, as every process has between its fork and its exec
        if pid == 0:
            time.sleep(30)
            os._exit(0)
        children.append(pid)
        return fake.text_extractor()

    try:
        extract_store(tmp_path, fake.TEXT, [Source("q1", "a dog")], make)
        assert fake.extract_text(tmp_path, {"q1": "a dog"}).reused == 1
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_stores_are_listed_with_their_figures_and_problems(fake, tmp_path: Path) -> None:
    fake.extract(tmp_path / "d/video/a", fake.videos(tmp_path / "in", 4, bad=(0,)), shard_items=3)
    fake.extract_text(tmp_path / "elsewhere", {"q": "one two three"})
    (tmp_path / "d/text/c").mkdir(parents=True)
    (tmp_path / "d/text/b").symlink_to(tmp_path / "elsewhere")  # a store on another disk
    (tmp_path / "d/text/c/store.json").write_text("{")
    (tmp_path / "d/loop").symlink_to(tmp_path / "d")
    text, broken, video = list_stores(tmp_path / "d")
    assert (text.kind, text.name, text.items, text.rows, text.failures, text.random) == ("text", "b", 1, 3, 0, True)
    assert (video.kind, video.items, video.failures, video.random, video.weights) == ("video", 3, 1, False, "a.pth")
    assert video.bytes == sum(path.stat().st_size for path in shard_files(video.folder).values())
    assert broken.problem is not None
    assert "store.json" in broken.problem
