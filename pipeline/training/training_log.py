"""What a run writes down while it trains: log.jsonl, a line per epoch; steps.jsonl, one every few steps; TensorBoard.

Only lines of what the last checkpoint holds survive a resume, so that the logs are those of an uninterrupted run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import flat
from .checkpoint import Standing
from .epoch import Progress
from .tensor_files import publish

NO_TENSORBOARD = "--tensorboard needs a package that is not here; `pip install tensorboard`, or leave the option out"


class TrainingLog:
    """The logs of one run; on a process that does not write, none."""

    def __init__(self, run: Path, standing: Standing, steps_per_epoch: int, tensorboard: bool = False) -> None:
        self._epochs, self._steps = run / "log.jsonl", run / "steps.jsonl"
        self._steps_per_epoch = steps_per_epoch
        keep_lines(self._epochs, lambda line: line["epoch"] <= standing.epoch)
        keep_lines(self._steps, lambda line: (line["epoch"], line["step"]) <= last_step(standing, steps_per_epoch))
        done = standing.epoch * steps_per_epoch + standing.step
        self._board = summary_writer()(str(run / "tensorboard"), purge_step=done + 1) if tensorboard else None

    def step(self, at: Progress) -> None:
        record = {"epoch": at.epoch, "step": at.step, "loss": at.losses, "lr": at.lr, "gradient_norm": at.gradient_norm}
        speed = {"queries_per_s": at.queries_per_s, "data_share": at.data_share}
        append(self._steps, record | speed)
        number = (at.epoch - 1) * self._steps_per_epoch + at.step
        self._draw({**record, "speed": speed}, number)

    def epoch(self, record: dict[str, Any]) -> None:
        """record: epoch, loss, validation, seconds."""
        append(self._epochs, record)
        number = record["epoch"] * self._steps_per_epoch
        self._draw({"epoch_loss": record["loss"], "validation": record["validation"]}, number)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def _draw(self, tree: dict[str, Any], number: int) -> None:
        if self._board is None:
            return
        for name, value in flat(tree).items():
            if name not in ("epoch", "step"):
                self._board.add_scalar(name.replace(".", "/", 1), value, number)


def last_step(standing: Standing, steps_per_epoch: int) -> tuple[int, int]:
    """(epoch, step) of the last step that a checkpoint holds."""
    return (standing.epoch + 1, standing.step) if standing.step else (standing.epoch, steps_per_epoch)


def append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def keep_lines(path: Path, belongs: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines that do not belong, and what a killed process left of a line."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines(keepends=True):
        try:
            if line.endswith("\n") and belongs(json.loads(line)):
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    publish(path, ["".join(kept).encode()])


def summary_writer() -> Callable[..., Any]:
    """Raises ValueError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(NO_TENSORBOARD) from None
    return SummaryWriter
