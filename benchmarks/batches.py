"""Batches per second out of a packed split, against collated examples and against one .npz per stream as peers load.

Shapes are QVHighlights' (75 clips of SlowFast and CLIP widths, sentences of 12 words, one query per video), as many
videos as fit 2 GB with all that is compared. All read the same features, warm, in one process and one thread, and end
in float32 tensors; the rival's batches (Moment-DETR, QD-DETR, CG-DETR, Lighthouse) have no targets here, ours have.
Ratios are of rates measured right after one another.

    python benchmarks/batches.py [--videos 1500] [--clips 75] [--dims 2304 512] [--batch 32] [--device cuda]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from store_reading import Npz, Stores

from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.loading.dataset import FeatureSet, MomentDataset, collate, pad
from rdmf.pipeline.loading.resident import ResidentSplit


def dataset_of(stores: Stores, vids: list[str], clips: int) -> MomentDataset:
    """A query for each video, with a window over a third of it and the scores of three annotators there."""
    third = range(clips // 3, 2 * clips // 3)
    window = Moment(2.0 * third.start, 2.0 * third.stop)
    scores = Saliency(tuple(third), ((2.0, 3.0, 4.0),) * len(third))
    queries = tuple(Query(vid, vid, "a sentence", "train", (window,), scores) for vid in vids)
    manifest = Manifest("benchmark", 2.0, {vid: Video(vid) for vid in vids}, queries)
    return MomentDataset(FeatureSet(manifest, (stores.video,), stores.text), "train")


def rate(batch: Callable[[torch.Tensor], object], rows: torch.Tensor, size: int, device: torch.device) -> float:
    """Queries per second."""
    began = time.perf_counter()
    for some in rows.split(size):
        batch(some)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return len(rows) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("videos", 1500), ("clips", 75), ("words", 12), ("batch", 32), ("repeat", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dims", type=int, nargs="+", default=[2304, 512])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    vids = [f"video{i:05d}" for i in range(arguments.videos)]
    with tempfile.TemporaryDirectory() as name:
        npz = Npz(Path(name) / "npz", vids, arguments.clips, arguments.dims, arguments.words)
        stores = Stores(Path(name) / "stores", vids, npz, arguments.dims)
        dataset = dataset_of(stores, vids, arguments.clips)

        def from_npz(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
            clips, words = zip(*(npz.sample(vids[row]) for row in rows.tolist()), strict=True)
            return tuple(x.to(device) for x in (*pad(clips), *pad(words)))

        began = time.perf_counter()
        resident = ResidentSplit(dataset, device)
        print(
            f"{len(vids)} videos x {arguments.clips} clips x {arguments.dims}, {arguments.words} words, batches of "
            f"{arguments.batch}; packed in {time.perf_counter() - began:.1f} s\n{resident.where}"
        )
        ways = {
            resident.residence: resident.batch,
            "mapped": ResidentSplit(dataset, device, "mapped").batch,
            "collated examples": lambda rows: collate([dataset[row] for row in rows.tolist()]).to(device),
            "npz per stream": from_npz,
        }
        rates = np.zeros((arguments.repeat + 1, len(ways)))
        for each in rates:
            rows = torch.randperm(len(vids))
            each[:] = [rate(batch, rows, arguments.batch, device) for batch in ways.values()]
        rates = rates[1:]  # the first warms the page cache
        ratios = rates[:, :1] / rates
        for way, values, ratio in zip(ways, rates.T, ratios.T, strict=True):
            print(
                f"{way:18} {np.median(values):9,.0f} queries/s ({values.min():,.0f} to {values.max():,.0f})"
                f" {np.median(values) / arguments.batch:7,.0f} batches/s;  {resident.residence} is "
                f"{np.median(ratio):.1f} times as fast ({ratio.min():.1f} to {ratio.max():.1f})"
            )


if __name__ == "__main__":
    main()
