"""What training.py times: features of QVHighlights' shape, a clock for the parts of a step, and the rivals' own steps.

The rivals are github.com/jayleicn/moment_detr (b7e553a) and github.com/wjun0830/QD-DETR (56c63b2). They are not part of
rdmf: their code is imported from checkouts, unchanged. Their options are the defaults of their own parsers and training
scripts, their labels and batches are made by their own data set (5 windows of a query at most), and a step is the body
of the loop in their train.py without its logging: forward, criterion, backward, clip, AdamW. Two things are put right
outside their files. Where there is no pandas, an empty module stands in for it while they are imported: their
utils/basic_utils.py asks for it, and nothing that runs here uses it. QD-DETR's transformer.py calls .cuda() on a
tensor; in a step on the CPU that does nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Item, Source, StoreSpec
from rdmf.extract.schedule import extract_store
from rdmf.heads import losses
from rdmf.manifests.files import write_manifest
from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.loading.dataset import Example
from rdmf.pipeline.training.step import Step

CLIP_S = 2.0
WINDOWS = {1: 0.66, 2: 0.18, 3: 0.1, 5: 0.05, 25: 0.01}
"""How many true windows queries have: 1.8 on average as in QVHighlights, and 25 at most."""


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""Time that passes, or that this process had a processor for: other programs disturb it less. With more threads than
one it also counts their waiting for each other."""


class Shape(NamedTuple):
    """Of every video and sentence."""

    clips: int
    video_dim: int
    words: int
    text_dim: int


def make_features(folder: Path, queries: dict[str, int], shape: Shape) -> None:
    """Stores and manifest with noise for features: a video for each of the queries of each split."""
    rng = np.random.default_rng(0)
    splits = [split for split, number in queries.items() for _ in range(number)]
    made = tuple(made_query(rng, f"q{i:05d}", split, shape.clips) for i, split in enumerate(splits))
    write_manifest(
        Manifest("benchmark", CLIP_S, {q.vid: Video(q.vid) for q in made}, made), folder / "manifest.parquet"
    )

    def drawn(rows: int, dim: int) -> np.ndarray:
        return rng.standard_normal((rows, dim), np.float32)

    def clips(source: Source) -> Item:
        edges = np.arange(shape.clips + 1) * CLIP_S
        values = drawn(shape.clips, shape.video_dim)
        return Item(source.id, values, np.stack([edges[:-1], edges[1:]], 1), float(edges[-1]), "0" * 64)

    def words(source: Source) -> Item:
        return Item(source.id, drawn(shape.words, shape.text_dim), None, None, "0" * 64)

    specs = (
        StoreSpec("video", "noise", {}, {}, CLIP_S, shape.video_dim),
        StoreSpec("text", "noise", {}, {}, None, shape.text_dim),
    )
    for spec, extract in zip(specs, (clips, words), strict=True):
        sources = [Source(q.vid if spec.kind == "video" else q.qid, "") for q in made]
        extract_store(
            folder / spec.kind / spec.folder_name, spec, sources, lambda extract=extract: one_by_one(extract),
            in_parts=False,
        )  # fmt: skip


