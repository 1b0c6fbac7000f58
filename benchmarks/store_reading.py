"""How fast features come off the disk: rdmf's memory-mapped shards against one .npz per video, in the same run.

One .npz per stream and video, loaded per sample, is how Moment-DETR, QD-DETR, CG-DETR and Lighthouse read features.
Prints samples per second of both (median and range of the repetitions, taken in turn) and their ratio, copied into
memory as stored (float16) and converted to float32 by numpy, sample by sample.

    python benchmarks/store_reading.py [--videos 1000] [--clips 75] [--dim 1024] [--repeat 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Item, Source, StoreSpec
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import extract_store


def values_of(vid: str, clips: int, dim: int) -> np.ndarray:
    return np.random.default_rng([*vid.encode()]).standard_normal((clips, dim), np.float32)


def write_both(folder: Path, vids: list[str], clips: int, dim: int) -> tuple[FeatureStore, Path]:
    spec = StoreSpec("video", "random", {"sha256": "0" * 64}, {}, 2.0, dim)
    edges = np.arange(clips + 1) * 2.0
    times = np.stack([edges[:-1], edges[1:]], 1)

    def item(source: Source) -> Item:
        return Item(source.id, values_of(source.id, clips, dim), times, float(edges[-1]), "0" * 64)

    extract_store(folder / "store", spec, [Source(vid, vid) for vid in vids], lambda: one_by_one(item))
    (folder / "npz").mkdir()
    for vid in vids:
        np.savez(folder / "npz" / f"{vid}.npz", features=values_of(vid, clips, dim).astype(np.float16))
    return FeatureStore.open(folder / "store"), folder / "npz"


def rate(read: Callable[[str], np.ndarray], order: list[str]) -> float:
    began = time.perf_counter()
    total = 0.0
    for vid in order:
        total += float(read(vid)[0, 0])
    assert np.isfinite(total)
    return len(order) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("videos", 1000), ("clips", 75), ("dim", 1024), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    vids = [f"video{i:05d}" for i in range(arguments.videos)]
    with tempfile.TemporaryDirectory() as name:
        store, npz = write_both(Path(name), vids, arguments.clips, arguments.dim)
        pairs: dict[str, tuple[Callable[[str], np.ndarray], Callable[[str], np.ndarray]]] = {
            "float16": (
                lambda vid: store.features(vid).values.copy(),
                lambda vid: np.load(npz / f"{vid}.npz")["features"],
            ),
            "float32": (
                lambda vid: store.features(vid).values.astype(np.float32),
                lambda vid: np.load(npz / f"{vid}.npz")["features"].astype(np.float32),
            ),
        }
        rng = np.random.default_rng(0)
        for kind, (ours, theirs) in pairs.items():
            rates = np.zeros((arguments.repeat + 1, 2))
            for repetition in range(arguments.repeat + 1):
                order = rng.permutation(vids).tolist()
                rates[repetition] = rate(ours, order), rate(theirs, order)
            rates = rates[1:]  # the first warms the page cache
            ratio = rates[:, 0] / rates[:, 1]
            for reader, values in zip(("rdmf store", "npz per video"), rates.T, strict=True):
                spread = f"({values.min():,.0f} to {values.max():,.0f})"
                print(f"{kind}  {reader:14} {np.median(values):10,.0f} samples/s   {spread}")
            print(
                f"{kind}  ratio          {np.median(ratio):10.1f}             ({ratio.min():.1f} to {ratio.max():.1f})"
            )


if __name__ == "__main__":
    main()
