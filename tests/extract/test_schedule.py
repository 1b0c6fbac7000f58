"""Extraction through Dask: the same bytes as without, workers that die, runs that are killed from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from rdmf.extract import workers as workers_module
from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import LOCK_FILE, Extractor, Failure, Item, Source, StoreError, StoreSpec, text_sha256
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import Progress, Receipt, extract_store
from rdmf.extract.workers import Workers

# The workers cannot import this file: what they need of it goes along
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SPEC = StoreSpec("text", "fake", {"source": "fake", "sha256": "ab", "random": True}, {}, None, 4)


class DecodeError(ValueError):
    """As a VideoError is: it knows its stage and reason."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage, self.reason = stage, reason


def extract(source: Source) -> Item:
    """Features that follow from the sentence; some sentences go wrong."""
    if source.content == "die":
        time.sleep(0.5)  # as a decoder that crashes: not in the worker's first instant
        os.kill(os.getpid(), signal.SIGKILL)
    if source.content == "undecodable":
        raise DecodeError("decode", "frame 7 of 20 is torn")
    if source.content == "refused":
        raise ValueError("expected a sentence")
    if source.content == "our bug":
        raise KeyError("lost")
    digest = text_sha256(source.content)
    values = np.random.default_rng(int(digest[:8], 16)).normal(size=(1 + int(digest[0], 16), 4))
    return Item(source.id, values, None, None, digest)


def make_extractor() -> Extractor:
    return one_by_one(extract)


