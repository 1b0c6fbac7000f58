"""How fast a model trains: queries/s of a step and of an epoch, where the time of a step goes, and 50 epochs.

Shapes are QVHighlights': 75 clips x 2816, 32 words x 512, as many true windows; the numbers in the features are noise.
Everything is in one run, with the same queries and threads. What is compared is timed in turn, and ratios are of
neighbours. Prints, in this order:

- a step on batches that are ready, for RDMF, for its ablation with cross-attention, and, given checkouts of them, for
  Moment-DETR and QD-DETR (see training_parts.py), each with 100 and with 10 decoder queries. Not in it: data, for
  anybody; the rivals' logging, which waits for the device; their loading of files is what batches.py measures.
- the parts of a step with its data: gathering a batch and its transfer; forward; matching; loss; backward; optimizer
  (clipping, tests, AdamW, running mean). The clock waits for the device at every part, so the parts are a little
  longer than the step that nobody looks into, which stands below them. On CUDA also for the compiled step.
- an epoch of `train_epoch`, as training runs it.
- a training of 50 epochs with a validation after each by `train`, as `rdmf train` runs it. On the CPU three epochs
  of it are run, and 50 of 7,218 queries are EXTRAPOLATED from the later two, unless --full asks for all.

Not measured: how well anybody learns, memory, several processes, and evaluation of the rivals. On a CPU that other
programs use, `--clock processor --threads 1` says more than the time that passes.

    python benchmarks/training.py [--device cuda] [--queries 1000] [--full] [--batch 32] [--threads 2] [--repeat 5] \\
        [--moment-detr DIR] [--qd-detr DIR] [--set training.ema=0.999 ...]
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from training_parts import (
    CLOCKS,
    MOMENT_DETR,
    QD_DETR,
    Clock,
    Rival,
    Shape,
    in_turn,
    make_features,
    parts_of,
    rival_step,
)

from rdmf.pipeline.config import Config, load_config
from rdmf.pipeline.loading.dataset import MomentDataset, open_features
from rdmf.pipeline.loading.resident import ResidentSplit
from rdmf.pipeline.model import RDMF, count_parameters
from rdmf.pipeline.training.checkpoint import Standing
from rdmf.pipeline.training.epoch import Order, Progress, train_epoch
from rdmf.pipeline.training.parallel import World
from rdmf.pipeline.training.randomness import repeatable
from rdmf.pipeline.training.step import Part, Step, compiles
from rdmf.pipeline.training.train import COMPILED_PAD, train

TRAIN, VALIDATION, EPOCHS = 7218, 1550, 50
SHORT = 3
"""Epochs of which, on the CPU, the others are extrapolated."""
FUSERS = {"RDMF": "reaction_diffusion", "cross-attention": "cross_attention"}
DECODERS = (100, 10)
"""Queries of the decoder."""
PARTS = ("data", "forward", "matching", "loss", "forward, matching, loss", "backward", "optimizer")


class Trained:
    """A model in training, as `train` sets it up."""

    def __init__(self, config: Config, split: ResidentSplit) -> None:
        self.config, self.split, self.world = config, split, World(split.device)
        self.compiled = compiles(config, split.device)
        torch.manual_seed(config.training.seed)
        self.model = RDMF(config.model, *split.dataset.features.dims).to(split.device).train()
        self.step = Step(self.model, config, self.world)
        self.number = 0

    def take(self, part: Part) -> None:
        self.number += 1
        self.step([part], self.number, self.config.training.lr)

    def steps_on(self, parts: Sequence[Part]) -> None:
        with repeatable(self.world.device):
            for part in parts:
                self.take(part)

    def steps_from(self, rows: Sequence[Tensor], clock: Clock | None = None) -> None:
        """Steps with their data. With a clock, looked into."""
        with repeatable(self.world.device):
            if clock is None:
                for some in rows:
                    self.take(Part(self.split.batch(some)))
                return
            with parts_of(self.step, clock, self.compiled):
                for some in rows:
                    with clock.part("data"):
                        part = Part(self.split.batch(some))
                    with clock.part("optimizer"):
                        self.take(part)

    def epoch(self) -> float:
        """An epoch; the share of the host's time that went into data."""
        order = Order(self.split.lengths, self.config.training, self.world)
        in_data_s = 0.0
        began = before = time.perf_counter()

        def look(progress: Progress) -> None:
            nonlocal in_data_s, before
            now = time.perf_counter()
            in_data_s, before = in_data_s + progress.data_share * (now - before), now

        with repeatable(self.world.device):
            train_epoch(
                self.step, self.split, order, self.config.training, Standing(),
                on_look=look, on_checkpoint=lambda done: None, on_diverged=lambda step, reading: str(reading),
            )  # fmt: skip
        return in_data_s / (before - began)


def spread(values: np.ndarray, digits: int) -> str:
    return f"{np.median(values):9,.{digits}f} ({values.min():,.{digits}f} to {values.max():,.{digits}f})"


