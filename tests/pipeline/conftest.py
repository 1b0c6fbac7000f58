"""A small dataset of features with an answer in them, written as a real store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Item, Source, StoreSpec, text_sha256
from rdmf.extract.schedule import extract_store
from rdmf.manifests.files import write_manifest
from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.config import Config, parse_config

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
