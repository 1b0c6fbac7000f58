"""Train diffusion, fusion and heads on cached features, keep the best epoch by the validation split.

One run is one folder (see checkpoint.py). Whenever a checkpoint is written, everything that the next step depends on is
in it, so an interrupted run resumes to the same weights. Started by torchrun, several processes share every batch
(see parallel.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from ...fuse.fused import trouble
from ..config import Config
from ..loading.dataset import Batch, MomentDataset, open_features
from ..loading.resident import ResidentSplit
from ..model import RDMF, count_parameters
from .checkpoint import (
    Best,
    RunInfo,
    Standing,
    TrainResult,
    find_best,
    load_result,
    load_run_info,
    load_standing,
    save_best,
    save_standing,
    write_json,
)
from .describe import changes, describe, remarks
from .epoch import Diverged, Order, Progress, train_epoch
from .parallel import World, together
from .randomness import own_draws, random_state, repeatable, restore_random_state
from .run_folder import claimed
from .step import Reading, Step, compiles
from .tensor_files import write_tensors
from .training_log import TrainingLog, summary_writer
from .validation import deciding, validate, with_validation

__all__ = ["Diverged", "Progress", "TrainResult", "train", "validate", "with_validation"]

COMPILED_PAD = 16  # clips and words are padded to multiples of it for a compiled step, which knows few shapes


def train(
    features: Path,
    out: Path,
    config: Config,
    *,
    video_stores: Sequence[str] = (),
    text_store: str | None = None,
    resume: bool = False,
    device: str = "cpu",
    command: str = "",
    tensorboard: bool = False,
    on_note: Callable[[str], None] = lambda sentence: None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda record: None,
) -> TrainResult:
    """Train a run into folder `out`.

    resume: go on with an interrupted run of the same config and features; a finished one is returned as it is.
    on_step is called every `log_every` steps, and with on_note and on_epoch only in the first of several processes.
    Raises ValueError on a folder in use, features that do not fit, and damaged checkpoints; Diverged (naming epoch,
    step, loss and queries) where training diverges.
    """
    if tensorboard:
        summary_writer()
    with together(device) as world, repeatable(world.device):
        feature_set, roles = with_validation(open_features(features, video_stores, text_store), config.training)
        splits = {role: MomentDataset(feature_set, name.split()[0]) for role, name in roles.items()}
        info = describe(features, feature_set, roles, splits["train"], config, command, world)
        torch.manual_seed(config.training.seed)
        model = RDMF(config.model, *info.dims).to(world.device)  # what it refuses claims no folder
        if world.first:
            for sentence in remarks(info, splits.values()):
                on_note(sentence)
        own_draws(world, config.training.seed)
        with claimed(out, info, resume, on_note) if world.first else nullcontext():
            world.told(None)  # nobody goes on before the folder is claimed
            if (out / "result.json").is_file():
                if world.first:
                    on_note(f"{out} is finished already and left as it is")
                return load_result(out)
            run = _Run(out, info, splits, model, world, on_note if world.first else lambda sentence: None)
            result = run.train(tensorboard, on_step, on_epoch)
            if world.first:
                write_json(out / "result.json", asdict(result))
                (out / "last.safetensors").unlink(missing_ok=True)
            return result


class _Run:
    """A run whose folder is claimed: its data, its model, and where it stands."""

    def __init__(
        self,
        out: Path,
        info: RunInfo,
        splits: dict[str, MomentDataset],
        model: RDMF,
        world: World,
        on_note: Callable[[str], None],
    ) -> None:
        self.out, self.info, self.model, self.world, self.config = out, info, model, world, info.config
        training = self.config.training
        pad_to = COMPILED_PAD if compiles(self.config, world.device) else 1
        self.data = ResidentSplit(
            splits["train"], world.device, training.residence, pad_to=pad_to, processes=world.here
        )
        self.validation = ResidentSplit(splits["validation"], world.device, training.residence) if world.first else None
        on_note(self.data.where)
        if self.config.model.fusion.kind == "reaction_diffusion" and (why := trouble(world.device.type)):
            on_note(f"note: reaction steps are taken one by one, which is several times slower: {why}")
        self.step = Step(self.model, self.config, world)
        self.order = Order(self.data.lengths, training, world)
        self.at, self.best = Standing(processes=world.size), find_best(out)
        if (out / "last.safetensors").is_file():
            self._resume(on_note)
        self.at.best_epoch = self.best.epoch

    def train(
        self, tensorboard: bool, on_step: Callable[[Progress], None], on_epoch: Callable[[dict[str, Any]], None]
    ) -> TrainResult:
        began, training = time.monotonic(), self.config.training
        log = TrainingLog(self.out, self.at, self.order.steps, tensorboard) if self.world.first else None

        def look(progress: Progress) -> None:
            if log is not None:
                log.step(progress)
                on_step(progress)

        try:
            while self.at.epoch < training.epochs and not self._out_of_patience():
                losses = train_epoch(
                    self.step, self.data, self.order, training, self.at, on_look=look,
                    on_checkpoint=lambda done: self._save(Standing(self.at.epoch, done)), on_diverged=self._diverged,
                )  # fmt: skip
                if log is not None:
                    record = {"epoch": self.at.epoch + 1, "loss": losses} | self._validate(self.at.epoch + 1)
                    record["seconds"] = time.monotonic() - began
                    log.epoch(record)
                self._save(Standing(self.at.epoch + 1))
                if log is not None:
                    on_epoch(record)
        finally:
            if log is not None:
                log.close()
        result = TrainResult(
            self.best.epoch, self.best.scores, self.at.epoch, count_parameters(self.model), time.monotonic() - began
        )
        return TrainResult(**self.world.told(asdict(result)))

    def _out_of_patience(self) -> bool:
        return bool(self.at.best_epoch) and self.at.epoch + 1 - self.at.best_epoch > self.config.training.patience

    def _validate(self, epoch: int) -> dict[str, Any]:
        """The scores of an epoch, and whether they are the best so far: then its weights are kept."""
        assert self.validation is not None
        model = self.step.averaged
        scores = validate(model, self.validation.dataset, self.config, self.info.max_clips, self.validation)
        self.model.train()
        _, score = deciding(scores, self.config.training.select_by)
        best = score > self.best.score or epoch == self.best.epoch  # the latter: killed between the two files
        if best:
            self.best = Best(epoch, score, scores)
            save_best(self.out, model, self.best)
        return {"validation": scores, "best": best}

    def _save(self, at: Standing) -> None:
        """A checkpoint. Every process has a part in it, and goes on when it is written."""
        tensors = self.step.state() | random_state(self.world)
        tensors["rng.order"] = self.order.state(within_epoch=at.step > 0)
        at.best_epoch, at.processes = self.best.epoch, self.world.size
        if self.world.first:
            save_standing(self.out, tensors, at)
        at = Standing(**self.world.told(asdict(at)))
        if not at.step:
            self.at = at

    def _resume(self, on_note: Callable[[str], None]) -> None:
        tensors, self.at = load_standing(self.out)
        self.step.restore(tensors, self.at.step)
        self.order.restore(tensors["rng.order"])
        restore_random_state(tensors, self.world)
        where = f"after epoch {self.at.epoch}" + (f", step {self.at.step}" if self.at.step else "")
        on_note(f"going on {where}")
        if changed := changes(load_run_info(self.out), self.info):
            on_note(f"note: it began with other {', '.join(changed)} (run.json), so its bits may differ")

    def _diverged(self, step: int, reading: Reading) -> str:
        """Save what can be looked at, and say what happened."""
        path, rows = self.out / "diverged.safetensors", self.order.rows(step)
        queries = [self.data.dataset.queries[row].qid for row in rows.tolist()]
        said = {"epoch": self.at.epoch + 1, "step": step, "terms": reading.bad_terms, "queries": queries}
        if self.world.first:
            batch = self.data.batch(rows)
            tensors = {f"weights.{name}": value for name, value in self.model.state_dict().items()}
            tensors |= {f"batch.{f.name}": getattr(batch, f.name) for f in fields(Batch)} | {"rows": rows}
            write_tensors(path, tensors, said)
        return (
            f"training diverged at epoch {said['epoch']}, step {step}: {', '.join(reading.bad_terms)} not finite "
            f"(queries {', '.join(queries[:3])} ...); lower training.lr or the time steps. "
            f"The weights before that step and its batch are in {path}"
        )
