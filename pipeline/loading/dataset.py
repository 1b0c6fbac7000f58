"""Cached features and annotations of one split, as ragged batches of tensors.

Times come from the store: positions are the clips' own centres, spans are shares of the time that the clips cover,
and predictions go back to seconds by that same length.

A MomentDataset says which queries are usable and what is true of them, one Example at a time; `resident.py` makes the
same batches of a whole split at once.

Dimensions: B queries, T clips, L words, N true windows, Dv and Dt feature widths.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...extract.layout import StoreError
from ...extract.reader import FeatureStore
from ...manifests.files import read_manifest
from ...manifests.schema import Manifest, Query

warnings.filterwarnings("ignore", "The given NumPy array is not writable", module=__name__)  # nobody writes to it

GRID_TOLERANCE_S = 0.05  # two video stores are concatenated when their clips start within this of each other


@dataclass(frozen=True)
class FeatureSet:
    """One dataset's manifest and the stores that a run reads."""

    manifest: Manifest
    video: tuple[FeatureStore, ...]
    """Concatenated per clip, in this order."""
    text: FeatureStore

    @property
    def dims(self) -> tuple[int, int]:
        """(Dv, Dt)."""
        return sum(store.spec.dim for store in self.video), self.text.spec.dim

    @property
    def random_weights(self) -> list[str]:
        """The stores whose encoder had random weights."""
        return [s.spec.folder_name for s in (*self.video, self.text) if s.spec.weights.get("random")]


@dataclass(frozen=True)
class Clips:
    """The features of one video: values float32 [T, Dv], times_s float64 [T, 2] (start, end)."""

    values: Tensor
    times_s: np.ndarray

    @property
    def duration_s(self) -> float:
        """The time that the clips cover: what spans are shares of."""
        return float(self.times_s[-1, 1])

    @property
    def positions(self) -> Tensor:
        """Centres of the clips as shares of the duration, float32 [T]."""
        return torch.from_numpy(self.times_s.mean(1) / self.duration_s).float()


@dataclass(frozen=True)
class Example:
    """One query with its features and targets."""

    query: Query
    clips: Clips
    words: Tensor
    """[L, Dt]"""
    spans: Tensor
    """[N, 2] (centre, width), shares of the duration."""
    saliency: Tensor
    """[T] in [0, 1]."""
    labelled: bool
    """Whether `saliency` says anything."""


@dataclass(frozen=True)
class Batch:
    """Tensors of several queries, padded with 0. Masks are True where something is."""

    clips: Tensor
    """[B, T, Dv]"""
    clip_mask: Tensor
    positions: Tensor
    """[B, T]"""
    words: Tensor
    """[B, L, Dt]"""
    word_mask: Tensor
    spans: Tensor
    """[B, N, 2] (centre, width), N >= 1"""
    span_mask: Tensor
    saliency: Tensor
    """[B, T]"""
    saliency_mask: Tensor
    """[B, T]: clips whose target counts."""
    duration_s: Tensor
    """[B]"""
    video: Tensor
    """int64 [B], the first row that is about the same video."""

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))


class MomentDataset:
    """The queries of one split that have features, and the list of those that lack them."""

    def __init__(self, features: FeatureSet, split: str) -> None:
        self.features, self.split = features, split
        self._sentence_of: dict[str, str] = {}  # the query whose sentence is asked, where it is not one's own
        self.queries: list[Query] = []
        self.missing: dict[str, str] = {}
        """Query id -> which feature is missing."""
        for query in features.manifest.split(split):
            lacking = [s.spec.folder_name for s in features.video if query.vid not in s]
            if lacking:
                self.missing[query.qid] = f"video {query.vid} is not in {', '.join(lacking)}"
            elif query.qid not in features.text:
                self.missing[query.qid] = f"its sentence is not in {features.text.spec.folder_name}"
            else:
                self.queries.append(query)
        if not self.queries:
            raise ValueError(
                f"no query of split {split!r} has features: {len(self.missing)} lack them "
                f"({next(iter(self.missing.values()))}); run `rdmf features` with the videos of this split"
            )

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> Example:
        query = self.queries[index]
        clips = read_clips(self.features.video, query.vid)
        words = read_words(self.features.text, self.sentence_id(query))
        times_s = clips.times_s
        return Example(query, clips, words, span_targets(query, times_s), *saliency_targets(query, times_s))

    def sentence_id(self, query: Query) -> str:
        """The id in the text store of the sentence that is asked."""
        return self._sentence_of.get(query.qid, query.qid)

    def manifest_of_usable(self) -> Manifest:
        """The manifest with just the queries that have features: what can be judged."""
        return replace(self.features.manifest, queries=tuple(self.queries))

    def with_texts_of_other_videos(self, seed: int = 0) -> MomentDataset:
        """A control: every query asks another video's sentence, its truth stays."""
        rng = np.random.default_rng(seed)
        vids = np.array([q.vid for q in self.queries])
        swapped = MomentDataset(self.features, self.split)
        donors = [self.queries[int(rng.choice(np.flatnonzero(vids != q.vid)))] for q in self.queries]
        swapped.queries = [replace(q, text=d.text) for q, d in zip(self.queries, donors, strict=True)]
        swapped._sentence_of = {q.qid: d.qid for q, d in zip(self.queries, donors, strict=True)}
        return swapped


