"""The store: what goes in comes out, through the map; damage, change, interruption and hostile files."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import pickle
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.extract import writer
from rdmf.extract.extractors import one_by_one
from rdmf.extract.index import Index, rebuild_index, write_index
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
from rdmf.extract.shard import USER_BLOCK_BYTES, encode_shard, read_shard

DIM = 6
VIDEO = StoreSpec("video", "fake", {"source": "a.pth", "sha256": "0" * 64, "random": False}, {"frames": 4}, 2.0, DIM)
TEXT = StoreSpec("text", "hub/fake", {"source": "hub/fake", "sha256": "", "random": True}, {}, None, DIM)


def make_video_extractor() -> Extractor:
    """Features that follow from the bytes of the file; a file that begins with 'bad' cannot be decoded."""

    def extract(source: Source) -> Item:
        raw = Path(source.content).read_bytes()
        if raw.startswith(b"bad"):
            raise ValueError("expected a video, got rubbish")
        digest = hashlib.sha256(raw).hexdigest()
        rng = np.random.default_rng(int(digest[:8], 16))
        clips = int(rng.integers(1, 7))
        starts = 2.0 * np.arange(clips)
        values = rng.normal(size=(clips, DIM)).astype(np.float32)
        return Item(source.id, values, np.stack([starts, starts + 2], 1), 2.0 * clips, digest)

    return one_by_one(extract)


def make_text_extractor() -> Extractor:
    def extract(source: Source) -> Item:
        digest = text_sha256(source.content)
        values = np.random.default_rng(int(digest[:8], 16)).normal(size=(len(source.content.split()), DIM))
        return Item(source.id, values, None, None, digest)

    return one_by_one(extract)


def videos(folder: Path, n: int, bad: tuple[int, ...] = ()) -> list[Source]:
    folder.mkdir(exist_ok=True)
    sources = []
    for i in range(n):
        path = folder / f"v{i}.mp4"
        path.write_bytes((b"bad" if i in bad else b"video") + b"%d" % i)
        sources.append(Source(f"v{i}", str(path)))
    return sources


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A video store of 10 sources in 3 shards, one of which failed."""
    extract_store(tmp_path / "s", VIDEO, videos(tmp_path / "in", 10, bad=(4,)), make_video_extractor, shard_items=4)
    return tmp_path / "s"


def test_features_come_back_as_float16_with_times_and_duration(tmp_path: Path) -> None:
    sources = videos(tmp_path / "in", 9)
    receipt = extract_store(tmp_path / "s", VIDEO, sources, make_video_extractor, shard_items=4)
    assert (receipt.written, receipt.reused, receipt.failed, receipt.shards) == (9, 0, 0, 3)
    store, wanted = FeatureStore.open(tmp_path / "s"), {i.id: i for i in make_video_extractor()(sources)}
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
        st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=12),
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


def test_a_second_run_reuses_everything_and_changes_no_byte(filled: Path) -> None:
    before = contents(filled)
    receipt = extract_store(filled, VIDEO, videos(filled.parent / "in", 10, bad=(4,)), make_video_extractor)
    assert (receipt.written, receipt.reused, receipt.failed, receipt.shards) == (0, 9, 1, 0)
    assert contents(filled) == before


def test_new_ids_are_appended_as_new_shards(filled: Path) -> None:
    before = contents(filled)
    receipt = extract_store(filled, VIDEO, videos(filled.parent / "in", 13, bad=(4,)), make_video_extractor)
    assert (receipt.written, receipt.reused, receipt.shards) == (3, 9, 1)
    after = contents(filled)
    assert all(after[name] == before[name] for name in before if name.endswith(".h5"))
    assert len(FeatureStore.open(filled)) == 12
    assert FeatureStore.open(filled).verify() == []


