"""rdmf stability: what the rates of a run, or any rates, mean as a dynamical system."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import say, table, write_json

if TYPE_CHECKING:
    from ..pipeline.inspection.stability import Analysis

WAVELENGTHS = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100, math.inf)
BAR = 40
"""Characters of the longest bar."""


def stability(
    run: Annotated[Path | None, typer.Option(help="A trained run, whose learned rates are looked at; or:")] = None,
    feed: Annotated[float | None, typer.Option(help="F [0.04]")] = None,
    kill: Annotated[float | None, typer.Option(help="k [0.06]")] = None,
    d_video: Annotated[float | None, typer.Option(help="D_u, how fast video diffuses [0.2]")] = None,
    d_text: Annotated[float | None, typer.Option(help="D_v, how fast text diffuses [0.1]")] = None,
    kinetics: Annotated[
        str | None, typer.Option(help="gray_scott, gray_scott_substrate, schnakenberg or fitzhugh_nagumo. [gray_scott]")
    ] = None,
    rate: Annotated[list[str] | None, typer.Option(help="A rate of other kinetics by name, as a=0.1.")] = None,
    steps: Annotated[int | None, typer.Option(help="M [the run's, else 5]")] = None,
    dt: Annotated[float | None, typer.Option(help="The time step [the run's, else 0.1]")] = None,
    integrator: Annotated[str | None, typer.Option(help="euler, ssprk3 or imex. [the run's, else euler]")] = None,
    clip_seconds: Annotated[float | None, typer.Option(help="Length of a clip, for wavelengths in seconds.")] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write all numbers as JSON; - is standard output.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw growth rates and the phase diagram (.png, .svg).")] = None,
) -> None:
    """Say which states are stable, which patterns can grow, and what the time steps allow. Defaults: the paper's."""
    reaction = _rates(rate or ()) | {n: x for n, x in (("feed", feed), ("kill", kill)) if x is not None}
    rates: dict[str, Any] = {"kinetics": kinetics, "d_video": d_video, "d_text": d_text, "reaction": reaction}
    rates = {name: value for name, value in rates.items() if value not in (None, {})}
    taken: dict[str, Any] = {"steps": steps, "dt": dt, "integrator": integrator, "clip_seconds": clip_seconds}
    taken = {name: value for name, value in taken.items() if value is not None}
    if run is not None and rates:
        raise typer.BadParameter("give either --run, or rates and kinetics; a run has its own")

    from dataclasses import replace

    from ..pipeline.inspection.figures import check_format
    from ..pipeline.inspection.stability import analyse, system_of, system_of_run

    if figure is not None:
        check_format(figure)
    learned = None if run is None else system_of_run(run)
    try:
        system = system_of(**rates, **taken) if learned is None else replace(learned, **taken)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    analysis = analyse(system)
    write_json(analysis.to_json(), json_to)
    if json_to != "-":
        _page(analysis)
    if figure is not None:
        from ..pipeline.inspection.stability_figure import draw_stability

        draw_stability(analysis, figure)
        say(f"figure: {figure}")


def _rates(given: list[str] | tuple[()]) -> dict[str, float]:
    out = {}
    for item in given:
        name, equals, value = item.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise typer.BadParameter(f"expected --rate name=number, got {item!r}")
    return out


def _page(analysis: Analysis) -> None:
    from ..pipeline.inspection.stability import horizon_sentence

    system = analysis.system
    whose = f"learned by {system.run}" if system.run else "as given"
    if system.channels:
        whose += f", means of {system.channels} channels"
    typer.echo(f"{system.kinetics}, rates {whose}")
    if system.start is None:
        typer.echo("  " + "   ".join(f"{name} {value:.6g}" for name, value in system.named().items()))
    else:
        moved = zip(system.named(system.start).items(), system.rates, strict=True)
        rows = [[name, f"{old:.4g}", f"{now:.4g}", f"{100 * (now / old - 1):+.1f} %"] for (name, old), now in moved]
        table(["rate", "start", "learned", "moved"], rows)
    typer.echo(f"\n{analysis.regime}\n")
    _states(analysis)
    _dispersion(analysis)
    _turing(analysis)
    typer.echo(f"\n{horizon_sentence(analysis)}")
    typer.echo(
        f"  no perturbation of whatever shape grows to more than {analysis.growth.most:.4g} times its size by then"
    )
    _steps(analysis)
    if system.kinetics == "gray_scott":
        typer.echo("\nThe kinetics are our reconstruction of the paper's equation (6): docs/theory.md")


