"""What a run leaves that did not end: killed at any moment, the next one makes the identical store."""

from __future__ import annotations

import os
import signal
import time
from itertools import cycle
from pathlib import Path

import pytest

from rdmf.extract.layout import Failure, Source
from rdmf.extract.reader import FeatureStore
from rdmf.extract.verify import verify_store


def test_a_run_killed_at_any_moment_resumes_to_the_identical_store(
    fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = fake.videos(tmp_path / "in", 7, bad=(2,))
    gone = [Failure("gone", "missing", "no file")]

    def run(folder: Path) -> None:
        fake.extract(folder, sources, shard_items=3, missing=gone)

    run(tmp_path / "whole")
    whole = fake.contents(tmp_path / "whole")
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
        status = fake.in_child(lambda folder=folder: run(folder))
        monkeypatch.setattr(os, "fsync", real)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        if (folder / "store.json").exists():
            assert set(FeatureStore.open(folder).ids) <= {s.id for s in sources}  # readable as far as it is
            told = [problem.what for problem in verify_store(folder)]
            assert all("is not there" in what or "does not fit" in what for what in told), (
                told
            )  # cut short, not damaged
        run(folder)
        assert fake.contents(folder) == whole
        moments += 1
    assert moments == 2 * (len(whole) - 1)  # file and folder are synced once for each file but the lock
    assert fake.contents(folder) == whole
    assert verify_store(folder) == []


def test_what_killed_runs_left_is_never_read_and_goes_with_the_next_run(
    fake, filled: Path, ten_videos: list[Source]
) -> None:
    whole = fake.contents(filled)
    for name in (".tmp-1-ab-shard-00000.h5", ".tmp-2-cd-index.parquet", ".part-00000-0123456789abcdef.h5"):
        (filled / name).write_bytes(b"half a file")
    assert len(FeatureStore.open(filled)) == 9
    assert verify_store(filled) == []
    assert fake.extract(filled, ten_videos).shards == 0
    assert fake.contents(filled) == whole


def test_a_clock_that_jumps_and_times_of_files_that_lie_change_nothing(
    fake, filled: Path, ten_videos: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fake.contents(filled)
    jumps = cycle([0.0, 4e9, -1e9, 1.7e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(jumps)) * 10**9)
    fake.extract(tmp_path / "jumping", ten_videos, shard_items=4)
    assert fake.contents(tmp_path / "jumping") == whole
    for when, folder in ((0, filled), (4_000_000_000, tmp_path / "jumping")):
        for path in (*folder.iterdir(), *map(Path, (source.content for source in ten_videos))):
            os.utime(path, (when, when))
        assert verify_store(folder) == []
        assert fake.extract(folder, ten_videos).reused == 9
        assert fake.contents(folder) == whole
