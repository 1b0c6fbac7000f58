"""Samples per second of rdmf's memory-mapped shards against one .npz per stream per video, in the same run.

A sample is a query: the features of its video (two streams, such as SlowFast and CLIP) and of its words. The rival is
how Moment-DETR, QD-DETR, CG-DETR and Lighthouse read them, by what their data loaders do per sample: np.load of each
stream's file, float32, length 1 per row, concatenate; the words likewise. rdmf reads what `rdmf store import` made of
the same files: one store, normalised once. Both end in the same float32 tensors, warm, in one process and one thread;
'as stored' stops at float16 arrays in memory, which is all a loader needs that converts on the GPU.

    python benchmarks/store_reading.py [--videos 1000] [--clips 75] [--dims 2304 512] [--words 12] [--repeat 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Item, Source, StoreSpec
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import extract_store
from rdmf.pipeline.loading.dataset import read_clips, read_words

WORD_DIM = 512
Sample = tuple[torch.Tensor, torch.Tensor]


def normalised(rows: np.ndarray) -> np.ndarray:
    return rows / (np.linalg.norm(rows, axis=-1, keepdims=True) + 1e-5)


def drawn(name: str, rows: int, dim: int) -> np.ndarray:
    return np.random.default_rng([*name.encode(), dim]).standard_normal((rows, dim), np.float32).astype(np.float16)


class Npz:
    """One file per stream and video, one per query."""

    def __init__(self, folder: Path, vids: list[str], clips: int, dims: list[int], words: int) -> None:
        self.streams = [folder / f"stream{dim}" for dim in dims]
        self.words = folder / "words"
        for stream, dim in zip([*self.streams, self.words], [*dims, WORD_DIM], strict=True):
            stream.mkdir(parents=True)
            for vid in vids:
                np.savez(stream / f"{vid}.npz", features=drawn(vid, words if stream == self.words else clips, dim))

    def video(self, vid: str) -> np.ndarray:
        parts = [np.load(stream / f"{vid}.npz")["features"].astype(np.float32) for stream in self.streams]
        return np.concatenate([normalised(part) for part in parts], axis=1)

    def query(self, vid: str) -> np.ndarray:
        return normalised(np.load(self.words / f"{vid}.npz")["features"].astype(np.float32))

    def sample(self, vid: str) -> Sample:
        return torch.from_numpy(self.video(vid)), torch.from_numpy(self.query(vid))

    def stored(self, vid: str) -> tuple[np.ndarray, ...]:
        return tuple(np.load(stream / f"{vid}.npz")["features"] for stream in (*self.streams, self.words))


class Stores:
    """The same features as rdmf keeps them."""

    def __init__(self, folder: Path, vids: list[str], npz: Npz, dims: list[int]) -> None:
        def clips(source: Source) -> Item:
            values = npz.video(source.id)
            edges = np.arange(len(values) + 1) * 2.0
            return Item(source.id, values, np.stack([edges[:-1], edges[1:]], 1), float(edges[-1]), "0" * 64)

        def words(source: Source) -> Item:
            return Item(source.id, npz.query(source.id), None, None, "0" * 64)

        specs = StoreSpec("video", "v", {}, {}, 2.0, sum(dims)), StoreSpec("text", "t", {}, {}, None, WORD_DIM)
        sources = [Source(vid, vid) for vid in vids]
        for spec, extract in zip(specs, (clips, words), strict=True):
            extract_store(
                folder / spec.kind, spec, sources, lambda extract=extract: one_by_one(extract), in_parts=False
            )
        self.video, self.text = FeatureStore.open(folder / "video"), FeatureStore.open(folder / "text")

    def sample(self, vid: str) -> Sample:
        return read_clips((self.video,), vid).values, read_words(self.text, vid)

    def stored(self, vid: str) -> tuple[np.ndarray, ...]:
        return self.video.features(vid).values.copy(), self.text.features(vid).values.copy()


def rate(read: Callable[[str], tuple], order: list[str]) -> float:
    began = time.perf_counter()
    total = 0.0
    for vid in order:
        total += float(read(vid)[0][0, 0])
    assert np.isfinite(total)
    return len(order) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("videos", 1000), ("clips", 75), ("words", 12), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dims", type=int, nargs="+", default=[2304, 512])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vids = [f"video{i:05d}" for i in range(arguments.videos)]
    with tempfile.TemporaryDirectory() as name:
        npz = Npz(Path(name) / "npz", vids, arguments.clips, arguments.dims, arguments.words)
        stores = Stores(Path(name) / "stores", vids, npz, arguments.dims)
        for ours, theirs in zip(stores.sample(vids[0]), npz.sample(vids[0]), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)  # the same, once rounded to float16
        rng = np.random.default_rng(0)
        print(f"{arguments.videos} videos x {arguments.clips} clips x {arguments.dims}, {arguments.words} words")
        for kind, read, theirs in (
            ("float32 tensors", stores.sample, npz.sample), ("as stored", stores.stored, npz.stored),
        ):  # fmt: skip
            rates = np.zeros((arguments.repeat + 1, 2))
            for repetition in range(arguments.repeat + 1):
                order = rng.permutation(vids).tolist()
                rates[repetition] = rate(read, order), rate(theirs, order)
            rates = rates[1:]  # the first warms the page cache
            ratio = rates[:, 0] / rates[:, 1]
            for reader, values in zip(("rdmf stores", "npz per stream"), rates.T, strict=True):
                spread = f"({values.min():,.0f} to {values.max():,.0f})"
                print(f"{kind:16} {reader:15} {np.median(values):10,.0f} samples/s   {spread}")
            print(
                f"{kind:16} {'ratio':15} {np.median(ratio):10.1f}             ({ratio.min():.1f} to {ratio.max():.1f})"
            )


if __name__ == "__main__":
    main()
