"""Verifying: any flipped bit of any file is found and told of; what is sound is never called damaged."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pytest

from rdmf.extract.index import Index, build_index, missing_sources, write_index
from rdmf.extract.layout import Failure, Source, StoreError, parse_spec, shard_files
from rdmf.extract.reader import FeatureStore
from rdmf.extract.shard import changed_parts, read_shard
from rdmf.extract.verify import verify_store
from rdmf.manifests.sealed import is_sealed

TABLES = ("plan.parquet", "index.parquet", "failures.parquet")


@pytest.fixture
def small(fake, tmp_path: Path) -> Path:
    """Two shards of two videos, one of which failed and one more of which has no file."""
    sources = fake.videos(tmp_path / "in", 4, bad=(1,))
    fake.extract(tmp_path / "s", sources, shard_items=2, missing=[Failure("gone", "missing", "no file")])
    return tmp_path / "s"


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """One bit of a file changed, and back."""
    file = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(file, 1, bit // 8)[0]
        os.pwrite(file, bytes([byte ^ 1 << bit % 8]), bit // 8)
        yield
        os.pwrite(file, bytes([byte]), bit // 8)
    finally:
        os.close(file)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != ".lock")


def assert_flips_are_found(folder: Path, flips: list[tuple[Path, int]]) -> None:
    for path, bit in flips:
        with flipped(path, bit):
            assert path in {problem.file for problem in verify_store(folder)}, f"{path.name}, bit {bit}"


def test_verify_finds_flipped_bits_in_every_file_and_in_every_byte_of_ids_and_offsets(small: Path) -> None:
    rng = random.Random(1)
    flips = [(path, rng.randrange(8 * path.stat().st_size)) for path in files_of(small) for _ in range(20)]
    shard = small / "shard-00001.h5"
    with h5py.File(shard) as file:
        for name in ("ids", "offsets"):
            at, size = file[name].id.get_offset(), file[name].nbytes
            flips += [(shard, 8 * byte + rng.randrange(8)) for byte in range(at, at + size)]
    assert_flips_are_found(small, flips)
    assert verify_store(small) == []


@pytest.mark.slow
def test_verify_finds_thousands_of_random_flips(small: Path) -> None:
    rng, files = random.Random(2), files_of(small)
    sizes = [path.stat().st_size for path in files]
    picked = [*rng.choices(files, sizes, k=1000), *rng.choices(files, k=1000)]
    assert_flips_are_found(small, [(path, rng.randrange(8 * path.stat().st_size)) for path in picked])


def test_no_bit_of_a_table_or_of_the_spec_is_without_its_checksum(small: Path) -> None:
    for name in TABLES:
        whole = (small / name).read_bytes()
        assert is_sealed(whole)
        for bit in range(8 * len(whole)):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            assert not is_sealed(bytes(changed)), f"{name}, bit {bit}"
    spec = (small / "store.json").read_bytes()
    for bit in range(8 * len(spec)):
        changed = bytearray(spec)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreError):
            parse_spec(bytes(changed), small / "store.json")


def test_no_byte_of_a_shard_is_without_its_checksum(small: Path) -> None:
    path = small / "shard-00000.h5"
    for byte in range(0, path.stat().st_size):
        with flipped(path, 8 * byte + byte % 8):
            assert changed_parts(path), f"byte {byte}"
    assert changed_parts(path) is None


def test_hdf5_never_sees_a_file_whose_structure_has_changed(fake, small: Path) -> None:
    """One flipped bit can make it wait for ever."""
    path = small / "shard-00000.h5"
    with h5py.File(path) as file:
        values = file["values"].id.get_offset(), file["values"].id.get_offset() + file["values"].nbytes
    opened = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h5py, "File", lambda *a, **b: opened.append(a))
        for byte in {*range(0, path.stat().st_size, 13)} - {*range(*values)}:
            with flipped(path, 8 * byte), pytest.raises(StoreError, match="is damaged"):
                read_shard(path, 0, fake.VIDEO)
    assert not opened


def test_a_changed_shard_is_told_with_the_part_and_the_sources_it_holds(small: Path) -> None:
    path = small / "shard-00000.h5"
    with h5py.File(path) as file:
        bits = {name: 8 * file[name].id.get_offset() for name in ("values", "times_s", "failure_reasons")}
    for name, bit in bits.items():
        with flipped(path, bit):
            (problem,) = verify_store(small)
            assert problem.file == path
            assert problem.ids == ("v0", "v1")
            assert (
                f"is damaged: it was changed after it was written (in its {name}); `rdmf store repair" in problem.what
            )
            assert FeatureStore.open(small).verify() == [problem.what]


def test_what_a_broken_shard_holds_is_known_as_long_as_anything_tells(small: Path) -> None:
    shard = small / "shard-00000.h5"
    with h5py.File(shard) as file:
        values, ids = (8 * file[name].id.get_offset() for name in ("values", "ids"))
    with flipped(shard, values):
        for name in TABLES:  # first the plan is lost, then the index that told it in its place
            (small / name).unlink()
            assert {p.file: p.ids for p in verify_store(small)}[shard] in [("v0", "v1"), ("v1", "v0")]
    with flipped(shard, ids):
        assert {p.file: p.ids for p in verify_store(small)}[shard] == ()  # never wrong ids


def test_a_lost_shard_is_named_with_its_sources_and_made_anew(fake, filled: Path, ten_videos: list[Source]) -> None:
    before = fake.contents(filled)
    (filled / "shard-00000.h5").unlink()
    store = FeatureStore.open(filled)
    assert len(store) == 5
    assert store.pending == 4
    problem = verify_store(filled)[0]
    assert "shard-00000.h5 is not there" in problem.what
    assert problem.ids == ("v0", "v1", "v2", "v3")
    assert fake.extract(filled, ten_videos).shards == 1
    assert {**fake.contents(filled), ".lock": b""} == {**before, ".lock": b""}


def test_a_lost_or_damaged_table_is_told_and_the_store_still_opens(filled: Path) -> None:
    ids, failures = FeatureStore.open(filled).ids, FeatureStore.open(filled).failures
    for name in TABLES:
        path, whole = filled / name, (filled / name).read_bytes()
        for damage in (path.unlink, lambda path=path: path.write_bytes(b""), lambda path=path: cut(path)):
            damage()
            store = FeatureStore.open(filled)
            assert (store.ids, store.failures) == (ids, failures)
            assert [problem.file for problem in verify_store(filled)] == [path]
            path.write_bytes(whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def test_an_index_of_fewer_shards_than_there_are_is_not_believed(fake, filled: Path) -> None:
    ids = FeatureStore.open(filled).ids
    (filled / "shard-00002.h5").rename(filled / "aside")
    write_index(filled, fake.VIDEO, build_index(filled, fake.VIDEO, missing_sources(filled, fake.VIDEO)))
    (filled / "aside").rename(filled / "shard-00002.h5")
    assert FeatureStore.open(filled).ids == ids
    assert [problem.file.name for problem in verify_store(filled)] == ["index.parquet"]


def test_a_failures_table_of_another_index_is_not_believed(fake, filled: Path) -> None:
    """As after a kill between the two: failures.parquet is written first."""
    failures = FeatureStore.open(filled).failures
    index = build_index(filled, fake.VIDEO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rdmf.extract.index.INDEX_FILE", "elsewhere.parquet")
        write_index(filled, fake.VIDEO, Index({}, (), dict(list(index.shards.items())[:1])))
    assert FeatureStore.open(filled).failures == failures


def test_an_index_that_points_elsewhere_is_found(fake, filled: Path) -> None:
    index = build_index(filled, fake.VIDEO)
    swapped = dict(zip(index.items, reversed(index.items.values()), strict=True))
    write_index(filled, fake.VIDEO, Index(swapped, index.failures, index.shards))
    assert any("does not fit the shards" in problem.what for problem in verify_store(filled))
    with pytest.raises(StoreError, match=r"`rdmf store repair .*` makes it again"):
        FeatureStore.open(filled).features("v0")


def test_progress_is_told_in_bytes_up_to_all_of_them(filled: Path) -> None:
    told: list[tuple[int, int]] = []
    verify_store(filled, lambda done, total: told.append((done, total)))
    total = sum(path.stat().st_size for path in shard_files(filled).values())
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (total, total)
    assert len(told) == 3
