"""What a run's learned rates, or rates of one's own, mean as a dynamical system: everything that `rdmf stability` says.

The numbers are fuse/stability.py's; here they are put together for one system, with the time steps that it takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...fuse.bounds import Bounds, bounds
from ...fuse.integrate import INTEGRATORS
from ...fuse.kinetics import KINETICS
from ...fuse.rates import Rates
from ...fuse.reaction_diffusion import ReactionDiffusionFusion, initial_rates
from ...fuse.stability import (
    Horizon,
    SteadyState,
    Waves,
    horizon,
    largest_step,
    regime,
    steady_states,
    wavelength,
    waves,
)
from ..training.checkpoint import build_model, load_best, load_run_info

SMALLEST, LARGEST = 1e-30, 1e6
"""Of a rate or a time step: outside, it is a slip of the keyboard. Learned rates stay above 1e-23 of their limits."""
MOST_STEPS = 10_000
"""The bounds take every step."""
DIGITS = 6
"""Of learned rates, which are single precision: so that 0.04 is 0.04."""
VISIBLE = 2.0
"""Growth below this leaves a small perturbation small: no pattern."""


@dataclass(frozen=True)
class System:
    """A reaction-diffusion system and the steps that are taken of it. Bad values raise ValueError."""

    rates: Rates[float]
    kinetics: str = "gray_scott"
    dt: float = 0.1
    steps: int = 5
    integrator: str = "euler"
    clip_seconds: float | None = None
    run: str | None = None
    """The run whose rates these are."""
    start: Rates[float] | None = None
    """Where its training began."""
    channels: int | None = None
    """Of how many channels the rates are means; None: there is one set for all."""

    def __post_init__(self) -> None:
        _check_choice("kinetics", self.kinetics, KINETICS)
        _check_choice("integrator", self.integrator, INTEGRATORS)
        seconds = {} if self.clip_seconds is None else {"clip seconds": self.clip_seconds}
        for name, value in (self.named() | {"dt": self.dt} | seconds).items():
            if not SMALLEST <= value <= LARGEST:
                raise ValueError(f"expected {name} above 0 (from {SMALLEST:g} to {LARGEST:g}), got {value:g}")
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"expected 1 to {MOST_STEPS} steps, got {self.steps}")

    def named(self, rates: Rates[float] | None = None) -> dict[str, float]:
        """The rates (other ones of the same kinetics, if given) by name."""
        names = ("d_video", "d_text", *KINETICS[self.kinetics].rates)
        return dict(zip(names, rates or self.rates, strict=True))


def system_of(
    kinetics: str = "gray_scott", d_video: float = 0.2, d_text: float = 0.1,
    reaction: Mapping[str, float] | None = None, **steps: Any,
) -> System:  # fmt: skip
    """A system by the names of its rates; what is left out is the paper's. Raises ValueError on bad values."""
    _check_choice("kinetics", kinetics, KINETICS)
    return System(initial_rates(kinetics, d_video, d_text, dict(reaction or {})), kinetics, **steps)


def system_of_run(run: Path) -> System:
    """The system that a run has learned (the mean of its channels). Raises ValueError where it has none."""
    info = load_run_info(run)
    kind = info.config.model.fusion.kind
    if kind != "reaction_diffusion":
        raise ValueError(f"expected a run with fusion reaction_diffusion, {run} has {kind}: it has no rates to look at")
    learned, fresh = load_best(run, info).fusion, build_model(info).fusion
    assert isinstance(learned, ReactionDiffusionFusion)
    assert isinstance(fresh, ReactionDiffusionFusion)
    now, start = (Rates(*(float(f"{rate:.{DIGITS}g}") for rate in f.rates_now().values())) for f in (learned, fresh))
    channels = learned.rates().first.numel()
    return System(
        now, learned.kinetics, learned.dt, learned.steps, learned.integrator, info.clip_seconds, str(run), start,
        channels if channels > 1 else None,
    )  # fmt: skip