def compare_steps(
    models: dict[str, Trained],
    rows: Sequence[Tensor],
    rivals: dict[Rival, Path],
    device: torch.device,
    clock: str,
    repeat: int,
) -> None:
    """Steps on ready batches, and how many times as long everybody's takes as RDMF's."""
    runs: dict[str, Callable[[], Any]] = {}
    parameters: dict[str, int] = {}
    for name, trained in models.items():
        parts = [Part(trained.split.batch(some)) for some in rows]
        runs[name] = lambda trained=trained, parts=parts: trained.steps_on(parts)
        parameters[name] = count_parameters(trained.model)
    dataset = next(iter(models.values())).split.dataset
    examples = [[dataset[row] for row in some.tolist()] for some in rows]
    for rival, checkout in rivals.items():
        for queries in DECODERS:
            name = f"{rival.name}, {queries}"
            runs[name], parameters[name] = rival_step(rival, checkout, examples, queries, device)
    seconds = in_turn(runs, device, clock, repeat)
    references = [name for name in models if name.startswith("RDMF")]
    print(f"{'a step on ready batches':26}{'M parameters':>13}{'ms':>26}{'queries/s':>11}", end="")
    print("".join(f"{'times ' + name:>26}" for name in references))
    for name, taken in seconds.items():
        rate = sum(map(len, rows)) / np.median(taken)
        ratios = "".join(f"{spread(taken / seconds[reference], 2):>26}" for reference in references)
        ms = spread(taken / len(rows) * 1e3, 1)
        print(f"{name:26}{parameters[name] / 1e6:13.2f}{ms:>26}{rate:11,.0f}{ratios}", flush=True)
    if not rivals:
        print("no rivals (--moment-detr and --qd-detr name checkouts of them)")


def show_parts(
    models: dict[str, Trained], rows: Sequence[Tensor], device: torch.device, clock: str, repeat: int
) -> None:
    """Where the time of a step with its data goes: milliseconds and shares, beside the step that is not looked into."""
    clocks: dict[str, list[Clock]] = {name: [] for name in models}

    def looked_into(name: str) -> None:
        clocks[name].append(Clock(device, clock))
        models[name].steps_from(rows, clocks[name][-1])

    runs: dict[str, Callable[[], Any]] = {}
    for name, trained in models.items():
        runs[name] = lambda trained=trained: trained.steps_from(rows)
        runs[f"{name}, looked into"] = lambda name=name: looked_into(name)
    seconds = in_turn(runs, device, clock, repeat)
    print(f"\n{'parts of a step, ms':26}" + "".join(f"{name:>36}" for name in models))
    parts = {name: {part: _column(clocks[name][1:], part) for part in PARTS} for name in models}
    sums = {name: np.sum(list(parts[name].values()), axis=0) for name in models}
    for part in PARTS:
        if any(parts[name][part].any() for name in models):
            print(f"{part:26}" + "".join(_cell(parts[name][part], sums[name], len(rows)) for name in models))
    print(f"{'all parts':26}" + "".join(_cell(sums[name], sums[name], len(rows)) for name in models))
    print(f"{'the step by itself':26}" + "".join(_cell(seconds[name], sums[name], len(rows)) for name in models))
    first, *others = models
    for other in others:
        ratio = seconds[other] / seconds[first]
        print(f"with its data a step of {other} takes {spread(ratio, 2).strip()} times as long as one of {first}")


def _column(clocks: Sequence[Clock], part: str) -> np.ndarray:
    return np.array([clock.seconds.get(part, 0.0) for clock in clocks])


def _cell(seconds: np.ndarray, whole: np.ndarray, steps: int) -> str:
    return f"{spread(seconds / steps * 1e3, 2):>28}{np.median(seconds / whole):8.1%}"


def show_epochs(models: dict[str, Trained], device: torch.device, clock: str, repeat: int) -> None:
    in_data: dict[str, list[float]] = {name: [] for name in models}
    runs = {name: lambda name=name: in_data[name].append(models[name].epoch()) for name in models}
    seconds = in_turn(runs, device, clock, repeat)
    queries = len(next(iter(models.values())).split)
    print(f"\n{f'an epoch of {queries:,} queries':26}{'s':>26}{'queries/s':>36}   of the host's time in data")
    for name, taken in seconds.items():
        share = np.median(in_data[name][1:])
        print(f"{name:26}{spread(taken, 2):>26}{spread(queries / taken, 1):>36}{share:10.1%}", flush=True)


