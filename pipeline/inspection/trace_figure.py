"""Pictures of traces: the species over reaction time and along the video, as a figure or as an animation.

A figure has two parts. Left, the run's own horizon: M steps change a state by a few per cent, so what is drawn is the
change since the start, as the mean over the channels. Right, the same reaction followed much further, which no run was
trained on: every channel is a system of its own and has its crests elsewhere, so one channel is drawn, and beside it in
how many of them U varies along the clips at all. An animation shows all channels, and both parts in turn.

What is said below a picture of patterns is measured in the trace; fuse/stability.py adds what theory expects.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...fuse.rates import Rates
from ...fuse.stability import SteadyState, Waves, regime, steady_states, wavelength, waves
from ...manifests.files import atomic_file
from .figures import CURVE, FIRST, OTHERS, SHOWN
from .trace import Trace, Watched

FORMATS = ("png", "svg", "pdf", "gif")
OWN, BEYOND = "the run's own horizon (M dt = {:g})", "continued to t = {:g} (not what the model was trained on)"
SPECIES = {"u": ("U, video", "magma"), "v": ("V, text", "viridis")}
NEAR = 0.05
"""A channel that is level and this close to a steady state has come to it."""
WIDTH = 165
"""Characters in a line of a caption."""
STYLE: Any = {
    "font.size": 8.5, "axes.titlesize": 8.5, "axes.spines.top": False, "axes.spines.right": False,
    "text.parse_math": False,  # a sentence may hold dollars
}  # fmt: skip
FRAMES = {False: (8, 350), True: (60, 90)}
"""Of an animation, by whether the reaction is continued: how many at most, and milliseconds each."""
LAST_FRAME_MS = 3000


def check_trace_figure(path: Path) -> None:
    """Raises ValueError for a picture that could not be written, before the work is done."""
    if path.suffix.lstrip(".").lower() not in FORMATS:
        raise ValueError(f"expected a figure of a trace ending in .{', .'.join(FORMATS)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"expected a folder for the figure at {path.parent}, there is none")
    if path.is_dir():
        raise ValueError(f"expected a file for the figure, got the folder {path}; give another name")


def draw_traces(watched: Sequence[Watched], path: Path) -> None:
    """A picture of every sentence, one below the other, whole or not at all; .gif is an animation.

    Every sentence must have been followed further: `Watched.continued`. Raises ValueError as `check_trace_figure`.
    """
    check_trace_figure(path)
    assert watched
    assert all(one.continued is not None for one in watched)
    from matplotlib import rc_context

    kind = path.suffix.lstrip(".").lower()
    with rc_context(STYLE), atomic_file(path) as temporary:
        if kind == "gif":
            _animate(watched, temporary)
        else:
            figure = _figure(11, 5.7 * len(watched))
            for part, one in zip(np.ravel(figure.subfigures(len(watched), 1)), watched, strict=True):
                _draw_sentence(part, one)
            figure.savefig(temporary, dpi=140, format=kind)


def expected(trace: Trace) -> str:
    """What linear theory says of the rates (the mean over the channels where they have their own)."""
    states, found = _theory(trace)
    sentence = regime(trace.kinetics, states, found)
    growing = [w for w in found if w.turing_unstable]
    if growing:
        best = max(growing, key=lambda w: w.growth)
        sentence += f" (fastest at {wavelength(best.fastest_mu):.1f} clips, e-fold in t = {1 / best.growth:.0f})"
    return sentence


def outcome(start: Trace, end: Trace) -> str:
    """What became of the reaction: measured from the first state of one trace to the last of another."""
    channels, until = end.u.shape[2], end.times[-1]
    means = ", ".join(
        f"{name[0]} from {a.mean():.2f} to {b.mean():.2f}"
        for (name, _), a, b in zip(SPECIES.values(), (start.u[0], start.v[0]), (end.u[-1], end.v[-1]), strict=True)
    )
    crests = end.wavelength()
    if crests is not None:
        form = f"{crests:.1f} clips from crest to crest" if crests <= end.u.shape[1] else "sloping from end to end"
        many = f"{round(end.varying()[-1] * channels)} of {channels} channels, {form} (median)"
        return f"At t = {until:g} U varies along the clips in {many}. Means: {means}."
    last = np.stack([end.u[-1].mean(0), end.v[-1].mean(0)])  # [2, D]
    came = [
        f"{reached} come to the {state.name} state (U, V) = ({state.u:.3g}, {state.v:.3g})"
        for state in _theory(end)[0]
        if (reached := int((np.abs(last - np.array([[state.u], [state.v]])) < NEAR).all(0).sum()))
    ]
    where = f", {' and '.join(came)}" if came else ""
    return f"No pattern: at t = {until:g} U is level along the clips in all {channels} channels{where}. Means: {means}."


def most_varied(trace: Trace) -> int:
    """The channel whose U varies most along the clips: at the end or, where all are level then, over all times."""
    spread = trace.u.std(1)  # [S, D]
    return int((spread.mean(0) if trace.wavelength() is None else spread[-1]).argmax())


def _theory(trace: Trace) -> tuple[tuple[SteadyState, ...], list[Waves]]:
    # they come through a sigmoid in float32: 0.04 is meant, and there a saddle-node is, where 0.03999999 is read
    rates = Rates(*(float(f"{rate.mean():.6g}") for rate in trace.rates.values()))
    states = steady_states(trace.kinetics, rates)
    return states, [waves(state, rates) for state in states]


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_sentence(figure: Any, watched: Watched) -> None:
    own, far = watched.own, watched.continued
    assert far is not None
    axes = figure.subplots(3, 3, sharex="col", width_ratios=[1, 1, 0.2], height_ratios=[0.45, 1, 1])
    figure.suptitle(_title(watched), x=0.01, ha="left", fontsize=11, weight="bold")
    _draw_saliency(axes[0, 0], own)
    axes[0, 0].set_title(OWN.format(own.horizon), loc="left", weight="bold")
    _draw_moments(axes[0, 1], watched)
    axes[0, 1].set_title(BEYOND.format(far.times[-1]), loc="left", weight="bold", color=FIRST)
    channel = most_varied(far)
    for row, (species, (name, colours)) in zip(axes[1:], SPECIES.items(), strict=True):
        states = getattr(own, species)
        change = (states - states[0]).mean(2)
        most = max(float(np.abs(change).max()), 1e-6)
        _draw_map(row[0], own, change, cmap="RdBu_r", vmin=-most, vmax=most)
        row[0].set_title(f"{name}: change since t = 0, mean of the {states.shape[2]} channels", loc="left")
        one = getattr(far, species)[:, :, channel]
        _draw_map(row[1], far, one, cmap=colours, vmin=min(0.0, float(one.min())))
        row[1].set_title(f"{name}: channel {channel}, whose U varies most", loc="left")
        for ax in row[:2]:
            _mark_best(ax, watched)
    for ax in axes[2, :2]:
        ax.set_xlabel("seconds of the video")
    _draw_varying(axes[1, 2], far)
    axes[0, 2].axis("off")
    axes[2, 2].axis("off")
    figure.supxlabel(_caption(watched, WIDTH), x=0.01, ha="left", fontsize=8.5, color="#333333")


def _title(watched: Watched) -> str:
    parts = len(watched.parts)
    which = f"   (part {watched.shown + 1} of {parts} of the video: that of the best moment)" if parts > 1 else ""
    return f"“{watched.own.sentence}”{which}"


def _caption(watched: Watched, width: int) -> str:
    own, far = watched.own, watched.continued
    assert far is not None
    rates = ", ".join(f"{name} {rate.mean():.3g}" for name, rate in own.rates.items())
    first = f"{own.kinetics} by {own.integrator}, {rates}. Linear theory says {expected(own)}."
    second = f"{outcome(own, far)} Lines mark the best moment."
    return "\n".join(line for text in (first, second) for line in textwrap.wrap(text, width))


def _seconds(trace: Trace) -> np.ndarray:
    """Borders of the clips [T + 1]."""
    return np.array([*trace.clip_times_s[:, 0], trace.clip_times_s[-1, 1]])


def _draw_map(ax: Any, trace: Trace, values: np.ndarray, **colours: Any) -> None:
    times = trace.times
    before, after = 1.5 * times[0] - 0.5 * times[1], 1.5 * times[-1] - 0.5 * times[-2]
    borders = [before, *(times[1:] + times[:-1]) / 2, after]
    drawn = ax.pcolormesh(_seconds(trace), borders, values, rasterized=True, **colours)
    ax.figure.colorbar(drawn, ax=ax, pad=0.01, aspect=14)
    ax.set_ylabel("reaction time t")
    if len(times) <= 8:
        ax.set_yticks(times)


def _mark_best(ax: Any, watched: Watched) -> None:
    for at in watched.windows[:1, :2].ravel():
        ax.axvline(at, color="#111111", linewidth=2.4, alpha=0.6)
        ax.axvline(at, color="white", linewidth=1.0)
    ax.set_xlim(*_seconds(watched.own)[[0, -1]])


def _draw_saliency(ax: Any, own: Trace) -> None:
    from matplotlib import colormaps

    assert own.saliency is not None
    shades = colormaps["Blues"](np.linspace(0.25, 1, len(own.saliency)))
    for i, (row, shade) in enumerate(zip(own.saliency, shades, strict=True)):
        last = i == len(own.saliency) - 1
        ax.stairs(row, _seconds(own), color=CURVE if last else shade, linewidth=1.5 if last else 0.9, baseline=None)
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("saliency, from\nU⁰ (light) to\nU at M (dark)", fontsize=7)


def _draw_moments(ax: Any, watched: Watched) -> None:
    low, high = _seconds(watched.own)[[0, -1]]
    for rank, (start, end, confidence) in enumerate(watched.windows[:SHOWN]):
        ax.broken_barh([(start, end - start)], (-rank, 0.7), color=OTHERS if rank else FIRST)
        right = end < 0.9 * high + 0.1 * low
        ax.annotate(
            f"{confidence:.2f}", (end if right else start, 0.35 - rank), xytext=(3 if right else -3, 0),
            textcoords="offset points", ha="left" if right else "right", va="center", fontsize=7, color=FIRST,
            annotation_clip=True,
        )  # fmt: skip
    ax.set_xlim(low, high)
    ax.set_ylim(0.9 - SHOWN, 0.9)
    ax.set_yticks([])
    ax.set_ylabel("moments\nfound", fontsize=7)


def _draw_varying(ax: Any, far: Trace) -> None:
    ax.plot(100 * far.varying(), far.times, color=CURVE, clip_on=False)
    ax.set_xlim(0, 100)
    ax.set_xticks([0, 50, 100])
    ax.set_ylim(far.times[0], far.times[-1])
    ax.set_xlabel("% of channels")
    ax.set_title("U varies in", loc="left")


def _animate(watched: Sequence[Watched], file: Path) -> None:
    from PIL import Image

    palette, images, durations = _palette(), [], []
    for pixels, ms in _frames(watched):
        image = Image.fromarray(_nearest(pixels, palette))
        image.putpalette(palette.tobytes())
        images.append(image)
        durations.append(ms)
    images[0].save(
        file, format="gif", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False
    )


def _palette() -> np.ndarray:
    """uint8 [256, 3] for all frames, so that a colour always means the same: both scales, greys, tints of titles."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    tints = [LinearSegmentedColormap.from_list("", [colour, "white"]) for colour in (FIRST, CURVE)]
    scales = [(colormaps[scale], 100) for _, scale in SPECIES.values()]
    parts = [*scales, (colormaps["gray"], 40), *((tint, 8) for tint in tints)]
    return np.concatenate([scale(np.linspace(0, 1, count), bytes=True)[:, :3] for scale, count in parts])