@dataclass(frozen=True)
class Analysis:
    """All that is said of a system."""

    system: System
    states: tuple[SteadyState, ...]
    waves: tuple[Waves, ...]
    """Of each state."""
    watched: int
    """The state that a pattern would grow from."""
    regime: str
    growth: Horizon
    """On the watched state."""
    bounds: Bounds
    max_step: float
    """The largest dt for which all of fuse/bounds.py is proven through the system's number of steps."""
    max_step_once: float
    """The same for one step."""

    @property
    def state(self) -> SteadyState:
        return self.states[self.watched]

    @property
    def wave(self) -> Waves:
        return self.waves[self.watched]

    @property
    def max_step_diffusion(self) -> float | None:
        """1 / (2 max D): beyond it, explicit diffusion alone makes the shortest wave grow. None: there is no limit."""
        return None if self.system.integrator == "imex" else 1 / (2 * max(self.system.rates[:2]))

    @property
    def steps_for_tenfold(self) -> int | None:
        """Steps of dt in which the fastest wave grows tenfold."""
        if not self.wave.turing_unstable:
            return None
        return math.ceil(math.log(10) / (self.wave.growth * self.system.dt))

    def seconds(self, clips: float | None) -> float | None:
        """Clips in seconds, where a clip's length is known."""
        return None if clips is None or self.system.clip_seconds is None else clips * self.system.clip_seconds

    def to_json(self) -> dict[str, Any]:
        system, wave = self.system, self.wave
        fastest = wavelength(wave.fastest_mu) if wave.turing_unstable else None
        return {
            "run": system.run,
            "kinetics": system.kinetics,
            "rates": system.named(),
            "rates_at_start": None if system.start is None else system.named(system.start),
            "mean_of_channels": system.channels,
            "regime": self.regime,
            "steady_states": [_state_json(s, w) for s, w in zip(self.states, self.waves, strict=True)],
            "watched": self.state.name,
            "turing_unstable": wave.turing_unstable,
            "turing_out_of_reach": wave.out_of_reach,
            "fastest_wavelength_clips": fastest,
            "fastest_wavelength_s": self.seconds(fastest),
            "fastest_growth": wave.growth if wave.turing_unstable else None,
            "steps_for_tenfold": self.steps_for_tenfold,
            "dt": system.dt,
            "steps": system.steps,
            "integrator": system.integrator,
            "clip_seconds": system.clip_seconds,
            "horizon": system.dt * system.steps,
            "growth_over_horizon": self.growth.exact,
            "growth_over_horizon_stepped": self.growth.stepped,
            "largest_growth_over_horizon": self.growth.most,
            "max_step": self.max_step,
            "max_step_once": self.max_step_once,
            "max_step_diffusion": self.max_step_diffusion,
            "proven": self.bounds.load <= 1,
            "u_bound": self.bounds.u if self.bounds.load <= 1 else None,
            "v_bound": self.bounds.v if self.bounds.load <= 1 else None,
        }


def analyse(system: System) -> Analysis:
    """Look at a system from all sides."""
    kinetics, rates, steps = system.kinetics, system.rates, system.steps
    states = steady_states(kinetics, rates)
    of = tuple(waves(state, rates) for state in states)
    order = ("active", "saddle-node", "rest", "empty")
    watched = min(
        (i for i, state in enumerate(states) if state.name in order),
        key=lambda i: (not of[i].turing_unstable, not of[i].out_of_reach, order.index(states[i].name)),
    )
    return Analysis(
        system, states, of, watched, regime(kinetics, states, of),
        horizon(states[watched], rates, system.dt, steps, system.integrator),
        bounds(kinetics, rates, system.dt, steps, system.integrator),
        largest_step(kinetics, rates, steps, system.integrator),
        largest_step(kinetics, rates, 1, system.integrator),
    )  # fmt: skip


def horizon_sentence(analysis: Analysis) -> str:
    """What the run's own number of steps can do."""
    system, factor, mu = analysis.system, analysis.growth.exact, analysis.wave.fastest_mu
    mode = f"the fastest mode ({'uniform' if mu == 0 else f'{wavelength(mu):.3g} clips long'})"
    change = f"{'grows' if factor >= 1 else 'shrinks'} by {100 * abs(factor - 1):.1f} %"
    if factor >= VISIBLE:
        change = f"grows {factor:.3g}-fold"
    if factor < VISIBLE or mu == 0:
        then = "no pattern can form"
    else:
        then = "a pattern can form" if factor >= 100 else "a pattern begins to show"
    sentence = f"over M dt = {system.dt * system.steps:g} {mode} {change}: {then}"
    if analysis.steps_for_tenfold is not None:
        sentence += f"; tenfold growth takes {analysis.steps_for_tenfold:,} steps"
    return sentence


def _state_json(state: SteadyState, wave: Waves) -> dict[str, Any]:
    return {
        "name": state.name,
        "u": state.u,
        "v": state.v,
        "trace": state.trace,
        "det": state.det,
        "eigenvalues": [[root.real, root.imag] for root in state.eigenvalues],
        "stable": state.stable,
        "verdict": state.verdict,
        "jacobian": [list(row) for row in state.jacobian],
        "turing_unstable": wave.turing_unstable,
        "unstable_band_mu": None if wave.band is None else list(wave.band),
        "fastest_mu": wave.fastest_mu,
        "fastest_growth": wave.growth,
    }


def _check_choice(name: str, value: str, known: Mapping[str, Any]) -> None:
    if value not in known:
        raise ValueError(f"expected {name} {' or '.join(known)}, got {value!r}")
