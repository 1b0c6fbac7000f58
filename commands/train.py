"""rdmf train: stage two."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Device, say

if TYPE_CHECKING:
    from ..pipeline.config import Config


def train(
    features: Annotated[Path, typer.Option(help="Folder that `rdmf features` made.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    config: Annotated[Path | None, typer.Option(help="YAML settings. [the paper's]")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, over the YAML; repeatable.")
    ] = None,
    video_store: Annotated[
        list[str] | None,
        typer.Option(help="Video store(s) to read, concatenated in this order; needed where there is more than one."),
    ] = None,
    text_store: Annotated[str | None, typer.Option(help="Text store to read, likewise.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with an interrupted run; a finished one is left as it is.")
    ] = False,
    device: Device = "cpu",
    tensorboard: Annotated[bool, typer.Option(help="Also write OUT/tensorboard.")] = False,
) -> None:
    """Train diffusion, fusion and heads on cached features.

    Several GPUs, or several processes on CPUs: torchrun --nproc-per-node N -m rdmf.cli train ...
    """
    settings = _settings(config, set_ or [])
    _check_device(device)
    from ..pipeline.training.checkpoint import find_standing
    from ..pipeline.training.train import train as run_training
    from .training_display import TrainingDisplay

    try:
        with TrainingDisplay() as display:
            result = run_training(
                features, out, settings, video_stores=video_store or (), text_store=text_store, resume=resume,
                device=device, command=shlex.join(["rdmf", *sys.argv[1:]]), tensorboard=tensorboard,
                on_note=say, on_step=display.step, on_epoch=display.epoch,
            )  # fmt: skip
    except KeyboardInterrupt:
        if _first_process():
            at = find_standing(out)
            where = f"after epoch {at.epoch}" + (f" and {at.step} steps" if at.step else "")
            kept = at.epoch or at.step
            say(f"stopped {where}; go on with --resume" if kept else "stopped before the first checkpoint")
        raise typer.Exit(130) from None
    if _first_process():
        say(
            f"{out}: best epoch {result.best_epoch} of {result.epochs}, {result.parameters / 1e6:.2f} M parameters, "
            f"validation " + ", ".join(f"{name} {100 * value:.1f}" for name, value in result.best.items())
        )


def _settings(config: Path | None, overrides: list[str]) -> Config:
    """A wrong --set is wrong usage; a wrong file is a file to put right."""
    from ..pipeline.config import load_config

    try:
        return load_config(config, overrides)
    except ValueError as error:
        load_config(config)  # a file that is wrong by itself is named as such
        raise typer.BadParameter(str(error), param_hint="--set") from None


def _check_device(device: str) -> None:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return  # each process takes a device of its own, and should not touch that of another
    from ..extract.encoders import usable_device

    try:
        usable_device(device)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from None


def _first_process() -> bool:
    """Of those that torchrun started, if it did."""
    return os.environ.get("RANK", "0") == "0"
