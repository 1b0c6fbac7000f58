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
    trace: Annotated[
        Path | None, typer.Option(help="Write what video and text did to each other, step by step (.npz).")
    ] = None,
    trace_figure: Annotated[
        Path | None, typer.Option(help="Draw that, and what would come of it later (.png, .svg, .pdf; .gif moves).")
    ] = None,
    trace_until: Annotated[
        float | None, typer.Option(help="The reaction time to follow it to. [500 for --trace-figure]")
    ] = None,
    video_weights: Annotated[str | None, typer.Option(help="The run's video weights, if they are not found.")] = None,
    text_encoder: Annotated[str | None, typer.Option(help="The run's text encoder, if it is not found.")] = None,
    device: Device = "cpu",
) -> None:
    """Find moments in a video with sentences."""
    if trace_until is not None and trace is None and trace_figure is None:
        raise typer.BadParameter("--trace-until needs --trace or --trace-figure")
    from ..pipeline.inspection.figures import check_format, draw_answers
    from ..pipeline.predict import encode
    from ..pipeline.training.checkpoint import load_run_info

    if figure is not None:
        check_format(figure)
    info = load_run_info(run)
    tracing = trace is not None or trace_figure is not None
    if tracing:
        from ..pipeline.inspection.trace import (
            UNTIL,
            check_trace_path,
            check_traceable,
            states_that_fit,
            watch,
            write_traces,
        )
        from ..pipeline.inspection.trace_figure import check_trace_figure, draw_traces

        if trace is not None:
            check_trace_path(trace)
        if trace_figure is not None:
            check_trace_figure(trace_figure)
            trace_until = UNTIL if trace_until is None else trace_until
        check_traceable(info.config.model.fusion, trace_until)
    warn_random(info.random_weights)
    asked = encode(video, sentences, run, video_weights=video_weights, text_encoder=text_encoder, device=device)
    answers = asked.answers()
    write_json([answer.to_json() for answer in answers], json_to)
    for answer in answers:
        rows = [[f"{s:.1f} - {e:.1f} s", f"{c:.2f}"] for s, e, c in answer.found.windows[:top]]
        table(["moment", "confidence"], rows, title=f"“{answer.sentence}”", to_stderr=json_to == "-")
    if figure is not None:
        draw_answers(answers, figure)
        say(f"figure: {figure}")
    if tracing:
        most = states_that_fit(asked.examples, info.max_clips, info.config.model.hidden)
        watched = [
            watch(asked.model, example, answer.found.windows, info.max_clips, trace_until, most)
            for example, answer in zip(asked.examples, answers, strict=True)
        ]
        own = watched[0].own
        if len(own.times) <= own.steps:
            say(f"note: {len(own.times)} of {own.steps + 1} states are traced; all would be too large")
        if trace is not None:
            write_traces(trace, [one for w in watched for one in w.traces])
            say(f"trace: {trace}")
        if trace_figure is not None:
            draw_traces(watched, trace_figure)
            say(f"figure of the trace: {trace_figure}")
