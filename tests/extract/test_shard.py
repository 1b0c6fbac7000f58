"""One shard: the same bytes for the same items, what it tells of its store, and hostile files refused."""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from rdmf.extract import checksums, shard
from rdmf.extract.checksums import BLOCK_BYTES, block_of, changed_parts
from rdmf.extract.layout import Failure, Item, Source, StoreError, shard_files
from rdmf.extract.shard import check_shard, encode_shard, read_shard, spec_of


def test_a_shard_is_the_same_bytes_whenever_it_is_written(fake) -> None:
    items = [Item("é", np.ones((2, 6), np.float16), np.array([[0, 2], [2, 4.0]]), 4.0, "0" * 64)]
    failures = [Failure("b", "open", "two\nlines\0and a null")]
    first = encode_shard(fake.VIDEO, 3, items, failures, {"é": "5 bytes", "b": "0 bytes"})
    time.sleep(1.1)  # HDF5 keeps times in seconds, where it keeps them
    assert encode_shard(fake.VIDEO, 3, items, failures, {"é": "5 bytes", "b": "0 bytes"}) == first


def test_a_shard_keeps_the_order_of_its_sources_and_the_spec_of_its_store(fake, tmp_path: Path) -> None:
    sources = fake.videos(tmp_path / "in", 7, bad=(0, 3, 4, 6))
    fake.extract(tmp_path / "s", sources, shard_items=7)
    read = read_shard(tmp_path / "s/shard-00000.h5", 0, fake.VIDEO)
    assert [record.id for record in read.records] == [source.id for source in sources]
    assert [record.id for record in read.failures] == ["v0", "v3", "v4", "v6"]
    assert spec_of(read.path) == fake.VIDEO
    assert fake.VIDEO.to_json() == (tmp_path / "s/store.json").read_text()


def test_checking_a_shard_holds_little_of_it_in_memory(fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.extract_text(tmp_path, {"long": "word " * 400_000})
    path = tmp_path / "shard-00000.h5"
    assert path.stat().st_size > 4_000_000
    monkeypatch.setattr(shard, "CHECKED_BYTES", 60_000)
    monkeypatch.setattr(checksums, "CHUNK_BYTES", 60_000)
    tracemalloc.start()
    check_shard(path, 0, fake.TEXT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("value", "sound"), [(65504, True), (-65504, True), (np.inf, False), (-np.inf, False), (np.nan, False)]
)
def test_features_that_are_not_finite_are_found_though_all_checksums_fit(
    fake, filled: Path, value, sound: bool
) -> None:
    path = filled / "shard-00001.h5"
    with h5py.File(path, "r+") as file:
        file["values"][-1, 2] = value
    seal(path)
    assert read_shard(path, 1, fake.VIDEO).rows
    if sound:
        check_shard(path, 1, fake.VIDEO)
    else:
        with pytest.raises(StoreError, match="features that are not finite"):
            check_shard(path, 1, fake.VIDEO)


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
    "chunked": _replace("values", lambda file, old: file.create_dataset("values", data=old, chunks=(1, old.shape[1]))),
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
    "an id that leads out of a folder": lambda file: file["ids"].__setitem__(1, b"../"),
    "an id that is not UTF-8": lambda file: file["ids"].__setitem__(1, b"\xff\xfe"),
    "a duration that is not a number": lambda file: file["duration_s"].__setitem__(0, np.nan),
    "a failure at no place": lambda file: file["failure_at"].__setitem__(0, 99),
    "a failure before all places": lambda file: file["failure_at"].__setitem__(0, -(2**63)),
    "another shard": lambda file: file.attrs.__setitem__("shard", 7),
    "other settings": lambda file: file.attrs.__setitem__("fingerprint", "0" * 12),
    "another version": lambda file: file.attrs.__setitem__("format_version", 1),
    "no version": lambda file: file.attrs.__delitem__("format_version"),
}


def seal(path: Path) -> None:
    """Give a shard checksums that fit: what is wrong with it is its content then."""

    def place(dataset: h5py.Dataset) -> tuple[int, int]:
        at = dataset.id.get_offset()
        return (BLOCK_BYTES, BLOCK_BYTES) if at is None or at < BLOCK_BYTES else (at, at + dataset.nbytes)

    with h5py.File(path) as file:
        own = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        places = {name: place(file[name]) for name in own if isinstance(file[name], h5py.Dataset)}
    image = path.read_bytes()[BLOCK_BYTES:]
    path.write_bytes(block_of(image, places) + image)
    assert changed_parts(path) is None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_shard_is_refused(fake, filled: Path, name: str) -> None:
    path = filled / "shard-00001.h5"
    shutil.copy(filled / "shard-00000.h5", filled / "other.h5")
    read_shard(path, 1, fake.VIDEO)
    with h5py.File(path, "r+") as file:
        HOSTILE[name](file)
    seal(path)
    with pytest.raises(StoreError, match=r"shard-00001\.h5 is damaged"):
        read_shard(path, 1, fake.VIDEO)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to a pipe": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
}


@pytest.mark.parametrize("name", NO_FILES)
def test_what_only_has_the_name_of_a_shard_is_neither_read_nor_waited_for(fake, filled: Path, name: str) -> None:
    path = filled / "shard-00001.h5"
    path.unlink()
    NO_FILES[name](path)
    assert list(shard_files(filled)) == [0, 2]
    for read in (read_shard, check_shard):
        with pytest.raises((StoreError, OSError), match=r"shard-00001\.h5"):
            read(path, 1, fake.VIDEO)


def test_permission_denied_is_not_taken_for_damage(
    fake, filled: Path, ten_videos: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> h5py.File:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", denied)
    with pytest.raises(PermissionError):
        fake.extract(filled, ten_videos)
    assert len(shard_files(filled)) == 3