def _states(analysis: Analysis) -> None:
    rows = []
    for state, wave in zip(analysis.states, analysis.waves, strict=True):
        one, two = state.eigenvalues
        roots = f"{one.real:+.4g} ± {one.imag:.4g} i" if one.imag else f"{one.real:+.4g}, {two.real:+.4g}"
        to_waves = "unstable" if wave.growth > 0 else "stable" if state.stable else "neutral"
        rows.append([state.name, f"{state.u:.4f}", f"{state.v:.4f}", f"{state.trace:+.4g}", f"{state.det:+.4g}",
                     roots, state.verdict, to_waves])  # fmt: skip
    head = ["homogeneous state", "U", "V", "trace", "det", "eigenvalues", "by itself", "with waves"]
    table(head, rows)


def _dispersion(analysis: Analysis) -> None:
    """Growth rate by wavelength, as bars to both sides of 0."""
    from ..fuse.stability import leading, mode_mu, wavelength

    rates, state, wave = analysis.system.rates, analysis.state, analysis.wave
    fastest = wavelength(wave.fastest_mu)
    lengths = sorted({*WAVELENGTHS, fastest})
    found = [leading(state, rates, mode_mu(length)).real for length in lengths]
    top = max(map(abs, found)) or 1.0
    typer.echo(f"growth of waves on the {state.name} state (U, V) = ({state.u:.4f}, {state.v:.4f})\n")
    for length, growth in zip(lengths, found, strict=True):
        seconds = analysis.seconds(length)
        name = "uniform" if math.isinf(length) else f"{length:.3g} clips"
        name += f" {seconds:6.3g} s" if seconds is not None and not math.isinf(length) else ""
        size = round(BAR / 2 * abs(growth) / top)
        bar = ("▒" * size).rjust(BAR // 2) + "│" if growth < 0 else " " * (BAR // 2) + "│" + "█" * size
        mark = "  ← fastest" if length == fastest else ""
        typer.echo(f"  {name:>18} {growth:+9.4f}  {bar.ljust(BAR + 1)}{mark}".rstrip())


def _turing(analysis: Analysis) -> None:
    from ..fuse.stability import LARGEST_MU, wavelength

    wave = analysis.wave
    if wave.band is None:
        why = "no wave grows on this state" if analysis.state.stable else "this state is not stable without waves"
        typer.echo(f"\nno Turing instability: {why}")
    elif wave.out_of_reach:
        typer.echo(
            f"\nTuring's conditions hold, but for waves shorter than 2 clips alone (mu above {wave.band[0]:.3g}, and "
            f"{LARGEST_MU:g} is the most): they do not exist; larger diffusion rates bring them into reach"
        )
    else:
        shortest, longest, best = (wavelength(mu) for mu in (wave.band[1], wave.band[0], wave.fastest_mu))
        seconds = analysis.seconds(best)
        sentence = f"\nTuring band: {shortest:.3g} to {longest:.3g} clips; fastest {best:.3g} clips"
        sentence += f" = {seconds:.3g} s" if seconds is not None else ""
        sentence += f", at {wave.growth:.4g} per unit of time"
        typer.echo(sentence + (" (the lattice cuts off its short end)" if wave.band[1] > LARGEST_MU else ""))


def _steps(analysis: Analysis) -> None:
    system, plain = analysis.system, analysis.max_step_diffusion
    steps = f"{system.steps} {system.integrator} steps of {system.dt:g}"
    if analysis.bounds.load <= 1:
        sign = "|U| <=" if system.kinetics == "fitzhugh_nagumo" else "0 <= U <="
        typer.echo(f"  {sign} {analysis.bounds.u:.4g} is proven through {steps}")
    else:
        typer.echo(f"  nothing is proven of {steps}: dt is too large")
    alone = "diffusion is implicit and sets none" if plain is None else f"diffusion alone is stable to {plain:.4g}"
    largest = f"{analysis.max_step:.4g} for {system.steps} steps, {analysis.max_step_once:.4g} for one"
    typer.echo(f"  largest proven dt: {largest}; {alone}")
