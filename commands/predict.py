"""rdmf predict: ask a trained run about a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Device, say, table, warn_random, write_json


def predict(
    video: Annotated[Path, typer.Argument(help="A video file of any length.")],
    sentences: Annotated[list[str], typer.Argument(help="What to look for; one or more sentences.")],
    run: Annotated[Path, typer.Option(help="A trained run.")],
    top: Annotated[int, typer.Option(min=1, help="Moments printed per sentence.")] = 3,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write moments and saliency as JSON; - is standard output.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw frames, saliency and moments (.png, .svg, .pdf).")] = None,
    video_weights: Annotated[str | None, typer.Option(help="The run's video weights, if they are not found.")] = None,
    text_encoder: Annotated[str | None, typer.Option(help="The run's text encoder, if it is not found.")] = None,
    device: Device = "cpu",
) -> None:
    """Find moments in a video with sentences."""
    from ..pipeline.checkpoint import load_run_info
    from ..pipeline.figures import check_format, draw_answers
    from ..pipeline.predict import predict as ask

    if figure is not None:
        check_format(figure)
    warn_random(load_run_info(run).random_weights)
    answers = ask(video, sentences, run, video_weights=video_weights, text_encoder=text_encoder, device=device)
    write_json([answer.to_json() for answer in answers], json_to)
    for answer in answers:
        rows = [[f"{s:.1f} - {e:.1f} s", f"{c:.2f}"] for s, e, c in answer.found.windows[:top]]
        table(["moment", "confidence"], rows, title=f"“{answer.sentence}”", to_stderr=json_to == "-")
    if figure is not None:
        draw_answers(answers, figure)
        say(f"figure: {figure}")