def test_a_changed_sentence_under_the_same_id_is_extracted_again(tmp_path: Path) -> None:
    first = [Source("q1", "a dog runs"), Source("q2", "a cat sleeps here")]
    extract_store(tmp_path, TEXT, first, make_text_extractor)
    changed = [Source("q1", "a wolf runs far away"), first[1]]
    receipt = extract_store(tmp_path, TEXT, changed, make_text_extractor)
    assert (receipt.written, receipt.reused, receipt.shards) == (1, 1, 1)
    store = FeatureStore.open(tmp_path)
    assert store.entry("q1").source_sha256 == text_sha256("a wolf runs far away")
    assert len(store.features("q1").values) == 5
    assert len(store.features("q2").values) == 4
    assert store.verify() == []
    # and back again: the newest record counts, not any that ever matched
    assert extract_store(tmp_path, TEXT, first, make_text_extractor).written == 1
    assert len(FeatureStore.open(tmp_path).features("q1").values) == 3


def test_a_changed_sentence_that_fails_does_not_keep_the_old_features(tmp_path: Path) -> None:
    extract_store(tmp_path, TEXT, [Source("q1", "a dog")], make_text_extractor)
    extract_store(tmp_path, TEXT, [Source("q1", " ")], make_text_extractor)  # no word: no row
    store = FeatureStore.open(tmp_path)
    assert "q1" not in store
    assert [(f.id, f.stage) for f in store.failures] == [("q1", "values")]


def test_a_changed_video_is_seen_by_its_size_or_with_rehash_by_its_bytes(tmp_path: Path) -> None:
    sources = videos(tmp_path / "in", 3)
    extract_store(tmp_path / "s", VIDEO, sources, make_video_extractor)
    Path(sources[0].content).write_bytes(b"another video, longer")
    Path(sources[1].content).write_bytes(b"VIDEO1")  # of the same size
    assert extract_store(tmp_path / "s", VIDEO, sources, make_video_extractor).written == 1
    assert extract_store(tmp_path / "s", VIDEO, sources, make_video_extractor, rehash=True).written == 1
    store = FeatureStore.open(tmp_path / "s")
    assert all(store.entry(s.id).source_sha256 == file_sha256(Path(s.content)) for s in sources)


def test_a_failure_is_tried_again_when_its_source_changed_or_on_demand(tmp_path: Path) -> None:
    sources = videos(tmp_path / "in", 3, bad=(1,))
    assert extract_store(tmp_path / "s", VIDEO, sources, make_video_extractor).failed == 1
    receipt = extract_store(tmp_path / "s", VIDEO, sources, make_video_extractor, retry_failures=True)
    assert (receipt.reused, receipt.failed, receipt.shards) == (2, 1, 1)
    Path(sources[1].content).write_bytes(b"a whole video at last")
    receipt = extract_store(tmp_path / "s", VIDEO, sources, make_video_extractor)
    assert (receipt.written, receipt.reused, receipt.failed) == (1, 2, 0)
    assert FeatureStore.open(tmp_path / "s").failures == ()


def test_missing_sources_are_recorded_and_planned_once_they_show_up(tmp_path: Path) -> None:
    sources = videos(tmp_path / "in", 3)
    gone = Failure("v2", "missing", "no file v2.* among the videos")
    receipt = extract_store(tmp_path / "s", VIDEO, sources[:2], make_video_extractor, missing=[gone])
    assert (receipt.written, receipt.failed) == (2, 1)
    assert FeatureStore.open(tmp_path / "s").failures == (gone,)
    extract_store(tmp_path / "s", VIDEO, sources[:2], make_video_extractor)  # says nothing about v2
    assert FeatureStore.open(tmp_path / "s").failures == (gone,)
    receipt = extract_store(tmp_path / "s", VIDEO, sources, make_video_extractor)
    assert (receipt.written, receipt.reused, receipt.failed) == (1, 2, 0)
    assert FeatureStore.open(tmp_path / "s").failures == ()


