"""A small dataset of features with an answer in them, written as a real store."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Failure, Item, Source, StoreSpec, text_sha256
from rdmf.extract.schedule import extract_store
from rdmf.manifests.files import write_manifest
from rdmf.manifests.schema import Finding, Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.config import Config, parse_config
from rdmf.pipeline.stage_one.repair import Means, RepairReport, repair

TOPICS, WIDTH, CLIP_SECONDS = 4, 12, 2.0

TINY = {
    "model": {
        "hidden": 32, "dropout": 0.0, "input_dropout": 0.0, "fusion": {"kind": "reaction_diffusion", "ffn": 64},
        "moment": {"queries": 10, "heads": 4},
    },
    "training": {"batch": 8, "epochs": 3, "lr": 1e-3},
}  # fmt: skip


@pytest.fixture
def tiny_config() -> Config:
    return parse_config(TINY, "tiny")


def video_topics(vid: str) -> np.ndarray:
    """Which topic each clip of a video shows; lengths differ, the last clip is short."""
    rng = np.random.default_rng([7, *vid.encode()])
    return np.repeat(rng.permutation(TOPICS), rng.integers(2, 7, TOPICS))


def clip_times(vid: str) -> np.ndarray:
    edges = np.arange(len(video_topics(vid)) + 1) * CLIP_SECONDS
    edges[-1] -= 0.7
    return np.stack([edges[:-1], edges[1:]], 1)


def make_item(source: Source) -> Item:
    """Features that show the topic of a clip, or of a sentence, under noise."""
    rng = np.random.default_rng([11, *source.id.encode()])
    if source.content.startswith("topic"):
        topic = int(source.content.split()[1])
        values = np.eye(WIDTH)[[topic, topic]] * 3 + rng.normal(0, 0.1, (2, WIDTH))
        return Item(source.id, values, None, None, text_sha256(source.content))
    topics, times = video_topics(source.id), clip_times(source.id)
    values = np.eye(WIDTH)[topics] * 3 + rng.normal(0, 0.1, (len(topics), WIDTH))
    return Item(source.id, values, times, float(times[-1, 1]), "0" * 64)


def make_extractor():
    return one_by_one(make_item)


def make_manifest(per_split: dict[str, int]) -> Manifest:
    videos, queries = {}, []
    for split, count in per_split.items():
        for i in range(count):
            vid = f"{split}{i:03d}"
            topics, times = video_topics(vid), clip_times(vid)
            videos[vid] = Video(vid, float(times[-1, 1]))
            for topic in range(TOPICS):
                clips = np.flatnonzero(topics == topic)
                window = Moment(float(times[clips[0], 0]), float(times[clips[-1], 1]))
                saliency = Saliency(tuple(clips.tolist()), tuple((3.0, 4.0, 4.0) for _ in clips), CLIP_SECONDS)
                queries.append(Query(f"{vid}-{topic}", vid, f"topic {topic}", split, (window,), saliency))
    return Manifest("tiny", CLIP_SECONDS, videos, tuple(queries))


def write_features(folder: Path, manifest: Manifest, without: tuple[str, ...] = ()) -> Path:
    specs = {
        "video": StoreSpec("video", "topics", {"sha256": "1" * 64, "random": False}, {}, CLIP_SECONDS, WIDTH),
        "text": StoreSpec("text", "topics", {"sha256": "2" * 64, "random": False}, {}, None, WIDTH),
    }
    sources = {
        "video": [Source(vid, vid) for vid in manifest.videos if vid not in without],
        "text": [Source(q.qid, q.text) for q in manifest.queries],
    }
    for kind, spec in specs.items():
        extract_store(folder / kind / spec.folder_name, spec, sources[kind], make_extractor)
    write_manifest(manifest, folder / "manifest.parquet")
    return folder


class Tiny:
    """What tests need to make variants of the tiny dataset."""

    item = staticmethod(make_item)
    manifest = staticmethod(make_manifest)
    write_manifest = staticmethod(write_features)

    @staticmethod
    def write(folder: Path, per_split: dict[str, int], without: tuple[str, ...] = ()) -> Path:
        return write_features(folder, make_manifest(per_split), without)


@pytest.fixture(scope="session")
def tiny() -> type[Tiny]:
    return Tiny


@pytest.fixture(scope="session")
def tiny_features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training, 8 validation and 8 test videos with 4 sentences each."""
    return write_features(tmp_path_factory.mktemp("tiny"), make_manifest({"train": 40, "val": 8, "test": 8}))