def run_training(
    folder: Path, out: Path, config: Config, device: torch.device, clock: str, queries: int, validated: int
) -> None:
    """A training with a validation after every epoch, end to end. Fewer epochs or queries are scaled up, and say so."""
    epochs, now = config.training.epochs, CLOCKS[clock]
    moments: list[float] = []  # the end of every epoch's steps, and of its validation
    began = now()

    def look(progress: Progress) -> None:
        if progress.step == progress.steps:
            moments.append(now())

    train(folder, out, config, device=str(device), on_step=look, on_epoch=lambda record: moments.append(now()))
    total, ends = now() - began, np.array(moments).reshape(-1, 2)
    training_s, validation_s = ends[1:, 0] - ends[:-1, 1], ends[1:, 1] - ends[1:, 0]
    print(
        f"\n{epochs} epochs of {queries:,} queries, each with a validation of {validated:,}, by train(): {total:.1f} s"
        f" end to end\n  every epoch but the first: {spread(training_s, 2).strip()} s of training, "
        f"{spread(validation_s, 2).strip()} s of validation and writing"
    )
    if (epochs, queries) != (EPOCHS, TRAIN):
        scaled = np.median(training_s) * TRAIN / queries + np.median(validation_s) * VALIDATION / validated
        print(
            f"  EXTRAPOLATED, not measured: {EPOCHS} epochs of {TRAIN:,} queries with validations of {VALIDATION:,} "
            f"would take {scaled * EPOCHS / 60:,.1f} min of {clock} time"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--queries", type=int, help="of training; 1,000 on the CPU, else all 7,218")
    parser.add_argument("--full", action="store_true", help="all queries and 50 epochs on the CPU too: many hours")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="'processor' on a CPU that others use, too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU, for all")
    for name, default in (("batch", 32), ("steps", 4), ("repeat", 5), ("epoch-repeat", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("clips", 75), ("video-dim", 2816), ("words", 32), ("text-dim", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--moment-detr", type=Path, help="a checkout of Moment-DETR")
    parser.add_argument("--qd-detr", type=Path, help="a checkout of QD-DETR")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings, as of rdmf train")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and arguments.clock != "wall":
        parser.error("the processor's time says nothing of CUDA: leave --clock out")
    whole = arguments.full or device.type == "cuda"
    torch.set_num_threads(arguments.threads)
    queries = arguments.queries or (TRAIN if whole else 1000)
    validated = math.ceil(queries * VALIDATION / TRAIN)
    shape = Shape(arguments.clips, arguments.video_dim, arguments.words, arguments.text_dim)
    rivals = {MOMENT_DETR: arguments.moment_detr, QD_DETR: arguments.qd_detr}
    rivals = {rival: checkout for rival, checkout in rivals.items() if checkout is not None}
    for rival, checkout in rivals.items():
        if not (checkout / rival.package / "model.py").is_file():
            parser.error(f"expected a checkout of {rival.name} with {rival.package}/model.py, got {checkout}")

    def configured(*settings: str) -> Config:
        return load_config(None, [f"training.batch={arguments.batch}", *arguments.set, *settings])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "features"
        make_features(folder, {"train": queries, "val": validated}, shape)
        size = configured().training.batch
        rows = list(torch.randperm(queries, generator=torch.Generator().manual_seed(0)).split(size))[: arguments.steps]
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        print(
            f"{where}, {arguments.threads} threads, torch {torch.__version__}; load {os.getloadavg()[0]:.1f} on "
            f"{os.cpu_count()} cores; {arguments.clock} time\n"
            f"{queries:,} queries of {shape.clips} clips x {shape.video_dim} and {shape.words} words x "
            f"{shape.text_dim}, batches of {size}; {arguments.repeat} times {len(rows)} steps in turn: median (range)\n"
            f"settings: the defaults{''.join(f', {s}' for s in arguments.set)}"
        )
        models = made_models(configured, MomentDataset(open_features(folder), "train"), device)
        compare_steps(models, rows, rivals, device, arguments.clock, arguments.repeat)
        for compiled in (True, False):
            pair = {name: t for name, t in models.items() if t.compiled == compiled and f", {DECODERS[0]}" in name}
            if pair:
                show_parts(pair, rows, device, arguments.clock, arguments.repeat)
        show_epochs(
            {name: models[f"{name}, {DECODERS[0]}"] for name in FUSERS}, device, arguments.clock, arguments.epoch_repeat
        )
        del models, pair
        epochs = EPOCHS if whole else SHORT
        config = configured(f"training.epochs={epochs}", f"training.patience={epochs}")
        run_training(folder, Path(name) / "run", config, device, arguments.clock, queries, validated)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


def made_models(configured: Callable[..., Config], dataset: MomentDataset, device: torch.device) -> dict[str, Trained]:
    """Of each fuser and decoder one as it is trained here; where that is compiled, one of each fuser that is not."""
    variants = [(fuser, queries, "") for queries in DECODERS for fuser in FUSERS]
    if compiles(configured(), device):
        variants += [(fuser, DECODERS[0], ", eager") for fuser in FUSERS]
    splits: dict[int, ResidentSplit] = {}
    models: dict[str, Trained] = {}
    for fuser, queries, eager in variants:
        settings = [f"model.fusion={{kind: {FUSERS[fuser]}}}", f"model.moment.queries={queries}"]
        config = configured(*settings, *(["training.compile=false"] if eager else []))
        pad_to = COMPILED_PAD if compiles(config, device) else 1
        if pad_to not in splits:
            splits[pad_to] = ResidentSplit(dataset, device, config.training.residence, pad_to=pad_to)
            print(splits[pad_to].where)
        models[f"{fuser}, {queries}{eager}"] = Trained(config, splits[pad_to])
    return models


if __name__ == "__main__":
    main()
