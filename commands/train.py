"""rdmf train: stage two."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import Bar, Device, say


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
) -> None:
    """Train diffusion, fusion and heads on cached features."""
    from ..pipeline.config import load_config
    from ..pipeline.train import train as run_training

    settings = load_config(config, set_ or ())
    with Bar("training") as bar:
        result = run_training(
            features, out, settings, video_stores=video_store or (), text_store=text_store, resume=resume,
            device=device, command=shlex.join(["rdmf", *sys.argv[1:]]),
            on_note=say, on_step=bar.step, on_epoch=lambda record: say(_epoch_line(record)),
        )  # fmt: skip
    say(
        f"{out}: best epoch {result.best_epoch} of {result.epochs}, {result.parameters / 1e6:.2f} M parameters, "
        f"validation " + ", ".join(f"{name} {100 * value:.1f}" for name, value in result.best.items())
    )


def _epoch_line(record: dict[str, Any]) -> str:
    scores = "  ".join(f"{name} {100 * value:5.1f}" for name, value in record["validation"].items())
    return f"epoch {record['epoch']:3d}  loss {record['loss']['total']:6.3f}  {scores}  {record['seconds']:.0f} s"
