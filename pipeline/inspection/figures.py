"""Figures: what a run says of a video, along its time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...extract.frames import open_video
from ..predict import Answer

THUMBNAILS = 10
SHOWN = 3  # moments drawn per sentence
CURVE, FIRST, OTHERS, TRUTH = "#1f4e79", "#d1495b", "#e6a2ab", "#3a7d44"


FORMATS = ("png", "svg", "pdf", "jpg", "webp")


def check_format(path: Path) -> None:
    """Raises ValueError for a figure that could not be written, before the work is done."""
    if path.suffix.lstrip(".").lower() not in FORMATS:
        raise ValueError(f"expected a figure ending in .{', .'.join(FORMATS)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"expected a folder for the figure at {path.parent}, there is none")
    if path.is_dir():
        raise ValueError(f"expected a file for the figure, got the folder {path}; give another name")


def draw_answers(
    answers: Sequence[Answer], path: Path, truth: Sequence[Sequence[tuple[float, float]]] | None = None
) -> None:
    """Frames of the video on top, then for each sentence its saliency curve with the best windows under it.

    truth: true windows (start_s, end_s) per sentence, drawn as a line on top. The file's ending chooses the format.
    Raises ValueError as `check_format` does.
    """
    check_format(path)
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    times = answers[0].found.times_s
    length = float(times[-1, 1])
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 1.4 + 1.75 * len(answers)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(
            1 + len(answers), 1, sharex=True, height_ratios=[1.1] + [1.6] * len(answers), squeeze=False
        )[:, 0]
        _draw_frames(axes[0], answers[0].video, length)
        for i, (ax, answer) in enumerate(zip(axes[1:], answers, strict=True)):
            _draw_answer(ax, answer, truth[i] if truth is not None else ())
        axes[-1].set_xlabel("seconds")
        axes[-1].set_xlim(0, length)
        figure.savefig(path, dpi=140)


def _draw_frames(ax, video: Path, length: float) -> None:  # type: ignore[no-untyped-def]
    centres = (np.arange(THUMBNAILS) + 0.5) * length / THUMBNAILS
    with open_video(video) as reader:
        for centre, frame in zip(centres, reader.frames_at(centres), strict=True):
            half = 0.48 * length / THUMBNAILS
            step = max(1, min(frame.shape[:2]) // 160)
            ax.imshow(frame[::step, ::step], extent=(centre - half, centre + half, 0, 1), aspect="auto")
    ax.set_ylim(0, 1)
    ax.axis("off")


def _draw_answer(ax, answer: Answer, truth: Sequence[tuple[float, float]]) -> None:  # type: ignore[no-untyped-def]
    found = answer.found
    ax.stairs(
        found.saliency,
        [*found.times_s[:, 0], found.times_s[-1, 1]],
        color=CURVE,
        linewidth=1.6,
        label="saliency",
    )
    for rank, (start, end, confidence) in enumerate(found.windows[:SHOWN]):
        low = -0.12 - 0.11 * rank
        colour = OTHERS if rank else FIRST
        ax.broken_barh([(start, end - start)], (low, 0.08), color=colour)
        ax.annotate(
            f"{confidence:.2f}",
            (end, low + 0.04),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=colour,
        )
        if rank == 0:
            ax.axvspan(start, end, color=FIRST, alpha=0.10, linewidth=0)
    for start, end in truth:
        ax.plot([start, end], [1.06, 1.06], color=TRUTH, linewidth=3, solid_capstyle="butt", clip_on=False)
    ax.set_ylim(-0.12 - 0.11 * (SHOWN - 1) - 0.04, 1.08)
    ax.set_yticks([0, 0.5, 1])
    ax.set_ylabel("saliency")
    note = "   (green: truth)" if truth else ""
    ax.set_title(f"“{answer.sentence}”   red: best moment{note}", loc="left", fontsize=9)
