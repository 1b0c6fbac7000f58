"""Videos and stores for tests, made on the spot."""

from __future__ import annotations

import hashlib
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Extractor, Item, Source, StoreSpec, text_sha256
from rdmf.extract.schedule import Receipt, extract_store

SIDE = 64


def render(path: Path, seconds: float, seed: int = 0, rate: int = 12) -> Path:
    """Smooth noise that drifts: every picture is another one, every seed another video."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (9, 9, 3))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for i in range(round(seconds * rate)):
            picture = np.kron(np.roll(coarse, i, (0, 1)), np.ones((8, 8, 1)))[:SIDE, :SIDE].astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def short_videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six videos of 1 to 6 s, v0.mp4 to v5.mp4."""
    folder = tmp_path_factory.mktemp("short_videos")
    return [render(folder / f"v{i}.mp4", 1 + i * 0.9, seed=i) for i in range(6)]


DIM = 6


class FakeStores:
    """Stores whose features follow from the bytes of small files, or from sentences: quick, and known to every bit."""

    VIDEO = StoreSpec("video", "fake", {"source": "a.pth", "sha256": "0" * 64, "random": False}, {"n": 4}, 2.0, DIM)
    TEXT = StoreSpec("text", "hub/fake", {"source": "hub/fake", "sha256": "", "random": True}, {}, None, DIM)

    @staticmethod
    def video_extractor() -> Extractor:
        """A file that begins with 'bad' cannot be decoded."""

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

    @staticmethod
    def text_extractor() -> Extractor:
        def extract(source: Source) -> Item:
            digest = text_sha256(source.content)
            values = np.random.default_rng(int(digest[:8], 16)).normal(size=(len(source.content.split()), DIM))
            return Item(source.id, values, None, None, digest)

        return one_by_one(extract)

    @staticmethod
    def videos(folder: Path, n: int, bad: tuple[int, ...] = ()) -> list[Source]:
        """v0, v1, ... with a file each."""
        folder.mkdir(exist_ok=True)
        sources = []
        for i in range(n):
            path = folder / f"v{i}.mp4"
            path.write_bytes((b"bad" if i in bad else b"video") + b"%d" % i)
            sources.append(Source(f"v{i}", str(path)))
        return sources

    @classmethod
    def extract(cls, folder: Path, sources: Sequence[Source], **options: Any) -> Receipt:
        """Bring a store of videos up to date."""
        return extract_store(folder, cls.VIDEO, sources, cls.video_extractor, **options)

    @classmethod
    def extract_text(cls, folder: Path, sentences: Mapping[str, str], **options: Any) -> Receipt:
        """Bring a store of sentences up to date; by id."""
        return cls.extract_text_sources(folder, [Source(*item) for item in sentences.items()], **options)

    @classmethod
    def extract_text_sources(cls, folder: Path, sources: Sequence[Source], **options: Any) -> Receipt:
        return extract_store(folder, cls.TEXT, sources, cls.text_extractor, **options)

    @staticmethod
    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    @staticmethod
    def in_child(work: Callable[[], None]) -> int:
        """Run in a forked process; its wait status."""
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return os.waitpid(pid, 0)[1]


@pytest.fixture(scope="session")
def fake() -> type[FakeStores]:
    return FakeStores


@pytest.fixture
def ten_videos(tmp_path: Path) -> list[Source]:
    """The sources of `filled`; v4 cannot be decoded."""
    return FakeStores.videos(tmp_path / "in", 10, bad=(4,))


@pytest.fixture
def filled(tmp_path: Path, ten_videos: list[Source]) -> Path:
    """A store of 10 videos in 3 shards."""
    FakeStores.extract(tmp_path / "s", ten_videos, shard_items=4)
    return tmp_path / "s"
