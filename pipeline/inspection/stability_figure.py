"""The figure of `rdmf stability`: growth by wavelength, and where the system sits among its regimes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from ...fuse.kinetics import KINETICS
from ...fuse.rates import critical_ratio
from ...fuse.stability import SteadyState, leading, mode_mu, wavelength
from .figures import check_format
from .stability import Analysis

CURVE, HERE, START, FAINT = "#1f4e79", "#d1495b", "#3a7d44", "#9aa5b1"
REGIONS = {
    "uniform activator dies out": "#e9ecef",
    "active state unstable": "#f6dcc9",
    "bistable": "#dbe7f1",
    "Turing-unstable": "#cfe3cf",
}
LONGEST = 100
"""Wavelength in clips at the right end of the dispersion relation; beyond, it is flat."""
SHORTEST = 1.6
PAPER = (0.06, 0.04)
"""(k, F) of the paper."""


def draw_stability(analysis: Analysis, path: Path) -> None:
    """Left the dispersion relation; right the (k, F) plane of Gray-Scott, or the nullclines of other kinetics.

    The file's ending chooses the format. Raises ValueError as `check_format` does.
    """
    check_format(path)
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11.5, 4.9), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
        _draw_dispersion(left, analysis)
        if analysis.system.kinetics.startswith("gray_scott"):
            _draw_plane(right, analysis)
        else:
            _draw_nullclines(right, analysis)
        figure.savefig(path, dpi=150)


def _draw_dispersion(ax, analysis: Analysis) -> None:  # type: ignore[no-untyped-def]
    rates, state, wave = analysis.system.rates, analysis.state, analysis.wave
    lengths = np.geomspace(2, LONGEST, 600)
    found = [leading(state, rates, mode_mu(length)) for length in lengths]
    growth = np.array([root.real for root in found])
    real = np.array([root.imag == 0 for root in found])
    ax.axhline(0, color="black", linewidth=0.8)
    joined = real | np.append(real[1:], False) | np.append(False, real[:-1])  # the two parts of the curve meet
    ax.plot(lengths, np.where(joined, growth, np.nan), color=CURVE, linewidth=2.2, label="growth")
    if not real.all():
        ax.plot(lengths, np.where(real, np.nan, growth), color=CURVE, linewidth=2.2, linestyle=(0, (2, 1)),
                label="growth, oscillating")  # fmt: skip
    if (growth > 0).any():
        ax.fill_between(lengths, 0, growth, where=growth > 0, color=REGIONS["Turing-unstable"]
                        if wave.turing_unstable else REGIONS["active state unstable"], zorder=0)  # fmt: skip
    uniform = leading(state, rates, 0).real
    ax.axhline(uniform, color=FAINT, linewidth=1, linestyle=":")
    ax.annotate(f"uniform: {uniform:+.3g}", (LONGEST, uniform), xytext=(0, 4), textcoords="offset points",
                ha="right", color="#5c6770", fontsize=8)  # fmt: skip
    fastest = min(wavelength(wave.fastest_mu), LONGEST)
    if wave.fastest_mu > 0:
        ax.plot([fastest], [wave.growth], "o", color=HERE, markersize=7, zorder=5)
        label = f"fastest: {fastest:.3g} clips"
        seconds = analysis.seconds(fastest)
        label += f" = {seconds:.3g} s" if seconds is not None else ""
        ax.annotate(f"{label}\n{wave.growth:+.3g} per unit of time", (fastest, wave.growth), xytext=(9, 7),
                    textcoords="offset points", color=HERE, fontsize=9)  # fmt: skip
    ax.axvspan(SHORTEST, 2, color="#f1f3f5", linewidth=0, zorder=3)
    ax.axvline(2, color=FAINT, linewidth=1, zorder=3)
    bottom, top = min(growth.min(), 0.0), max(growth.max(), 0.0)
    ax.set_ylim(bottom - 0.06 * (top - bottom), top + 0.22 * (top - bottom))
    ax.text(math.sqrt(2 * SHORTEST), 0.97, "no such wave", rotation=90, ha="center", va="top", color="#5c6770",
            fontsize=8, transform=ax.get_xaxis_transform(), zorder=4)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(SHORTEST, LONGEST)
    ticks = [2, 3, 5, 10, 20, 50, 100]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("wavelength in clips")
    ax.set_ylabel("growth rate per unit of time")
    if analysis.system.clip_seconds is not None:
        clip = analysis.system.clip_seconds
        above = ax.secondary_xaxis("top", functions=(lambda x: x * clip, lambda x: x / clip))
        above.set_xticks([tick * clip for tick in ticks], [f"{tick * clip:g}" for tick in ticks])
        above.set_xticks([], minor=True)
        above.set_xlabel("seconds", fontsize=8)
        above.tick_params(labelsize=8)
    if not real.all():
        ax.legend(loc="lower right", frameon=False, fontsize=8)
    ax.set_title(f"Waves on the {state.name} state (U, V) = ({state.u:.3g}, {state.v:.3g})", loc="left", fontsize=10)


def _draw_plane(ax, analysis: Analysis) -> None:  # type: ignore[no-untyped-def]
    system = analysis.system
    text_acts = system.kinetics == "gray_scott_substrate"
    activator, other = ("text", "video") if text_acts else ("video", "text")
    d_activator, d_other = system.rates[:2][::-1] if text_acts else system.rates[:2]
    ratio = d_other / d_activator
    points = [PAPER, (system.rates.second, system.rates.first)]
    if system.start is not None:
        points.append((system.start.second, system.start.first))
    width = max(0.075, 1.15 * max(k for k, _ in points))
    height = max(0.12, 1.15 * max(f for _, f in points))
    _draw_regions(ax, ratio, width, height)
    feed = np.geomspace(1e-7, height, 2000)
    ax.plot(np.sqrt(feed) / 2 - feed, feed, color="black", linewidth=1.6, label="saddle-node, F = 4 (F + k)²")
    root = np.linspace(0, 1 / 4, 500)  # of k; trace J = 0 at the active state, which exists to k = 1/16
    ax.plot(root**2, root * (1 - 2 * root - np.sqrt(1 - 4 * root)) / 2, color="#b5651d", linewidth=1.6,
            linestyle="--", label="Hopf, F √k = (F + k)²")  # fmt: skip
    ax.plot(*PAPER, marker="D", color="black", markersize=9, linestyle="none", label="the paper's rates", zorder=5)
    here = (system.rates.second, system.rates.first)
    if system.start is not None:
        start = (system.start.second, system.start.first)
        ax.plot(*start, "o", color=START, markersize=7, label="start of training", zorder=6)
        ax.annotate("", here, xytext=start, arrowprops={"arrowstyle": "-|>", "color": HERE, "linewidth": 1.6}, zorder=6)
    if system.run or here != PAPER:
        label = "the run's rates" if system.run else "these rates"
        ax.plot(*here, "o", color=HERE, markersize=8, label=label, zorder=7)
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.set_xlabel("kill rate k")
    ax.set_ylabel("feed rate F")
    from matplotlib.patches import Patch

    lines, _ = ax.get_legend_handles_labels()
    patches = [Patch(color=colour, label=name.replace("activator", activator)) for name, colour in REGIONS.items()]
    ax.legend(handles=[*lines, *patches], loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)
    title = f"Gray-Scott where {other} diffuses {ratio:.3g} times as fast as {activator}"
    ax.set_title(title + ("" if ratio > 1 else ":\nnever Turing-unstable"), loc="left", fontsize=10)


def _draw_regions(ax, ratio: float, width: float, height: float) -> None:  # type: ignore[no-untyped-def]
    """Colours of the (k, F) plane. Turing: for diffusion rates large enough that the lattice has the waves."""
    kill, feed = torch.meshgrid(
        torch.linspace(1e-9, width, 700, dtype=torch.float64), torch.linspace(1e-9, height, 700, dtype=torch.float64),
        indexing="xy",
    )  # fmt: skip
    loss = feed + kill
    interior = feed > 4 * loss**2
    v = (1 - torch.sqrt(torch.clamp(1 - 4 * loss**2 / feed, min=0))) / 2
    stable = interior & ((loss / v) ** 2 > kill)
    turing = stable & (critical_ratio(feed, kill) < ratio)
    image = interior.int() + stable.int() + turing.int()
    from matplotlib.colors import ListedColormap, to_rgb

    ax.imshow(image.numpy(), origin="lower", extent=(0, width, 0, height), aspect="auto", vmin=0, vmax=3,
              cmap=ListedColormap([to_rgb(colour) for colour in REGIONS.values()]), interpolation="nearest",
              zorder=0)  # fmt: skip
    if turing.any():
        boundary = torch.where(stable, critical_ratio(feed, kill) - ratio, torch.nan)
        ax.contour(kill.numpy(), feed.numpy(), boundary.numpy(), levels=[0], colors=[START], linewidths=[1.6])
        ax.plot([], [], color=START, linewidth=1.6, label="Turing, for this ratio of diffusion")


def _draw_nullclines(ax, analysis: Analysis) -> None:  # type: ignore[no-untyped-def]
    system, states = analysis.system, analysis.states
    react, first, second = KINETICS[system.kinetics].react, *map(torch.tensor, system.rates[2:])
    us, vs = [s.u for s in states], [s.v for s in states]
    low_u, low_v = (0.0, 0.0) if system.kinetics == "schnakenberg" else (-0.4, -0.15)
    u, v = torch.meshgrid(
        torch.linspace(low_u, 1.6 * max(*us, 0.75), 400, dtype=torch.float64),
        torch.linspace(low_v, max(0.3, 1.9 * max(vs)), 400, dtype=torch.float64),
        indexing="xy",
    )
    f, g = react(u, v, first, second)
    for slope, colour, name in ((f, CURVE, "video at rest, f = 0"), (g, START, "text at rest, g = 0")):
        ax.contour(u.numpy(), v.numpy(), slope.numpy(), levels=[0], colors=[colour], linewidths=[2])
        ax.plot([], [], color=colour, linewidth=2, label=name)
    every = slice(10, None, 27)
    size = torch.hypot(f, g).clamp(min=1e-12)
    ax.quiver(*(x[every, every].numpy() for x in (u, v, f / size, g / size)), color=FAINT, alpha=0.6, width=0.0025,
              scale=38, angles="xy")  # fmt: skip
    for state in states:
        ax.plot(state.u, state.v, "o", color=HERE, fillstyle="full" if state.stable else "none", markersize=8, zorder=5)
        ax.annotate(_short(state), (state.u, state.v), xytext=(9, 7), textcoords="offset points", color=HERE,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})  # fmt: skip
    ax.set_xlabel("U (video)")
    ax.set_ylabel("V (text)")
    ax.legend(loc="upper right", frameon=True, edgecolor="none", framealpha=0.85, fontsize=8)
    ax.set_title(f"{system.kinetics}, uniform over the clips", loc="left", fontsize=10)


def _short(state: SteadyState) -> str:
    return f"{state.name}: {'stable' if state.stable else 'not stable'}"
