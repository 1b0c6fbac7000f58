"""A split packed once, so that a batch is gathered by row numbers and nothing is done per query.

Items of different lengths (the clips of each video, the words of each sentence, the true spans and saliency of each
query) lie one after another behind one row of zeros, and padding reads that row. A batch is a table of row numbers
[B, width], made on the host from the lengths that are there, and one gather per tensor. The device is never waited for.

The features, float16 as stored and every video and sentence once, are on the device; where it has no room for them, in
the host's memory; where that has none, in the stores' own memory maps. The values are the same. Targets are small and
always on the device.

Dimensions: B queries, T clips, L words, N true windows, D feature width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .dataset import Batch, MomentDataset, line_up, saliency_targets, span_targets
from .memory import free_memory

warnings.filterwarnings("ignore", "The given NumPy array is not writable", module=__name__)  # nobody writes to it

Residence = Literal["auto", "device", "host", "mapped"]

SHARE = 0.5  # of the free memory that features may take: the model, its gradients and other programs need the rest


class Ragged:
    """Where items of different lengths lie: item i has `lengths[i]` rows from `first[i]` on. Row 0 is for padding."""

    def __init__(self, lengths: Iterable[int]) -> None:
        self.lengths = torch.tensor(list(lengths), dtype=torch.int64)
        self.first = 1 + self.lengths.cumsum(0) - self.lengths
        self.rows = 1 + int(self.lengths.sum())

    def longest(self, items: Tensor) -> int:
        return int(self.lengths[items].max())

    def table(self, items: Tensor, width: int) -> Tensor:
        """The row numbers of items [B], 0 behind each: int64 [B, width]."""
        step = torch.arange(width)
        return torch.where(step < self.lengths[items, None], self.first[items, None] + step, 0)


class Features:
    """The features of all videos, or of all sentences, behind a row of zeros."""

    def __init__(self, items: Sequence[Sequence[np.ndarray]]) -> None:
        """items: the float16 [rows, width] of each item in each store, out of the memory maps."""
        self.place = Ragged(len(parts[0]) for parts in items)
        self.dim = sum(part.shape[1] for part in items[0])
        self.nbytes = 2 * self.place.rows * self.dim
        self._items = items
        self._packed: Tensor | None = None

    def pack(self, where: torch.device) -> None:
        """Read everything into one tensor."""
        packed = torch.empty(self.place.rows, self.dim, dtype=torch.float16, device=where)
        packed[0] = 0
        for first, parts in zip(self.place.first.tolist(), self._items, strict=True):
            rows = packed[first : first + len(parts[0])]
            for columns, part in zip(rows.split([part.shape[1] for part in parts], 1), parts, strict=True):
                columns.copy_(torch.from_numpy(part))
        self._items, self._packed = (), packed

    def gather(self, items: Tensor, table: Tensor, table_there: Tensor) -> Tensor:
        """float32 [B, width, D] on the device of `table_there`, the same numbers as `table`, which is on the host."""
        device = table_there.device
        if self._packed is not None and self._packed.device == device:
            return take(self._packed, table_there).float()
        # Only pinned memory is copied without being waited for, and half floats are half as much to copy
        staged = torch.empty(*table.shape, self.dim, dtype=torch.float16, pin_memory=device.type == "cuda")
        if self._packed is not None:
            torch.index_select(self._packed, 0, table.flatten(), out=staged.view(-1, self.dim))
        else:  # a copy per item: every shard is a map of its own, no row number reaches across them
            for rows, item in zip(staged.numpy(), items.tolist(), strict=True):
                parts = self._items[item]
                np.concatenate(parts, axis=1, out=rows[: len(parts[0])])
                rows[len(parts[0]) :] = 0
        return staged.to(device, non_blocking=True).float()


class ResidentSplit:
    """Batches of a MomentDataset on a device, the same as `collate` makes of its examples, and much faster."""

    def __init__(
        self,
        dataset: MomentDataset,
        device: torch.device | str = "cpu",
        residence: Residence = "auto",
        *,
        pad_to: int = 1,
        processes: int = 1,
    ) -> None:
        """Read the annotations, and the features where they are to be resident.

        residence: where the features live, 'auto' for the fastest place with room. pad_to: clips and words are padded
        to a multiple of it, windows to a power of two if it is above 1: few distinct shapes for a compiled step.
        processes: how many pack these features on this machine. Raises ValueError where the place asked for has no
        room, StoreError where the stores' clips do not line up.
        """
        self.dataset, self.device, self._pad_to = dataset, torch.device(device), pad_to
        queries, stores = dataset.queries, dataset.features
        vids = sorted({q.vid for q in queries}, key=lambda vid: stores.video[0].entry(vid)[:2])  # as they lie on disk
        sentences = sorted({dataset.sentence_id(q) for q in queries}, key=lambda id_: stores.text.entry(id_)[:2])
        video_of, sentence_of = ({id_: i for i, id_ in enumerate(ids)} for ids in (vids, sentences))
        self._video = torch.tensor([video_of[q.vid] for q in queries])
        self._sentence = torch.tensor([sentence_of[dataset.sentence_id(q)] for q in queries])
        parts, times_s = zip(*(line_up(stores.video, vid) for vid in vids), strict=True)
        self._times_s: tuple[np.ndarray, ...] = times_s
        self._clips = Features(parts)
        self._words = Features([(stores.text.features(id_).values,) for id_ in sentences])

        spans = [span_targets(q, times_s[video_of[q.vid]]) for q in queries]
        targets = [saliency_targets(q, times_s[video_of[q.vid]]) for q in queries]
        self._span_place = Ragged(map(len, spans))
        self._saliency_place = Ragged(len(saliency) for saliency, _ in targets)
        self.lengths = self._saliency_place.lengths
        """int64 [queries], on the host: clips of each query's video."""
        positions = [torch.from_numpy(times.mean(1) / times[-1, 1]).float() for times in times_s]
        self._spans, self._saliency, self._positions = (
            torch.cat([rows[0].new_zeros(1, *rows[0].shape[1:]), *rows]).to(self.device)
            for rows in (spans, [saliency for saliency, _ in targets], positions)
        )
        self._labelled = torch.tensor([labelled for _, labelled in targets], device=self.device)
        duration_s = [float(times[-1, 1]) for times in times_s]
        self._duration_s = torch.tensor([duration_s[video] for video in self._video.tolist()], device=self.device)

        self.nbytes = self._clips.nbytes + self._words.nbytes
        """Of the features."""
        self.residence, self.where = settle(residence, self.nbytes, self.device, processes)
        if self.residence != "mapped":
            for features in (self._clips, self._words):
                features.pack(self.device if self.residence == "device" else torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.lengths)

    def times_s(self, row: int) -> np.ndarray:
        """float64 [T, 2], the clips of a query's video."""
        return self._times_s[int(self._video[row])]

    def batch(self, rows: Tensor) -> Batch:
        """The queries of rows, int64 [B] on the host, as padded tensors on the device."""
        assert rows.device.type == "cpu", "rows of the device would have to be waited for"
        videos, sentences = self._video[rows], self._sentence[rows]
        n_clips = self._padded(self._clips.place.longest(videos))
        n_words = self._padded(self._words.place.longest(sentences))
        n_spans = max(1, self._span_place.longest(rows))
        if self._pad_to > 1:
            n_spans = 1 << (n_spans - 1).bit_length()
        clips_at = self._clips.place.table(videos, n_clips)
        words_at = self._words.place.table(sentences, n_words)
        first = (videos[:, None] == videos).int().argmax(1)  # of the rows about the same video
        there = self._send(
            rows,
            first,
            clips_at,
            words_at,
            self._span_place.table(rows, n_spans),
            self._saliency_place.table(rows, n_clips),
        )
        rows_there, first_there, clips_there, words_there, spans_there, saliency_there = there
        clip_mask = clips_there > 0
        return Batch(
            clips=self._clips.gather(videos, clips_at, clips_there),
            clip_mask=clip_mask,
            positions=take(self._positions, clips_there),
            words=self._words.gather(sentences, words_at, words_there),
            word_mask=words_there > 0,
            spans=take(self._spans, spans_there),
            span_mask=spans_there > 0,
            saliency=take(self._saliency, saliency_there),
            saliency_mask=clip_mask & take(self._labelled, rows_there)[:, None],
            duration_s=take(self._duration_s, rows_there),
            video=first_there,
        )

    def _padded(self, width: int) -> int:
        return -(-width // self._pad_to) * self._pad_to

    def _send(self, *tables: Tensor) -> Sequence[Tensor]:
        """Host tables on the device, all in one copy that nobody waits for."""
        if self.device.type == "cpu":
            return tables
        flat = torch.cat([table.flatten() for table in tables])
        if self.device.type == "cuda":
            flat = flat.pin_memory()
        parts = flat.to(self.device, non_blocking=True).split([table.numel() for table in tables])
        return [part.view(table.shape) for part, table in zip(parts, tables, strict=True)]


def take(values: Tensor, table: Tensor) -> Tensor:
    """Rows of values [rows, ...] by their numbers: [*table.shape, ...]."""
    return values.index_select(0, table.flatten()).unflatten(0, table.shape)


def settle(residence: Residence, nbytes: int, device: torch.device, processes: int = 1) -> tuple[Residence, str]:
    """Where features of `nbytes` live, and a sentence that says so. Raises ValueError where they do not fit there."""
    host = torch.device("cpu")
    places: dict[Residence, torch.device] = {"device": device, "host": host}
    room = {name: free_memory(place) // (processes if place == host else 1) for name, place in places.items()}
    if residence == "auto":
        residence = next((name for name in places if nbytes <= SHARE * room[name]), "mapped")
    elif residence not in (*places, "mapped"):
        raise ValueError(f"expected a residence 'auto', 'device', 'host' or 'mapped', got {residence!r}")
    elif residence != "mapped" and nbytes > room[residence]:
        raise ValueError(
            f"expected features that fit into memory, got {size(nbytes)} for the {size(room[residence])} free on "
            f"{places[residence]}; residence 'auto' finds a place for them"
        )
    if residence == "mapped":
        return residence, f"features: {size(nbytes)} read from their shards, batch by batch"
    if places[residence] == host:
        return residence, f"features: {size(nbytes)} resident in memory"
    return residence, f"features: {size(nbytes)} resident on {device}"


def size(nbytes: float) -> str:
    """'1.2 GB'"""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