BAD_ITEMS = {
    "not finite": (np.full((2, DIM), np.nan), "got 12 values that are not"),
    "beyond float16": (np.full((2, DIM), 7e4), "at most 65504"),
    "no row": (np.empty((0, DIM)), "at least one row"),
    "another width": (np.zeros((2, DIM + 1)), rf"\[rows, {DIM}\]"),
    "no floats": (np.zeros((2, DIM), int), "float features"),
}


def test_features_that_training_should_never_see_are_failures_of_their_item(tmp_path: Path) -> None:
    def make() -> Extractor:
        return one_by_one(lambda s: Item(s.id, BAD_ITEMS.get(s.id, (np.ones((2, DIM)), ""))[0], None, None, "0" * 64))

    sources = [Source(id_, id_) for id_ in ["good", *BAD_ITEMS, "fine"]]
    extract_store(tmp_path, TEXT, sources, make)
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
def test_clips_without_sound_times_are_refused(times_s: list | None, duration_s: float | None) -> None:
    times = None if times_s is None else np.array(times_s, float)
    with pytest.raises(ValueError, match="expected"):
        writer.check_item(Item("v", np.ones((2, DIM)), times, duration_s, "0" * 64), VIDEO)


def test_the_fingerprint_follows_the_settings_and_not_the_place_of_the_weights() -> None:
    def spec(**change: object) -> StoreSpec:
        fields = {"kind": "video", "encoder": "e", "weights": {"source": "x", "sha256": "ab", "random": False}}
        return StoreSpec(**{**fields, "preprocessing": {"size": (2, 2)}, "clip_seconds": 2.0, "dim": 4, **change})

    same = spec(weights={"source": "/elsewhere/y", "sha256": "ab", "random": False})
    assert same.fingerprint == spec().fingerprint
    fields = json.loads(spec().to_json())
    assert StoreSpec(**{k: v for k, v in fields.items() if k != "fingerprint"}).fingerprint == fields["fingerprint"]
    others = [
        spec(weights={"source": "x", "sha256": "ac", "random": False}),
        spec(preprocessing={"size": (2, 3)}),
        spec(clip_seconds=1.0),
        spec(dim=5),
        spec(encoder="f"),
    ]
    assert len({spec().fingerprint, *(other.fingerprint for other in others)}) == 6
    assert spec(encoder="org/../model").folder_name == f"org_.._model-{spec(encoder='org/../model').fingerprint}"


def test_a_folder_of_other_settings_or_another_version_is_refused(filled: Path) -> None:
    other = StoreSpec("video", "fake", VIDEO.weights, {"frames": 8}, 2.0, DIM)
    with pytest.raises(StoreError, match=f"expected a store of fingerprint {other.fingerprint}"):
        extract_store(filled, other, [], make_video_extractor)
    spec = json.loads((filled / "store.json").read_text())
    (filled / "store.json").write_text(json.dumps({**spec, "format_version": 2}))
    with pytest.raises(StoreError, match="format version 1"):
        FeatureStore.open(filled)
    (filled / "store.json").write_text(json.dumps({**spec, "clip_seconds": 1.0}))
    with pytest.raises(StoreError, match="was changed"):
        FeatureStore.open(filled)
    for text in ("", "[]", "{", '{"format_version": 1, "weights": 3}', "[" * 10_000):
        (filled / "store.json").write_text(text)
        with pytest.raises(StoreError):
            FeatureStore.open(filled)
    (filled / "store.json").unlink()
    with pytest.raises(StoreError, match="no feature store"):
        FeatureStore.open(filled)
    with pytest.raises(StoreError, match=r"has shards but no store\.json"):
        extract_store(filled, VIDEO, [], make_video_extractor)


def test_doubled_and_unusable_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="distinct source ids, got 'a' twice"):
        extract_store(tmp_path, TEXT, [Source("a", "x"), Source("a", "y")], make_text_extractor)
    with pytest.raises(ValueError, match="source id"):
        extract_store(tmp_path, TEXT, [Source("a\n", "x")], make_text_extractor)


