"""SIGKILL at random moments, of the run or of its workers and decoders: the store ends up the same to the byte."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdmf.extract.extractors import VideoExtraction
from rdmf.extract.layout import Source, shard_files
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import extract_store
from rdmf.extract.shard import changed_parts

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes of a run in /proc")

CHEAP = '''
"""A run over files whose features follow from their bytes: quick to start, so that it can be killed often."""
import hashlib, sys, time
from pathlib import Path
import numpy as np
from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Item, Source, StoreSpec
from rdmf.extract.schedule import extract_store
from rdmf.extract.workers import Workers

SPEC = StoreSpec("video", "cheap", {"sha256": "ab"}, {}, 1.0, 8)

def make_extractor():
    def extract(source):
        raw = Path(source.content).read_bytes()
        if raw.endswith(b"7"):
            raise ValueError("expected a video, got none")
        time.sleep(0.03)
        digest = hashlib.sha256(raw).hexdigest()
        values = np.random.default_rng(int(digest[:8], 16)).normal(size=(5, 8))
        edges = np.arange(6.0)
        return Item(source.id, values, np.stack([edges[:-1], edges[1:]], 1), 5.0, digest)
    return one_by_one(extract)

def run(folder, videos, workers):
    sources = [Source(path.name, str(path)) for path in sorted(Path(videos).iterdir())]
    return extract_store(folder, SPEC, sources, make_extractor, workers, shard_items=6)

if __name__ == "__main__":
    with Workers(2) as workers:
        run(sys.argv[1], sys.argv[2], workers)
'''

REAL = """
import sys
from pathlib import Path
from rdmf.extract.extractors import VideoExtraction
from rdmf.extract.layout import Source
from rdmf.extract.schedule import extract_store
from rdmf.extract.workers import Workers

if __name__ == "__main__":
    extraction = VideoExtraction("swin_nano", None, 0.2)
    sources = [Source(path.name, str(path)) for path in sorted(Path(sys.argv[2]).iterdir())]
    with Workers(2) as workers:
        extract_store(sys.argv[1], extraction.spec(), sources, extraction, workers, shard_items=4)
"""


def family(pid: int) -> list[int]:
    """The children of a process and their children, down to the last."""
    try:
        told = [Path(task / "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    children = [int(child) for pids in told for child in pids]
    return children + [each for child in children for each in family(child)]


def kill_until_done(script: Path, folder: Path, videos: Path, parents: int, others: int, pause_s: float) -> None:
    """Start the run, kill it or one of its processes at a random moment, and so on; then let it end."""
    rng = random.Random(7)
    plan = ["parent"] * parents + ["other"] * others
    rng.shuffle(plan)
    run: subprocess.Popen | None = None
    leftover: list[int] = []
    for whom in plan:
        if run is None or run.poll() is not None:
            assert run is None or run.returncode in (0, -signal.SIGKILL)
            run = subprocess.Popen([sys.executable, script, folder, videos])
        time.sleep(rng.uniform(0.05, pause_s))
        children = family(run.pid)
        if whom == "parent" or not children:
            leftover += children
            run.kill()
            run.wait()
            whole_shards_only(folder)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(children), signal.SIGKILL)
    assert run is not None
    if run.poll() is None:
        run.kill()
    run.wait()
    leftover += family(run.pid)
    assert subprocess.run([sys.executable, script, folder, videos], timeout=200).returncode == 0
    for pid in leftover:  # workers notice within a moment that their run is gone
        until = time.monotonic() + 30
        while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < until, Path(f"/proc/{pid}/cmdline").read_text()
            time.sleep(0.05)


def whole_shards_only(folder: Path) -> None:
    if folder.is_dir():
        assert all(changed_parts(path) is None for path in shard_files(folder).values())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_fifty_kills_leave_the_store_of_an_undisturbed_run(tmp_path: Path) -> None:
    videos, script = tmp_path / "videos", tmp_path / "cheap.py"
    videos.mkdir()
    for i in range(150):
        (videos / f"v{i:03}").write_bytes(b"a video %d" % i)
    script.write_text(CHEAP)
    kill_until_done(script, tmp_path / "killed", videos, parents=20, others=30, pause_s=2.0)
    assert subprocess.run([sys.executable, script, tmp_path / "whole", videos], timeout=200).returncode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    store = FeatureStore.open(tmp_path / "killed")
    assert len(store) == 135
    assert store.verify() == []


@pytest.mark.slow
def test_killed_workers_and_decoders_of_real_videos_leave_the_same_features(
    short_videos: list[Path], tmp_path: Path
) -> None:
    videos, script = tmp_path / "videos", tmp_path / "real.py"
    videos.mkdir()
    for i in range(60):
        (videos / f"{i:02}.mp4").symlink_to(short_videos[i % len(short_videos)])
    script.write_text(REAL)
    kill_until_done(script, tmp_path / "killed", videos, parents=3, others=7, pause_s=6.0)
    extraction = VideoExtraction("swin_nano", None, 0.2)
    sources = [Source(path.name, str(path)) for path in sorted(videos.iterdir())]
    extract_store(tmp_path / "whole", extraction.spec(), sources, extraction, shard_items=4)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