def made_query(rng: np.random.Generator, qid: str, split: str, clips: int) -> Query:
    """Windows that do not overlap, on the grid of the clips, with the scores of three annotators inside."""
    number = min(rng.choice(list(WINDOWS), p=list(WINDOWS.values())), (clips + 1) // 2)
    edges = np.sort(rng.choice(clips + 1, 2 * number, replace=False)).reshape(-1, 2)
    windows = tuple(Moment(CLIP_S * start, CLIP_S * end) for start, end in edges.tolist())
    inside = [clip for start, end in edges.tolist() for clip in range(start, end)]
    scores = rng.integers(0, 5, (len(inside), 3)).astype(float)
    return Query(qid, f"v{qid}", "a sentence", split, windows, Saliency(tuple(inside), tuple(map(tuple, scores))))


class Clock:
    """Seconds by part. A part that begins inside another pauses it, so the parts add up to all the time."""

    def __init__(self, device: torch.device, kind: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._now = CLOCKS[kind]
        self._wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        self._wait()
        now = self._now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*args, **options)

        return run


def in_turn(runs: dict[str, Callable[[], Any]], device: torch.device, kind: str, repeat: int) -> dict[str, np.ndarray]:
    """Seconds of every run, `repeat` times in turn, so that what slows the machine slows all. One more warms up."""
    taken = np.empty((repeat + 1, len(runs)))
    for each in taken:
        for i, run in enumerate(runs.values()):
            clock = Clock(device, kind)
            with clock.part("all"):
                run()
            each[i] = clock.seconds["all"]
    return dict(zip(runs, taken[1:].T, strict=True))


@contextmanager
def parts_of(step: Step, clock: Clock, compiled: bool) -> Iterator[None]:
    """Inside it the clock says what the step does. One program of forward pass and losses cannot be looked into."""
    wrapped = [(torch.Tensor, "backward", "backward")]
    if compiled:
        wrapped += [(step, "_loss_of", "forward, matching, loss")]
    else:
        wrapped += [(step, "_loss_of", "loss"), (step.model, "forward", "forward"), (losses, "match", "matching")]
    with ExitStack() as stack:
        for owner, name, part in wrapped:
            # a method of a class gets its self from the caller
            stack.enter_context(patch.object(owner, name, clock.timed(part, getattr(owner, name))))
        yield


class Rival(NamedTuple):
    """Where a rival's code is, and what it is called there."""

    name: str
    package: str
    labels: str
    """Its data set's method that makes labels of the annotators' scores."""


MOMENT_DETR = Rival("Moment-DETR", "moment_detr", "get_saliency_labels")
QD_DETR = Rival("QD-DETR", "qd_detr", "get_saliency_labels_all")
LABELS = ("saliency_pos_labels", "saliency_neg_labels", "saliency_all_labels")


def import_rival(rival: Rival, checkout: Path) -> tuple[ModuleType, ModuleType, Namespace]:
    """Its model and data set modules, and its default options. Both rivals have a `utils`: it is forgotten again."""
    stand_ins = {} if importlib.util.find_spec("pandas") else {"pandas": ModuleType("pandas")}
    with patch.object(sys, "path", [str(checkout), *sys.path]), patch.dict(sys.modules, stand_ins):
        for name in [name for name in sys.modules if name.split(".")[0] == "utils"]:
            del sys.modules[name]
        modules = [importlib.import_module(f"{rival.package}.{name}") for name in ("model", "start_end_dataset")]
        options = importlib.import_module(f"{rival.package}.config").BaseOptions()
        options.initialize()
    return *modules, options.parser.parse_args(["--dset_name", "hl"])


def rival_step(
    rival: Rival, checkout: Path, batches: Sequence[Sequence[Example]], queries: int, device: torch.device
) -> tuple[Callable[[], None], int]:
    """A function that takes a step on each of the batches, and the number of the model's parameters."""
    model_module, data, options = import_rival(rival, checkout)
    example = batches[0][0]
    options.num_queries, options.device = queries, device
    options.v_feat_dim = example.clips.values.shape[1] + 2  # their scripts add where a clip begins and ends ('tef')
    options.t_feat_dim = example.words.shape[1]
    model, criterion = model_module.build_model(options)
    model.to(device).train()
    criterion.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.wd)
    random.seed(0)
    inputs = [
        data.prepare_batch_inputs(data.start_end_collate([_theirs(e, rival, data, options) for e in batch])[1], device)
        for batch in batches
    ]

    def steps() -> None:
        for given, targets in inputs:
            with patch.object(torch.Tensor, "cuda", torch.Tensor.cuda if device.type == "cuda" else torch.Tensor.cpu):
                terms = criterion(model(**given), targets)
            loss = sum(terms[name] * criterion.weight_dict[name] for name in terms if name in criterion.weight_dict)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip)
            optimizer.step()

    return steps, sum(p.numel() for p in model.parameters() if p.requires_grad)


def _theirs(example: Example, rival: Rival, data: ModuleType, options: Namespace) -> dict[str, Any]:
    """An example in the rival's form."""
    features, saliency = example.clips.values, example.query.saliency
    assert saliency is not None
    clips = len(features)
    edges = torch.arange(clips + 1) / clips
    dataset = Namespace(max_windows=options.max_windows, clip_len=CLIP_S, span_loss_type=options.span_loss_type)
    windows = [[window.start_s, window.end_s] for window in example.query.windows]
    labels = getattr(data.StartEndDataset, rival.labels)(dataset, list(saliency.clip_ids), saliency.scores, clips)
    inputs = {
        "query_feat": example.words,
        "video_feat": torch.cat([features, torch.stack([edges[:-1], edges[1:]], 1)], 1),
        "span_labels": data.StartEndDataset.get_span_labels(dataset, windows, clips),
        **dict(zip(LABELS, labels, strict=False)),
    }
    return {"meta": {}, "model_inputs": inputs}