class FileExtraction:
    """Features that follow from a file's bytes, or from a sentence; knows what it was asked for."""

    asked: ClassVar[list[str]] = []

    def __call__(self):
        def extract(source: Source) -> Item:
            FileExtraction.asked.append(source.id)
            video = source.content.endswith(".mp4")
            raw = Path(source.content).read_bytes() if video else source.content.encode()
            if raw.startswith(b"bad"):
                raise ValueError("expected a video, got rubbish")
            digest = hashlib.sha256(raw).hexdigest() if video else text_sha256(source.content)
            rng = np.random.default_rng(int(digest[:8], 16))
            rows = int(rng.integers(1, 5))
            values, starts = rng.normal(size=(rows, 4)), 2.0 * np.arange(rows)
            if video:
                return Item(source.id, values, np.stack([starts, starts + 2], 1), 2.0 * rows, digest)
            return Item(source.id, values, None, None, digest)

        return one_by_one(extract)


class Mendable:
    """What the tests of repair do with features: make, damage and mend them, and compare."""

    Extraction = FileExtraction
    SPECS: ClassVar[dict[str, StoreSpec]] = {
        "video": StoreSpec("video", "fake", {"source": "a.pth", "sha256": "1" * 64}, {}, 2.0, 4),
        "text": StoreSpec("text", "fake", {"source": "fake", "sha256": "2" * 64}, {}, None, 4),
    }

    @classmethod
    def make(cls, tmp_path: Path, specs: dict[str, StoreSpec] | None = None) -> Path:
        """8 videos in 3 shards (v2 cannot be decoded), one more that has no file, and 17 sentences in 4 shards."""
        videos, out = tmp_path / "videos", tmp_path / "features"
        videos.mkdir()
        vids = [f"v{i}" for i in range(8)]
        for i, vid in enumerate(vids):
            (videos / f"{vid}.mp4").write_bytes((b"bad" if i == 2 else b"video") + b"%d" % i)
        queries = tuple(Query(f"{vid}-{n}", vid, f"sentence {n} of {vid}", "train") for vid in vids for n in range(2))
        queries = (*queries, Query("gone-0", "gone", "a sentence about nothing", "train"))
        told = (Finding(str(videos), "", "missing video", "gone has no file"),)
        manifest = Manifest("fake", 2.0, {vid: Video(vid, 8.0) for vid in (*vids, "gone")}, queries, told)
        sources = {
            "video": [Source(vid, str(videos / f"{vid}.mp4")) for vid in vids],
            "text": [Source(query.qid, query.text) for query in queries],
        }
        missing = {"video": [Failure("gone", "missing", f"no video file of this name in {videos}")], "text": []}
        for kind, spec in (specs or cls.SPECS).items():
            folder, items = out / kind / spec.folder_name, {"video": 3, "text": 5}[kind]
            extract_store(folder, spec, sources[kind], FileExtraction(), shard_items=items, missing=missing[kind])
        write_manifest(manifest, out / "manifest.parquet")
        FileExtraction.asked.clear()
        return out

    @staticmethod
    def store(features: Path, kind: str) -> Path:
        (folder,) = (features / kind).iterdir()
        return folder

    @staticmethod
    def contents(folder: Path) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    @staticmethod
    def identities(folder: Path) -> dict[Path, tuple[int, int]]:
        """What changes where a file is written anew, even with the same bytes."""
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("shard-*.h5")}

    @staticmethod
    def mend(folder: Path, **means) -> RepairReport:
        videos = next(parent / "videos" for parent in folder.parents if (parent / "videos").is_dir())
        return repair(folder, Means(videos=videos, **means), "0")

    @staticmethod
    def remove_aside(folder: Path) -> None:
        for path in folder.rglob("damaged-*"):
            path.unlink()

    @staticmethod
    def flip(path: Path, at: float = 0.5) -> None:
        data = bytearray(path.read_bytes())
        data[int(at * (len(data) - 1))] ^= 8
        path.write_bytes(data)

    @staticmethod
    def again(monkeypatch: pytest.MonkeyPatch) -> FileExtraction:
        """What repair extracts with from now on."""
        monkeypatch.setattr("rdmf.pipeline.stage_one.repair.extraction_for", lambda *_: FileExtraction())
        FileExtraction.asked.clear()
        return FileExtraction()


@pytest.fixture(scope="session")
def mendable() -> type[Mendable]:
    return Mendable
