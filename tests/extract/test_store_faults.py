"""Disks, folders and sources that misbehave: a clear error or a named failure, and nothing corrupted."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rdmf.extract.layout import Failure, Source, StoreError, check_source_id, shown_id
from rdmf.extract.reader import FeatureStore
from rdmf.extract.verify import verify_store

CANNOT = r"cannot be written \(.*\); what is in .* is whole: put that right and run the same command again"


def assert_usable(folder: Path, ids: set[str]) -> None:
    """Nothing half written, and what is there can be read."""
    assert not list(folder.glob(".tmp-*"))
    if (folder / "store.json").exists():
        store = FeatureStore.open(folder)
        assert set(store.ids) <= ids
        for id_ in store.ids:
            store.features(id_)


def test_a_disk_that_is_full_at_any_write_ends_the_run_and_the_next_one_completes_it(
    fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = fake.videos(tmp_path / "in", 5, bad=(1,))
    gone = [Failure("gone", "missing", "no file")]
    fake.extract(tmp_path / "whole", sources, shard_items=3, missing=gone)
    whole, real = fake.contents(tmp_path / "whole"), os.fsync
    named = set()
    for moment in range(2 * (len(whole) - 1)):
        folder, left = tmp_path / f"full{moment}", moment

        def full(file: int) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(file)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=CANNOT) as error:
            fake.extract(folder, sources, shard_items=3, missing=gone)
        assert error.value.errno == errno.ENOSPC
        named.add(str(error.value).split(" cannot be")[0].rsplit("/", 1)[1].removesuffix("'"))
        monkeypatch.setattr(os, "fsync", real)
        assert_usable(folder, {source.id for source in sources})
        fake.extract(folder, sources, shard_items=3, missing=gone)
        assert fake.contents(folder) == whole
    assert named == whole.keys() - {".lock"}


@pytest.mark.parametrize("limit", [0, 300, 1000, 12_000])
def test_what_the_system_says_of_a_file_that_gets_too_large_is_passed_on(fake, tmp_path: Path, limit: int) -> None:
    sources = fake.videos(tmp_path / "in", 3)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(OSError, match=CANNOT if limit else "File too large"):  # not even the lock
            fake.extract(tmp_path / "s", sources)

    assert fake.in_child(limited) == 0
    assert_usable(tmp_path / "s", set())
    assert fake.extract(tmp_path / "s", sources).written == 3
    assert verify_store(tmp_path / "s") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "rdmf-test", str(disk)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)  # the maps of its files may not be gone yet


def test_a_disk_that_really_is_full_is_resumed_once_there_is_room(fake, tmp_path: Path, small_disk: Path) -> None:
    sources = fake.videos(tmp_path / "in", 12)
    with pytest.raises(OSError, match=CANNOT) as error:
        fake.extract(small_disk / "s", sources, shard_items=2)
    assert error.value.errno == errno.ENOSPC
    assert_usable(small_disk / "s", {source.id for source in sources})
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert fake.extract(small_disk / "s", sources, shard_items=2).failed == 0
    fake.extract(tmp_path / "whole", sources, shard_items=2)
    assert fake.contents(small_disk / "s") == fake.contents(tmp_path / "whole")


def test_a_folder_that_may_not_be_written_is_read_and_verified_and_left_as_it_is(
    fake, ten_videos: list[Source]
) -> None:
    with tempfile.TemporaryDirectory() as name:  # the folders of pytest are closed to other users
        folder = Path(name, "s")
        fake.extract(folder, ten_videos)
        before = fake.contents(folder)
        for path in (*folder.iterdir(), folder, folder.parent):
            path.chmod(0o555 if path.is_dir() else 0o444)

        def as_nobody() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            assert len(FeatureStore.open(folder)) == 9
            assert verify_store(folder) == []
            with pytest.raises(PermissionError, match=str(folder)):
                fake.extract(folder, ten_videos)
            with pytest.raises(PermissionError, match=str(folder.parent)):
                fake.extract(folder.with_name("new"), ten_videos)

        assert fake.in_child(as_nobody) == 0
        assert fake.contents(folder) == before
        for path in (folder.parent, folder):
            path.chmod(0o755)


def test_a_store_behind_links_is_as_good_as_any(fake, filled: Path, ten_videos: list[Source], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(filled)
    shard = filled / "shard-00001.h5"
    shard.rename(tmp_path / "elsewhere.h5")
    shard.symlink_to(tmp_path / "elsewhere.h5")  # as tools for large files do
    before = fake.contents(filled)
    assert FeatureStore.open(link).features("v5").values.shape[1] == 6
    assert verify_store(link) == []
    assert fake.extract(link, ten_videos).reused == 9
    assert fake.contents(filled) == before
    assert shard.is_symlink()


IN_PLACE_OF_A_FILE: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("what", IN_PLACE_OF_A_FILE)
@pytest.mark.parametrize("name", ["shard-00000.h5", "index.parquet", "failures.parquet", "plan.parquet", "store.json"])
def test_something_else_in_place_of_a_file_is_told_and_never_waited_for(
    fake, filled: Path, ten_videos: list[Source], what: str, name: str
) -> None:
    before = fake.contents(filled)
    (filled / name).unlink()
    IN_PLACE_OF_A_FILE[what](filled / name)
    assert filled / name in {problem.file for problem in verify_store(filled)}
    if name == "store.json":
        with pytest.raises(StoreError):
            FeatureStore.open(filled)
        return
    assert len(FeatureStore.open(filled)) == (5 if name.startswith("shard") else 9)
    if what == "a folder":  # never removed: whoever made it may need it
        with pytest.raises(OSError, match=f"{name} cannot be written"):
            fake.extract(filled, ten_videos)
        (filled / name).rmdir()
    fake.extract(filled, ten_videos)
    assert fake.contents(filled) == before


@pytest.mark.parametrize("size", [0, 1, 100, 4095, 4096, 4097, 6000, -4096, -1])
def test_a_truncated_shard_is_named_and_made_anew(fake, filled: Path, ten_videos: list[Source], size: int) -> None:
    path, before = filled / "shard-00001.h5", fake.contents(filled)
    path.write_bytes(before[path.name][:size])
    with pytest.raises(StoreError, match=r"shard-00001\.h5 is damaged: .*; `rdmf store repair .*` extracts it again"):
        FeatureStore.open(filled)
    with pytest.raises(StoreError, match=r"shard-00001\.h5 is damaged.*; 4 of its sources are not among those given"):
        fake.extract(filled, ten_videos[:2])  # would lose what only it knew
    assert path.stat().st_size == len(before[path.name][:size])
    assert fake.extract(filled, ten_videos).shards == 1
    assert fake.contents(filled) == before


HOSTILE_IDS = {
    "../x": "no path out of a folder",
    "a/../../x": "no path out of a folder",
    "/etc/passwd": "no path out of a folder",
    "\\\\server\\share": "no path out of a folder",
    "C:\\x": "no path out of a folder",
    "x" * 10_000: "at most 200 bytes, got 10000 characters",
    "日" * 67: "at most 200 bytes",
    "nul\0": "printable characters",
    "new\nline": "printable characters",
    "not UTF-8 \udcff": "printable characters",
    " space": "printable characters",
    "": "printable characters",
    "\u202eright to left": "printable characters",
}


def test_hostile_and_repeated_ids_are_failures_with_stage_and_reason_and_the_rest_goes_on(fake, tmp_path: Path) -> None:
    given = ["good", *HOSTILE_IDS, "good", "also/good", "good"]
    sources = [Source(id_, f"sentence {n}") for n, id_ in enumerate(given)]
    receipt = fake.extract_text_sources(tmp_path, sources)
    assert receipt.written == 2
    store = FeatureStore.open(tmp_path)
    assert store.ids == ("good", "also/good")
    assert store.entry("good").source_sha256 == fake.text_extractor()([sources[0]]).__next__().source_sha256
    told = pq.read_table(tmp_path / "failures.parquet").to_pylist()
    assert {row["stage"] for row in told} == {"id"}
    reasons = {row["id"]: row["reason"] for row in told}
    for id_, reason in HOSTILE_IDS.items():
        assert reason in reasons[shown_id(id_)]
        assert len(shown_id(id_).encode()) <= 200
    assert "the first source of it counts" in reasons["good"]
    assert len(reasons) == len(HOSTILE_IDS) + 1
    assert verify_store(tmp_path) == []
    before = fake.contents(tmp_path)
    assert fake.extract_text_sources(tmp_path, sources).reused == 2
    assert fake.contents(tmp_path) == before
    fake.extract_text_sources(tmp_path, [sources[0], Source("also/good", sources[-2].content)])  # put right
    assert FeatureStore.open(tmp_path).failures == ()
    assert verify_store(tmp_path) == []


def test_hostile_ids_of_missing_sources_are_stored_as_text_that_every_tool_reads(fake, tmp_path: Path) -> None:
    gone = [Failure(id_, "missing", "no file \udcff\0" + "of this name " * 100) for id_ in HOSTILE_IDS]
    for _ in range(2):  # what is known from before is not told twice
        fake.extract_text(tmp_path, {"q": "a dog"}, missing=gone)
        told = pq.read_table(tmp_path / "failures.parquet").to_pylist()
        assert [row["id"] for row in told] == sorted(map(shown_id, HOSTILE_IDS))
        assert all(row["reason"].startswith("no file ?") and len(row["reason"]) <= 500 for row in told)
        assert verify_store(tmp_path) == []


def test_hostile_contents_of_sources_are_failures_of_their_source(fake, tmp_path: Path) -> None:
    contents = {
        "nul": "a\0b",
        "long": "x" * 10_000,
        "not UTF-8": "\udcff",
        "folder": ".",
        "device": "/dev/null",
        "": "",
    }
    sources = [Source(f"v {name}", content) for name, content in contents.items()]
    receipt = fake.extract(tmp_path / "s", [*sources, *fake.videos(tmp_path / "in", 2)])
    store = FeatureStore.open(tmp_path / "s")
    assert {"v0", "v1"} <= set(store.ids)
    assert receipt.failed == len(store.failures) >= 4
    assert verify_store(tmp_path / "s") == []


@pytest.mark.parametrize("id_", ["v_1-2.x", "a/b", "日本", "..x", "x..", "q 1", "~x", "a:b", "7"])
def test_ordinary_ids_are_taken_as_they_are(id_: str) -> None:
    check_source_id(id_)
    assert shown_id(id_) == id_