def line_up(stores: Sequence[FeatureStore], vid: str) -> tuple[list[np.ndarray], np.ndarray]:
    """One video's features in each store, float16 [T, width] out of the memory maps, and its clips' times [T, 2].

    Raises StoreError where the stores' clips do not line up.
    """
    parts = [store.features(vid) for store in stores]
    times = [part.times_s for part in parts if part.times_s is not None]
    assert len(times) == len(parts)
    rows, most = min(map(len, times)), max(map(len, times))
    starts = [t[:rows, 0] for t in times]
    if most - rows > 1 or not all(np.allclose(start, starts[0], atol=GRID_TOLERANCE_S) for start in starts[1:]):
        raise StoreError(
            f"the video stores cut {vid} into different clips "
            f"({', '.join(f'{s.spec.folder_name}: {len(t)}' for s, t in zip(stores, times, strict=True))}); "
            "extract them with the same clip length"
        )
    return [part.values[:rows] for part in parts], np.array(times[0][:rows])


def read_clips(stores: Sequence[FeatureStore], vid: str) -> Clips:
    """One video's features from all stores, concatenated. Raises StoreError where their clips do not line up."""
    parts, times_s = line_up(stores, vid)
    values = torch.empty(len(times_s), sum(part.shape[1] for part in parts))
    for columns, part in zip(values.split([part.shape[1] for part in parts], 1), parts, strict=True):
        columns.copy_(torch.from_numpy(part))  # out of the map and to float32 at once
    return Clips(values, times_s)


def read_words(store: FeatureStore, qid: str) -> Tensor:
    """The features of one sentence, float32 [L, Dt]."""
    return torch.from_numpy(store.features(qid).values).float()


def span_targets(query: Query, times_s: np.ndarray) -> Tensor:
    """True windows as (centre, width) shares of the time that the clips [T, 2] cover, clipped to it: [N, 2]."""
    spans, duration_s = [], float(times_s[-1, 1])
    for window in query.windows:
        start = min(window.start_s / duration_s, 1.0)
        end = min(window.end_s / duration_s, 1.0)
        if end > start:
            spans.append([(start + end) / 2, end - start])
    return torch.tensor(spans).reshape(-1, 2)


def saliency_targets(query: Query, times_s: np.ndarray) -> tuple[Tensor, bool]:
    """Equation (14)'s target for each of the clips times_s [T, 2], and whether there is one.

    The mean score of the annotators, as a share of the scale, inside the windows and 0 elsewhere; 1 inside where
    nobody scored. A clip takes the annotation of its centre, whatever grid the annotation is on.
    """
    centres = times_s.mean(1)
    inside = np.zeros(len(centres), bool)
    for window in query.windows:
        inside |= (window.start_s <= centres) & (centres < window.end_s)
    scores = query.saliency
    if scores is None or not scores.annotators:
        return torch.from_numpy(inside).float(), bool(query.windows)
    cell = np.floor(centres / scores.clip_seconds).astype(int)
    share = (scores.dense(int(cell.max()) + 1).mean(1) - scores.low) / (scores.high - scores.low)
    target = share[cell]
    return torch.from_numpy(np.where(inside, target, 0.0) if query.windows else target).float(), True


def collate(examples: Sequence[Example]) -> Batch:
    """Pad examples into one batch."""
    clips, clip_mask = pad([e.clips.values for e in examples])
    words, word_mask = pad([e.words for e in examples])
    positions, _ = pad([e.clips.positions for e in examples])
    spans, span_mask = pad([e.spans for e in examples])
    saliency, _ = pad([e.saliency for e in examples])
    labelled = torch.tensor([e.labelled for e in examples])
    duration_s = torch.tensor([e.clips.duration_s for e in examples])
    vids = [e.query.vid for e in examples]
    video = torch.tensor([vids.index(vid) for vid in vids])
    return Batch(
        clips, clip_mask, positions, words, word_mask, spans, span_mask,
        saliency, clip_mask & labelled[:, None], duration_s, video,
    )  # fmt: skip


def pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tensors [n_i, ...] -> [B, max n, ...] with 0 behind each, and the mask bool [B, max n]; at least 1 wide."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = rows[0].new_zeros(len(rows), max(1, int(lengths.max())), *rows[0].shape[1:])
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def open_features(folder: Path, video_stores: Sequence[str] = (), text_store: str | None = None) -> FeatureSet:
    """Open what `rdmf features` wrote.

    video_stores, text_store: names of stores (or beginnings of them); not needed where there is one of each.
    Raises ValueError saying what is missing or ambiguous.
    """
    if not (folder / "manifest.parquet").is_file():
        raise ValueError(f"{folder} holds no features (no manifest.parquet); make them with `rdmf features`")
    video = tuple(_open_store(folder / "video", name) for name in video_stores or (None,))
    text = _open_store(folder / "text", text_store)
    manifest = read_manifest(folder / "manifest.parquet")
    measured = {vid: d for vid in manifest.videos if vid in video[0] and (d := video[0].features(vid).duration_s)}
    return FeatureSet(manifest.with_durations(measured), video, text)


def _open_store(folder: Path, name: str | None) -> FeatureStore:
    found = sorted(p for p in folder.glob("*") if (p / "store.json").is_file()) if folder.is_dir() else []
    chosen = [p for p in found if name is None or p.name == name or p.name.startswith(f"{name}-")]
    if len(chosen) == 1:
        return FeatureStore.open(chosen[0])
    have = ", ".join(p.name for p in found) or "none"
    if not chosen:
        wanted = "a feature store" if name is None else f"a store named {name!r}"
        raise ValueError(f"expected {wanted} in {folder}, which has {have}; run `rdmf features` or give another name")
    raise ValueError(
        f"{folder} has {len(chosen)} stores that fit ({', '.join(p.name for p in chosen)}); "
        f"choose with --{folder.name}-store NAME"
    )