def test_a_child_process_that_outlives_the_run_does_not_keep_the_lock(tmp_path: Path) -> None:
    children = []

    def make() -> Extractor:
        pid = os.fork()  # has the lock file open, as every process has between its fork and its exec
        if pid == 0:
            time.sleep(30)
            os._exit(0)
        children.append(pid)
        return make_text_extractor()

    try:
        extract_store(tmp_path, TEXT, [Source("q1", "a dog")], make)
        assert extract_store(tmp_path, TEXT, [Source("q1", "a dog")], make_text_extractor).reused == 1
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process; its wait status."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def test_a_run_killed_at_any_moment_resumes_to_the_identical_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = videos(tmp_path / "in", 7, bad=(2,))
    gone = [Failure("gone", "missing", "no file")]

    def run(folder: Path) -> None:
        extract_store(folder, VIDEO, sources, make_video_extractor, shard_items=3, missing=gone)

    run(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    real, moments = os.fsync, 0
    while True:  # killed at its first sync, at its second, ... : before and after every rename
        folder, left = tmp_path / f"killed{moments}", moments

        def killing(file: int) -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            real(file)

        monkeypatch.setattr(os, "fsync", killing)
        status = in_child(lambda folder=folder: run(folder))
        monkeypatch.setattr(os, "fsync", real)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        if (folder / "store.json").exists():
            assert set(FeatureStore.open(folder).ids) <= {s.id for s in sources}  # readable as far as it is
        run(folder)
        assert contents(folder) == whole
        moments += 1
    assert moments == 2 * (len(whole) - 1)  # file and folder are synced once for each file but the lock
    assert contents(folder) == whole


def test_a_disk_that_is_full_ends_the_run_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    def make() -> Extractor:
        return one_by_one(lambda s: Item(s.id, np.ones((4000 if s.id == "big" else 2, DIM)), None, None, "0" * 64))

    sources = [Source("a", "a"), Source("big", "big"), Source("b", "b")]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # what write() then says is not our invention
        with pytest.raises(OSError, match=r"shard-00001\.h5 cannot be written .* run the same command again"):
            extract_store(tmp_path, TEXT, sources, make, shard_items=1)

    assert in_child(limited) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        "plan.parquet",
        "shard-00000.h5",
        "store.json",
    ]
    assert FeatureStore.open(tmp_path).ids == ("a",)
    assert FeatureStore.open(tmp_path).pending == 2
    receipt = extract_store(tmp_path, TEXT, sources, make)
    assert (receipt.written, receipt.reused) == (2, 1)
    assert FeatureStore.open(tmp_path).verify() == []


def test_a_lost_or_stale_index_is_rebuilt_from_the_shards(filled: Path) -> None:
    ids, failures = FeatureStore.open(filled).ids, FeatureStore.open(filled).failures
    before = contents(filled)
    for damage in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
    ):
        for name in ("index.parquet", "failures.parquet"):
            damage(filled / name)
            store = FeatureStore.open(filled)
            assert (store.ids, store.failures) == (ids, failures)
            assert any("rebuild_index" in problem for problem in store.verify())
            rebuild_index(filled)
            assert contents(filled) == before
    # an index of fewer shards than there are: as after a run that was killed before the end
    (filled / "shard-00002.h5").rename(filled / "aside")
    rebuild_index(filled)
    (filled / "aside").rename(filled / "shard-00002.h5")
    assert FeatureStore.open(filled).ids == ids


def test_an_index_that_points_elsewhere_is_found(filled: Path) -> None:
    index = rebuild_index(filled)
    swapped = dict(zip(index.items, reversed(index.items.values()), strict=True))
    write_index(filled, VIDEO, Index(swapped, index.failures, index.shards))
    store = FeatureStore.open(filled)
    assert any("does not fit the shards" in problem for problem in store.verify())
    with pytest.raises(StoreError, match="rebuild_index"):
        store.features("v0")