def sources(n: int, **special: str) -> list[Source]:
    """q0, q1, ...; `special` sets the sentence of some."""
    return [Source(f"q{i}", special.get(f"q{i}", f"sentence {i}")) for i in range(n)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


def test_dask_writes_the_bytes_that_one_process_writes(tmp_path: Path, workers: Workers) -> None:
    given = sources(23, q5="refused")
    told: list[Progress] = []
    receipt = extract_store(
        tmp_path / "dask", SPEC, given, make_extractor, workers, shard_items=4, on_progress=told.append
    )
    here = extract_store(tmp_path / "here", SPEC, given, make_extractor, shard_items=4)
    assert replace(here, seconds=0) == replace(receipt, seconds=0)
    assert (receipt.written, receipt.reused, receipt.failed, receipt.shards) == (22, 0, 1, 6)
    assert contents(tmp_path / "dask") == contents(tmp_path / "here")
    assert [at.done for at in told] == sorted(at.done for at in told)
    assert len(told) == 1 + 6
    assert told[-1] == Progress(23, 23, 1, receipt.rows)


def test_an_exception_is_a_named_failure_of_its_source(tmp_path: Path, workers: Workers) -> None:
    given = sources(6, q1="undecodable", q2="refused", q4="our bug")
    extract_store(tmp_path, SPEC, given, make_extractor, workers)
    store = FeatureStore.open(tmp_path)
    assert store.ids == ("q0", "q3", "q5")
    assert store.failures == (
        Failure("q1", "decode", "frame 7 of 20 is torn"),
        Failure("q2", "extract", "expected a sentence"),
        Failure("q4", "extract", "KeyError: 'lost'"),
    )


def test_sources_that_kill_their_worker_are_named_and_their_neighbours_kept(tmp_path: Path, workers: Workers) -> None:
    given = sources(12, q1="die", q6="die", q7="refused")
    told: list[Progress] = []
    receipt = extract_store(tmp_path, SPEC, given, make_extractor, workers, shard_items=4, on_progress=told.append)
    assert (receipt.written, receipt.failed, receipt.shards) == (9, 3, 3)
    assert (told[-1].done, told[-1].total, told[-1].failed) == (12, 12, 3)
    store = FeatureStore.open(tmp_path)
    assert [(f.id, f.stage) for f in store.failures] == [("q1", "crash"), ("q6", "crash"), ("q7", "extract")]
    for source in given:
        if source.content.startswith("sentence"):
            want = extract(source).values.astype(np.float16)
            np.testing.assert_array_equal(store.features(source.id).values, want)
    assert store.verify() == []
    assert not list(tmp_path.glob(".tmp-*"))
    # the crash is remembered: nobody dies again for it
    assert extract_store(tmp_path, SPEC, given, make_extractor, workers, shard_items=4).shards == 0


def test_the_extractor_is_built_once_per_worker_process(tmp_path: Path, workers: Workers) -> None:
    log = tmp_path / "built"

    def make() -> Extractor:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return one_by_one(extract)

    extract_store(tmp_path / "s", SPEC, sources(40), make, workers, shard_items=2)
    pids = log.read_text().split()
    assert 1 <= len(pids) <= 2
    assert len(set(pids)) == len(pids)
    assert str(os.getpid()) not in pids


def test_an_extractor_that_cannot_be_built_ends_the_run_and_blames_no_source(tmp_path: Path, workers: Workers) -> None:
    def no_weights() -> Extractor:
        raise ValueError("expected weights at w.pth, got no file")

    def too_large() -> Extractor:
        time.sleep(1)  # as an encoder that is too large: not in the worker's first instant
        os.kill(os.getpid(), signal.SIGKILL)
        return one_by_one(extract)

    with pytest.raises(ValueError, match="expected weights at"):
        extract_store(tmp_path, SPEC, sources(3), no_weights, workers)
    with pytest.raises(RuntimeError, match="the workers die while they load the encoder fake"):
        extract_store(tmp_path, SPEC, sources(3), too_large, workers)
    assert FeatureStore.open(tmp_path).failures == ()
    assert extract_store(tmp_path, SPEC, sources(3), make_extractor, workers).written == 3


def test_a_folder_that_cannot_be_written_ends_the_run_with_a_sentence(tmp_path: Path, workers: Workers) -> None:
    def make() -> Extractor:
        def remove_the_folder(source: Source) -> Item:
            if source.id == "q2":
                (tmp_path / "s").rename(tmp_path / "moved")
            return extract(source)

        return one_by_one(remove_the_folder)

    with pytest.raises(OSError, match=r"shard-00001\.h5 cannot be written"):
        extract_store(tmp_path / "s", SPEC, sources(3), make, shard_items=2)
    (tmp_path / "moved").rename(tmp_path / "s")
    assert extract_store(tmp_path / "s", SPEC, sources(3), make_extractor, workers).written == 1


def test_workers_keep_the_memory_that_they_free_for_the_next_step(workers: Workers) -> None:
    client = workers.client()
    assert client is not None
    theirs = client.run(lambda: os.environ.get("MALLOC_TRIM_THRESHOLD_"))
    assert set(theirs.values()) == {os.environ.get("MALLOC_TRIM_THRESHOLD_")}  # not Dask's 64 KiB


def test_an_existing_scheduler_is_used_by_its_address(tmp_path: Path, workers: Workers) -> None:
    client = workers.client()
    assert client is not None
    with Workers(scheduler=client.scheduler.address) as other:
        assert other.parallel >= 1
        assert extract_store(tmp_path, SPEC, sources(5), make_extractor, other, shard_items=2).shards == 3
    assert client.submit(sum, [1, 2]).result() == 3  # and left running


def test_no_scheduler_at_the_address_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "CONNECT_S", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with (
            pytest.raises(ValueError, match=f"expected a Dask scheduler at '{address}', got none"),
            Workers(scheduler=address) as workers,
        ):
            workers.client()


def test_a_worker_of_another_rdmf_is_named_before_any_work(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    client = workers.client()
    assert client is not None
    monkeypatch.setattr(workers_module, "version", lambda name: "99.0")
    with (
        pytest.raises(ValueError, match=r"expected rdmf 99\.0 on every worker of .*, got 0\..* on tcp://"),
        Workers(scheduler=client.scheduler.address) as other,
    ):
        other.client()


@pytest.mark.parametrize("text", ["-1", "two", "4-2", "0-3", "1.5", ""])
def test_numbers_of_workers_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of workers >= 0, or a range"):
        Workers.parse(text)


def test_there_is_one_worker_for_each_gpu_and_each_sees_its_own(tmp_path: Path) -> None:
    with Workers(gpus=("0", "3")) as workers:
        client = workers.client()
        assert client is not None
        assert workers.parallel == 2
        client.wait_for_workers(2)
        assert sorted(client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["0", "3"]
        assert extract_store(tmp_path, SPEC, sources(9), make_extractor, workers, shard_items=2).shards == 5


def test_workers_are_added_while_there_is_work_for_them(tmp_path: Path) -> None:
    def make() -> Extractor:
        def slowly(source: Source) -> Item:
            time.sleep(0.3)
            return extract(source)

        return one_by_one(slowly)

    counts = []
    with Workers.parse("1-3") as workers:
        client = workers.client()
        assert client is not None
        count = lambda _: counts.append(len(client.scheduler_info(n_workers=-1)["workers"]))  # noqa: E731
        extract_store(tmp_path, SPEC, sources(60), make, workers, shard_items=1, on_progress=count)
    assert max(counts) > 1
    assert FeatureStore.open(tmp_path).verify() == []


def test_a_second_extraction_waits_and_then_finds_all_done(tmp_path: Path) -> None:
    folder, locked, waits = tmp_path / "s", tmp_path / "locked", tmp_path / "waits"

    def until(path: Path) -> None:
        while not path.exists():
            time.sleep(0.01)

    def make() -> Extractor:
        locked.touch()
        until(waits)
        return one_by_one(extract)

    def also() -> None:
        until(locked)
        second.append(extract_store(folder, SPEC, sources(7), make_extractor, on_wait=waits.touch))

    second: list[Receipt] = []
    other = threading.Thread(target=also)
    other.start()
    assert extract_store(folder, SPEC, sources(7), make).written == 7
    other.join(30)
    assert (second[0].written, second[0].reused, second[0].shards) == (0, 7, 0)


def test_workers_of_a_run_that_was_overtaken_write_nothing_more(tmp_path: Path) -> None:
    def make() -> Extractor:
        def overtaken(source: Source) -> Item:
            (tmp_path / LOCK_FILE).write_text("another")  # as the next run does once this one is dead
            return extract(source)

        return one_by_one(overtaken)

    with pytest.raises(StoreError, match="another extraction has taken over"):
        extract_store(tmp_path, SPEC, sources(3), make)
    assert not list(tmp_path.glob("shard-*"))
    assert extract_store(tmp_path, SPEC, sources(3), make_extractor).written == 3


KILLED_RUN = """
import sys, time
from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Item, Source, StoreSpec, text_sha256
from rdmf.extract.schedule import extract_store
from rdmf.extract.workers import Workers
import numpy as np

def make_extractor():
    def extract(source):
        time.sleep(0.02)
        digest = text_sha256(source.content)
        values = np.random.default_rng(int(digest[:8], 16)).normal(size=(1 + int(digest[0], 16), 4))
        return Item(source.id, values, None, None, digest)
    return one_by_one(extract)

if __name__ == "__main__":
    spec = StoreSpec("text", "fake", {"source": "fake", "sha256": "ab", "random": True}, {}, None, 4)
    sources = [Source(f"q{i}", f"sentence {i}") for i in range(60)]
    with Workers(2) as workers:
        extract_store(sys.argv[1], spec, sources, make_extractor, workers, shard_items=3)
"""


def test_a_run_with_workers_killed_from_outside_resumes_to_the_identical_store(tmp_path: Path) -> None:
    script, folder, whole = tmp_path / "run.py", tmp_path / "killed", tmp_path / "whole"
    script.write_text(KILLED_RUN)
    extract_store(whole, SPEC, sources(60), make_extractor, shard_items=3)
    for shards in (1, 9):  # of 20
        run = subprocess.Popen([sys.executable, script, folder])
        until = time.monotonic() + 40
        while len(list(folder.glob("shard-*.h5"))) < shards and run.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.005)
        run.kill()
        assert run.wait() == -signal.SIGKILL
        assert not (folder / "index.parquet").exists()
    receipt = extract_store(folder, SPEC, sources(60), make_extractor, shard_items=3)
    assert receipt.reused >= 9 * 3
    assert receipt.written == 60 - receipt.reused
    assert contents(folder) == contents(whole)