def _nearest(pixels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Which colour of the palette comes nearest to each pixel: uint8 [height, width]."""
    codes, where = np.unique(pixels @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 1)  # [n, 3]
    distance = ((colours[:, None] - palette.astype(int)) ** 2).sum(2)  # [n, 256]
    return distance.argmin(1).astype(np.uint8)[where].reshape(pixels.shape[:2])


def _frames(watched: Sequence[Watched]) -> Iterator[tuple[np.ndarray, int]]:
    """Pictures uint8 [height, width, 3] of all channels at one reaction time after another, and how long they stay."""
    figure = _figure(9.5, 3.8 * len(watched))
    drawn = list(map(_draw_channels, np.ravel(figure.subfigures(len(watched), 1)), watched))
    for continued in (False, True):
        count, ms = FRAMES[continued]
        traces = [one.continued if continued else one.own for one in watched]
        assert all(trace is not None for trace in traces)
        states = len(traces[0].times) if traces[0] is not None else 0
        for state in np.unique(np.linspace(int(continued), states - 1, min(count, states)).round().astype(int)):
            for (title, maps, order), trace in zip(drawn, traces, strict=True):
                assert trace is not None
                of = BEYOND.format(trace.times[-1]) if continued else OWN.format(trace.horizon)
                title.set_text(f"t = {trace.times[state]:.{0 if continued else 2}f}   {of}")
                title.set_color(FIRST if continued else CURVE)
                for species, mesh in maps.items():
                    mesh.set_array(getattr(trace, species)[state].T[order])
            figure.canvas.draw()
            figure.set_layout_engine("none")  # from the second frame on everything stays where it is
            last = continued and state == states - 1
            yield np.asarray(figure.canvas.buffer_rgba())[..., :3].copy(), LAST_FRAME_MS if last else ms


def _draw_channels(figure: Any, watched: Watched) -> tuple[Any, dict[str, Any], np.ndarray]:
    """The title that says the time, the maps [channel, clip] to fill, and the order of the channels in them."""
    own, far = watched.own, watched.continued
    assert far is not None
    figure.suptitle(_title(watched), x=0.01, ha="left", fontsize=11, weight="bold")
    order = np.argsort(own.v[0].mean(0))
    top, *axes = figure.subplot_mosaic([["t", "t"], ["u", "v"]], height_ratios=[0.01, 1]).values()
    top.axis("off")
    title = top.set_title("t", loc="left", weight="bold", fontsize=9.5)
    maps = {}
    for ax, (species, (name, colours)) in zip(axes, SPECIES.items(), strict=True):
        both = np.concatenate([getattr(own, species), getattr(far, species)])
        low, high = np.percentile(both, [0.2, 99.8])
        maps[species] = ax.pcolormesh(
            _seconds(own), np.arange(both.shape[2] + 1), both[0].T[order], cmap=colours, vmin=min(0.0, low), vmax=high
        )
        ax.figure.colorbar(maps[species], ax=ax, pad=0.01, aspect=20)
        ax.set_title(name, loc="left")
        ax.set_xlabel("seconds of the video")
        ax.set_yticks([])
        _mark_best(ax, watched)
    axes[0].set_ylabel(f"{len(order)} channels, by V at t = 0")
    figure.supxlabel(_caption(watched, 145), x=0.01, ha="left", fontsize=8, color="#333333")
    return title, maps, order