def test_a_changed_byte_anywhere_in_a_shard_is_found(filled: Path) -> None:
    path = filled / "shard-00001.h5"
    whole = path.read_bytes()
    with h5py.File(path) as file:
        values_at = file["values"].id.get_offset()
        times_at = file["times_s"].id.get_offset()
    store = FeatureStore.open(filled)
    spread = np.linspace(0, len(whole) - 1, 80).astype(int).tolist()
    for at in [*spread, USER_BLOCK_BYTES - 1, USER_BLOCK_BYTES, values_at, times_at + 5]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        problems = store.verify()
        assert problems, f"byte {at}"
        assert path.name in problems[0]
        if at == values_at:
            assert "in values" in problems[0]
    path.write_bytes(whole)
    assert FeatureStore.open(filled).verify() == []


def test_a_truncated_shard_is_named_and_made_anew(filled: Path) -> None:
    path, before = filled / "shard-00001.h5", contents(filled)
    sources = videos(filled.parent / "in", 10, bad=(4,))
    for size in (0, 100, 600, 3000, path.stat().st_size - 1):
        path.write_bytes(before[path.name][:size])
        with pytest.raises(StoreError, match=r"shard-00001\.h5 is damaged: .* extract again"):
            FeatureStore.open(filled)
        with pytest.raises(StoreError, match=r"shard-00001\.h5 is damaged"):
            extract_store(filled, VIDEO, sources[:2], make_video_extractor)  # would lose what only it knew
        assert extract_store(filled, VIDEO, sources, make_video_extractor).shards == 1
        assert contents(filled) == before


def test_a_lost_shard_is_named_and_made_anew(filled: Path) -> None:
    before = contents(filled)
    (filled / "shard-00000.h5").unlink()
    store = FeatureStore.open(filled)
    assert len(store) == 5
    assert store.pending == 4
    assert any("shard-00000.h5, planned for 4 items, is not there" in problem for problem in store.verify())
    assert extract_store(filled, VIDEO, videos(filled.parent / "in", 10, bad=(4,)), make_video_extractor).shards == 1
    assert contents(filled) == before


def _replace(name: str, make: Callable[[h5py.File, np.ndarray], object]) -> Callable[[h5py.File], None]:
    def mutate(file: h5py.File) -> None:
        old = file[name][()]
        del file[name]
        make(file, old)

    return mutate


def _external(file: h5py.File, old: np.ndarray) -> None:
    file.create_dataset("values", old.shape, "<f2", external=[("/etc/passwd", 0, old.nbytes)])


def _virtual(file: h5py.File, old: np.ndarray) -> None:
    layout = h5py.VirtualLayout(old.shape, "<f2")
    layout[:] = h5py.VirtualSource("other.h5", "values", old.shape)
    file.create_virtual_dataset("values", layout)


def _link(file: h5py.File, old: np.ndarray) -> None:
    file["values"] = h5py.ExternalLink("other.h5", "values")


