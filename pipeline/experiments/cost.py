"""What a model costs on given features: weights, operations of an answer, seconds and memory of a training step.

    parameters         numbers that training changes
    flops_per_query    of one answer, on the training query nearest to the mean numbers of clips and words (flops.py)
    step_seconds       a whole optimisation step (training/step.py: forward, matching, losses, backward, clip, AdamW) on
                       real batches of the config's size: the median, the fastest and slowest. Not in it: reading data,
                       torch.compile (all models step uncompiled, so that they are alike and nobody waits for it)
    peak_bytes         the most that a step holds beyond what stays: gradients, activations, temporaries, but not the
                       weights, AdamW's means and the batch. On CUDA the allocator's own peak; on the CPU that of the
                       tensors that operators return, followed one by one: all but the scratch inside an operator

Models are measured in turn, a step each, round after round, in one process: what slows the machine slows them all.
"""

from __future__ import annotations

import platform
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...extract.encoders import usable_device
from ..config import Config
from ..loading.dataset import Batch, MomentDataset, open_features
from ..loading.resident import ResidentSplit
from ..model import RDMF, count_parameters
from ..training.parallel import World
from ..training.randomness import repeatable
from ..training.step import Part, Step
from .flops import forward_flops

BATCHES = 2
"""Batches that every model steps on, the first ones of a seeded order of the training queries."""
LEAST, MOST = 3, 11
"""Rounds."""
TOGETHER = 16
"""Models that are held and measured in turn; more come in groups, for the sake of memory."""


@dataclass(frozen=True)
class Cost:
    """Of one model on one set of features."""

    parameters: int
    flops_per_query: int
    clips: int
    """Of the query whose operations were counted; `words` likewise."""
    words: int
    batch: int
    """Queries of a step."""
    step_seconds: float
    step_fastest: float
    step_slowest: float
    steps: int
    """That were timed."""
    peak_bytes: int


def measure_cost(config: Config, features: Path, **options: Any) -> Cost:
    """The cost of one model; options as of `measure_costs`."""
    return measure_costs({"": config}, features, **options)[""]


def measure_costs(
    configs: Mapping[str, Config],
    features: Path,
    video_stores: Sequence[str] = (),
    text_store: str | None = None,
    *,
    device: str = "cpu",
    threads: int = 1,
    seconds: float = 4.0,
) -> dict[str, Cost]:
    """The costs of several models, measured in turn.

    seconds: of the timed steps, for each model, if that is enough for LEAST rounds; beside them each takes BATCHES
    steps to warm up and one whose memory is followed. The state of torch's generators is left as it was.
    Raises ValueError on features that cannot be opened, or a model that does not fit them.
    """
    place = usable_device(device)
    dataset = MomentDataset(open_features(features, video_stores, text_store), "train")
    typical = _typical(dataset)
    most = BATCHES * max(config.training.batch for config in configs.values())
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    order = order.repeat(-(-most // len(order)))[:most]  # a dataset may have fewer queries than a batch
    rows, numbered = torch.unique(torch.cat([torch.tensor([typical]), order]), return_inverse=True)
    dataset.queries = [dataset.queries[row] for row in rows.tolist()]  # nothing else is read
    with _alone(place, threads), repeatable(place):
        split = ResidentSplit(dataset, place)
        query = split.batch(numbered[:1])
        costs: dict[str, Cost] = {}
        names = list(configs)
        for group in (names[i : i + TOGETHER] for i in range(0, len(names), TOGETHER)):
            models = {name: _Contestant(configs[name], split, query, numbered[1:]) for name in group}
            began = time.perf_counter()
            for done in range(MOST):
                if done >= LEAST and time.perf_counter() - began > seconds * len(group):
                    break
                for model in models.values():
                    model.step_once()
            costs |= {name: model.cost() for name, model in models.items()}
    return costs


def conditions(device: str, threads: int = 1) -> dict[str, Any]:
    """What costs depend on beside settings and features."""
    place = usable_device(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else _processor()
    return {"device": name, "threads": threads, "torch": torch.__version__}


class _Contestant:
    """A model in training, warm, whose steps are timed."""

    def __init__(self, config: Config, split: ResidentSplit, query: Batch, rows: Tensor) -> None:
        training = config.training.model_copy(update={"compile": False})
        self._training, self._device, self._query = training, split.device, query
        batches = rows[: BATCHES * training.batch].split(training.batch)
        self._parts = [[Part(split.batch(batch))] for batch in batches]
        torch.manual_seed(training.seed)
        self._model = RDMF(config.model, *split.dataset.features.dims).to(split.device)
        self._flops = forward_flops(self._model, query)
        self._model.train()
        self._step = Step(self._model, config.model_copy(update={"training": training}), World(split.device))
        self._number, self._seconds = 0, list[float]()
        for _ in batches:
            self._take()
        self._model.zero_grad(set_to_none=True)  # what a step frees first is not to be taken from its peak
        with _peak(split.device) as self._peak:
            self._take()

    def step_once(self) -> None:
        _wait(self._device)
        began = time.perf_counter()
        self._take()
        _wait(self._device)
        self._seconds.append(time.perf_counter() - began)

    def cost(self) -> Cost:
        mask, words = self._query.clip_mask, self._query.word_mask
        return Cost(
            count_parameters(self._model), self._flops, int(mask.sum()), int(words.sum()), self._training.batch,
            float(np.median(self._seconds)), min(self._seconds), max(self._seconds), len(self._seconds),
            self._peak.bytes,
        )  # fmt: skip

    def _take(self) -> None:
        parts = self._parts[self._number % len(self._parts)]
        self._number += 1
        self._step(parts, self._number, self._training.lr)


class _Held(TorchDispatchMode):
    """Follows the memory of the tensors that operators return, from when it comes to when it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self._now = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(storage) for storage in _storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if id(storage) not in before and id(storage) not in self._known:
                self._follow(storage)
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), id(storage)

        def gone(_: object) -> None:
            self._now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self._now += size
        self.bytes = max(self.bytes, self._now)


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


class _OfTheAllocator:
    """CUDA's own peak."""

    bytes = 0


@contextmanager
def _peak(device: torch.device) -> Iterator[Any]:
    """What is held at most inside, beyond what was there before, in `bytes`."""
    if device.type != "cuda":
        with _Held() as held:
            yield held
        return
    found = _OfTheAllocator()
    _wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    yield found
    _wait(device)
    found.bytes = torch.cuda.max_memory_allocated(device) - before


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _typical(dataset: MomentDataset) -> int:
    """The query whose numbers of clips and words are the nearest to their means, relatively."""
    stores = dataset.features
    clips = [min(store.entry(query.vid).rows for store in stores.video) for query in dataset.queries]
    words = [stores.text.entry(dataset.sentence_id(query)).rows for query in dataset.queries]
    sizes = np.array([clips, words], float).T
    return int(np.abs(sizes / sizes.mean(0) - 1).sum(1).argmin())


@contextmanager
def _alone(device: torch.device, threads: int) -> Iterator[None]:
    """With so many threads, and with torch's generators as they were when it is over."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