def _offsets(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    def mutate(file: h5py.File) -> None:
        file["offsets"][...] = change(file["offsets"][()])

    return mutate


HOSTILE: dict[str, Callable[[h5py.File], None]] = {
    "external storage": _replace("values", _external),
    "virtual": _replace("values", _virtual),
    "external link": _replace("values", _link),
    "soft link": _replace("values", lambda file, _: file.__setitem__("values", h5py.SoftLink("/times_s"))),
    "chunked": _replace("values", lambda file, old: file.create_dataset("values", data=old, chunks=(1, DIM))),
    "compressed": _replace("values", lambda file, old: file.create_dataset("values", data=old, compression="gzip")),
    "big endian": _replace("values", lambda file, old: file.create_dataset("values", data=old.astype(">f2"))),
    "another width": _replace("values", lambda file, old: file.create_dataset("values", data=old[:, 1:])),
    "too few rows": _replace("values", lambda file, old: file.create_dataset("values", data=old[1:])),
    "never written": _replace("values", lambda file, old: file.create_dataset("values", old.shape, "<f2")),
    "a group": _replace("values", lambda file, _: file.create_group("values")),
    "no times": lambda file: file.__delitem__("times_s"),
    "offsets beyond": _offsets(lambda o: o + 10**12 * (np.arange(len(o)) == len(o) - 1)),
    "offsets not ascending": _offsets(lambda o: o[[0, 2, 1, *range(3, len(o))]]),
    "offsets that wrap": _offsets(lambda o: np.where(np.arange(len(o)) == 2, -(2**63), np.maximum(o, 2**62 * (o > 0)))),
    "offsets not from 0": _offsets(lambda o: o + 1),
    "ids doubled": lambda file: file["ids"].__setitem__(1, file["ids"][0]),
    "an id with a newline": lambda file: file["ids"].__setitem__(1, b"a\n"),
    "an id that is not UTF-8": lambda file: file["ids"].__setitem__(1, b"\xff\xfe"),
    "a duration that is not a number": lambda file: file["duration_s"].__setitem__(0, np.nan),
    "another shard": lambda file: file.attrs.__setitem__("shard", 7),
    "other settings": lambda file: file.attrs.__setitem__("fingerprint", "0" * 12),
    "another version": lambda file: file.attrs.__setitem__("format_version", 2),
    "no version": lambda file: file.attrs.__delitem__("format_version"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_shard_is_refused(filled: Path, name: str) -> None:
    path = filled / "shard-00000.h5"
    shutil.copy(filled / "shard-00001.h5", filled / "other.h5")
    read_shard(path, 0, VIDEO)
    with h5py.File(path, "r+") as file:
        HOSTILE[name](file)
    with pytest.raises(StoreError, match=r"shard-00000\.h5 is damaged"):
        read_shard(path, 0, VIDEO)


def test_a_shard_is_the_same_bytes_whenever_it_is_written() -> None:
    items = [Item("é", np.ones((2, DIM), np.float16), np.array([[0, 2], [2, 4.0]]), 4.0, "0" * 64)]
    failures = [Failure("b", "open", "two\nlines\0and a null")]
    first = encode_shard(VIDEO, 3, items, failures, {"é": "5 bytes", "b": "0 bytes"})
    time.sleep(1.1)  # HDF5 keeps times in seconds, where it keeps them
    assert encode_shard(VIDEO, 3, items, failures, {"é": "5 bytes", "b": "0 bytes"}) == first


def test_permission_denied_is_not_taken_for_damage(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> h5py.File:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", denied)
    with pytest.raises(PermissionError):
        extract_store(filled, VIDEO, videos(filled.parent / "in", 10, bad=(4,)), make_video_extractor)
    assert len(shard_files(filled)) == 3


def test_stores_are_listed_with_their_figures_and_problems(tmp_path: Path) -> None:
    extract_store(tmp_path / "d/video/a", VIDEO, videos(tmp_path / "in", 4, bad=(0,)), make_video_extractor)
    extract_store(tmp_path / "d/text/b", TEXT, [Source("q", "one two three")], make_text_extractor)
    (tmp_path / "d/text/c").mkdir()
    (tmp_path / "d/text/c/store.json").write_text("{")
    text, broken, video = list_stores(tmp_path)
    assert (text.kind, text.name, text.items, text.rows, text.failures, text.random) == ("text", "b", 1, 3, 0, True)
    assert (video.kind, video.items, video.failures, video.random, video.weights) == ("video", 3, 1, False, "a.pth")
    assert video.bytes == (tmp_path / "d/video/a/shard-00000.h5").stat().st_size
    assert broken.problem is not None
    assert "store.json" in broken.problem
