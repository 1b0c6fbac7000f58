"""What theory says of a reaction-diffusion system: homogeneous steady states, and which perturbations of them grow.

Near a steady state a perturbation is a sum of cosines (spectrum.py); each of them follows a 2 x 2 system of its own:

    d/dt (u, v) = A(mu) (u, v),    A(mu) = J - mu diag(D_u, D_v),    mu = 4 sin^2(q / 2),    q = pi j / T

with J the Jacobian of the reaction. The growth rate sigma(mu) is the largest real part of A's eigenvalues. mu, the
eigenvalue of -Lap, is at most 4 on a lattice of clips: there is no wavelength 2 pi / q below 2 clips. Turing (1952): a
state that is stable by itself (trace J < 0 < det J) is unstable to a band of waves iff

    h = D_u g_v + D_v f_u > 0    and    h^2 > 4 D_u D_v det J,

and the band, between the roots of det A(mu) = D_u D_v mu^2 - h mu + det J, begins below mu = 4 (docs/theory.md).
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .bounds import bounds
from .integrate import integrate
from .kinetics import KINETICS, THRESHOLD
from .rates import Rates

TOLERANCE = 1e-9
"""Relative: what is closer to a border than this is said to be on it."""
LARGEST_MU = 4.0
"""Of -Lap on any number of clips: a wave that changes sign from clip to clip."""
LARGEST_EXPONENT = 690.0
"""Growth beyond e to this power is reported as that: a finite number."""

Matrix = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class SteadyState:
    """A homogeneous state that does not move."""

    name: str
    """'empty', 'active', 'threshold' (between the two), 'saddle-node' (where those last two meet) or 'rest'."""
    u: float
    v: float
    jacobian: Matrix
    trace: float = field(init=False)
    det: float = field(init=False)
    eigenvalues: tuple[complex, complex] = field(init=False)
    """That with the larger real part first."""
    verdict: str = field(init=False)
    """What the reaction does to a small homogeneous perturbation."""

    def __post_init__(self) -> None:
        (a, b), (c, d) = self.jacobian
        set_ = object.__setattr__
        set_(self, "trace", 0.0 if abs(a + d) <= TOLERANCE * (abs(a) + abs(d)) else a + d)
        set_(self, "det", 0.0 if abs(a * d - b * c) <= TOLERANCE * (abs(a * d) + abs(b * c)) else a * d - b * c)
        set_(self, "eigenvalues", eigenvalues(self.trace, self.det))
        set_(self, "verdict", _verdict(self.trace, self.det))

    @property
    def stable(self) -> bool:
        """Strictly: both real parts are negative."""
        return self.trace < 0 < self.det


def _verdict(trace: float, det: float) -> str:
    if det == 0:
        return "degenerate: an eigenvalue is 0" + ("" if trace <= 0 else ", and the other positive: not stable")
    if det < 0:
        return "saddle: unstable"
    if trace == 0:
        return "degenerate: eigenvalues are imaginary, the Hopf line"
    return f"{'stable' if trace < 0 else 'unstable'} {'node' if trace * trace >= 4 * det else 'spiral'}"


def eigenvalues(trace: float, det: float) -> tuple[complex, complex]:
    """Of a 2 x 2 matrix; the one with the larger real part first."""
    if trace * trace < 4 * det:
        root = cmath.sqrt(trace * trace / 4 - det)
        return trace / 2 + root, trace / 2 - root
    # The larger in size first, the other from the product: no digits are lost where det is small.
    far = trace / 2 + math.copysign(math.sqrt(trace * trace / 4 - det), trace)
    near = det / far if far else 0.0
    return complex(max(far, near)), complex(min(far, near))


def _gray_scott(feed: float, kill: float) -> list[tuple[str, float, float]]:
    """V (1 - V) = (F + k)^2 / F and U = (F + k) / V, or U = 0: equations (9) to (11)."""
    loss = feed + kill
    share = 4 * loss**2 / feed
    empty = ("empty", 0.0, 1.0)
    if abs(share - 1) <= TOLERANCE:
        return [empty, ("saddle-node", 2 * loss, 0.5)]
    if share > 1:
        return [empty]
    root = math.sqrt(1 - share)
    low, high = share / (2 * (1 + root)), (1 + root) / 2
    return [empty, ("active", loss / low, low), ("threshold", loss / high, high)]


def _gray_scott_substrate(feed: float, kill: float) -> list[tuple[str, float, float]]:
    return [(name, v, u) for name, u, v in _gray_scott(feed, kill)]


def _schnakenberg(a: float, b: float) -> list[tuple[str, float, float]]:
    return [("active", a + b, b / (a + b) ** 2)]


def _fitzhugh_nagumo(epsilon: float, gamma: float) -> list[tuple[str, float, float]]:
    """U = gamma V and U = 0 or (1 - U)(U - threshold) = 1 / gamma."""
    rest, middle, share = ("rest", 0.0, 0.0), (1 + THRESHOLD) / 2, 4 / (gamma * (1 - THRESHOLD) ** 2)
    if abs(share - 1) <= TOLERANCE:
        return [rest, ("saddle-node", middle, middle / gamma)]
    if share > 1:
        return [rest]
    half = (1 - THRESHOLD) / 2 * math.sqrt(1 - share)
    high, low = middle + half, middle - half
    return [rest, ("active", high, high / gamma), ("threshold", low, low / gamma)]


STATES: dict[str, Callable[[float, float], list[tuple[str, float, float]]]] = {
    "gray_scott": _gray_scott,
    "gray_scott_substrate": _gray_scott_substrate,
    "schnakenberg": _schnakenberg,
    "fitzhugh_nagumo": _fitzhugh_nagumo,
}


def jacobian(kinetics: str, rates: Rates[float], u: float, v: float) -> Matrix:
    """((f_u, f_v), (g_u, g_v)) of the very reaction that the model runs."""
    first, second, at_u, at_v = (torch.tensor(x, dtype=torch.float64) for x in (rates.first, rates.second, u, v))
    rows = torch.func.jacrev(lambda x, y: KINETICS[kinetics].react(x, y, first, second), argnums=(0, 1))(at_u, at_v)
    (f_u, f_v), (g_u, g_v) = ([entry.item() + 0.0 for entry in row] for row in rows)  # -0 becomes 0
    return (f_u, f_v), (g_u, g_v)


def steady_states(kinetics: str, rates: Rates[float]) -> tuple[SteadyState, ...]:
    """All homogeneous steady states, for rates > 0."""
    points = STATES[kinetics](rates.first, rates.second)
    return tuple(SteadyState(name, u, v, jacobian(kinetics, rates, u, v)) for name, u, v in points)


def leading(state: SteadyState, rates: Rates[float], mu: float) -> complex:
    """The eigenvalue of A(mu) with the largest real part; that part is the growth rate sigma."""
    (a, b), (c, d) = state.jacobian
    a, d = a - mu * rates.d_video, d - mu * rates.d_text
    return state.eigenvalues[0] if mu == 0 else eigenvalues(a + d, a * d - b * c)[0]


def wavelength(mu: float) -> float:
    """In clips: 2 pi / q where mu = 4 sin^2(q / 2); infinite for the homogeneous mode."""
    return math.pi / math.asin(math.sqrt(min(mu, LARGEST_MU)) / 2) if mu > 0 else math.inf


def mode_mu(wavelength_clips: float) -> float:
    """The other way round."""
    return 4 * math.sin(math.pi / wavelength_clips) ** 2


@dataclass(frozen=True)
class Waves:
    """Which waves grow on a steady state."""

    band: tuple[float, float] | None
    """Between these mu det A < 0: Turing's conditions hold. The lattice has those up to 4 alone."""
    fastest_mu: float
    """Of the mode in [0, 4] that grows fastest, or decays slowest."""
    growth: float
    """Its sigma."""

    @property
    def turing_unstable(self) -> bool:
        """Whether waves grow on a state that is stable without them."""
        return self.band is not None and self.band[0] < LARGEST_MU

    @property
    def out_of_reach(self) -> bool:
        """Whether Turing's conditions hold, for waves shorter than 2 clips alone."""
        return self.band is not None and not self.turing_unstable


def waves(state: SteadyState, rates: Rates[float]) -> Waves:
    """The dispersion relation's band and maximum, in closed form."""
    (a, b), (c, d) = state.jacobian
    d_video, d_text = rates.d_video, rates.d_text
    h = d_video * d + d_text * a
    discriminant = h * h - 4 * d_video * d_text * state.det
    band = None
    if state.stable and h > 0 and discriminant > TOLERANCE * h * h:
        far = h + math.sqrt(discriminant)
        band = 2 * state.det / far, far / (2 * d_video * d_text)
    candidates = [0.0, LARGEST_MU]
    if b * c < 0 and d_video != d_text:
        # d sigma / d mu = 0 where a - d, along mu, is +-(D_u + D_v) sqrt(-b c / (D_u D_v)).
        gap = math.copysign((d_video + d_text) * math.sqrt(-b * c / (d_video * d_text)), d_text - d_video)
        candidates.append(min(LARGEST_MU, max(0.0, (gap - (a - d)) / (d_text - d_video))))
    fastest = max(candidates, key=lambda mu: leading(state, rates, mu).real)
    return Waves(band, fastest, leading(state, rates, fastest).real)


def regime(kinetics: str, states: Sequence[SteadyState], of: Sequence[Waves]) -> str:
    """What to expect, in words."""
    by_name = {state.name: state for state in states}
    activator = "text" if kinetics == "gray_scott_substrate" else "video"
    if any(w.turing_unstable for w in of):
        return "Turing-unstable: waves grow on a state that is stable without them"
    if "saddle-node" in by_name:
        return "saddle-node: structurally unstable, the least change of a rate makes two states of one, or none"
    active = by_name.get("active")
    if active is None:
        if "rest" in by_name:
            return "excitable: one stable state, at rest"
        return f"no interior state: {activator} dies out where it is uniform"
    if not active.stable:
        if active.trace == 0:
            return "Hopf line: structurally unstable, oscillations begin here"
        way = "oscillatory" if active.eigenvalues[0].imag or len(states) == 1 else "unstable"
        after = "" if len(states) == 1 else f", in the end {activator} may die out"
        return f"{way}: the active state is unstable by itself{after}"
    return "bistable: where the start decides between two stable states" if len(states) > 1 else "one stable state"


class _WaveStepper:
    """The parts of a step (integrate.py) for the amplitudes (u, v) of a cosine: the linearised system."""

    def __init__(self, state: SteadyState, rates: Rates[float], mu: torch.Tensor, dt: float) -> None:
        self.jacobian, self.dt = state.jacobian, dt
        self.decay = mu * rates.d_video, mu * rates.d_text

    def reaction(self, wave: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        u, v = wave
        return tuple(x + self.dt * (a * u + b * v) for x, (a, b) in zip(wave, self.jacobian, strict=True))

    def explicit(self, wave: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        reacted = self.reaction(wave)
        return tuple(y - self.dt * k * x for y, x, k in zip(reacted, wave, self.decay, strict=True))

    def diffusion(self, wave: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(x / (1 + self.dt * k) for x, k in zip(wave, self.decay, strict=True))


def step_matrices(
    state: SteadyState, rates: Rates[float], mu: Sequence[float], dt: float, integrator: str = "euler"
) -> torch.Tensor:
    """What one step of the integrator does to the amplitudes of these modes: [len(mu), 2, 2]."""
    modes = torch.tensor(mu, dtype=torch.float64)
    one, nil = torch.ones_like(modes), torch.zeros_like(modes)
    stepper = _WaveStepper(state, rates, modes, dt)
    columns = [torch.stack(integrate(integrator, stepper, start, 1), -1) for start in ((one, nil), (nil, one))]
    return torch.stack(columns, -1)


@dataclass(frozen=True)
class Horizon:
    """What has grown after M steps of dt."""

    exact: float
    """The factor of the fastest mode, exp(sigma M dt)."""
    stepped: float
    """The same as the integrator's own steps have it."""
    most: float
    """The largest factor (of the root mean square) that any perturbation of (U, V), of whatever shape, can have."""


def horizon(state: SteadyState, rates: Rates[float], dt: float, steps: int, integrator: str = "euler") -> Horizon:
    """Growth over a run's own horizon, while perturbations are small."""
    found = waves(state, rates)
    scan = [found.fastest_mu, *(LARGEST_MU * i / 400 for i in range(401))]
    matrices = step_matrices(state, rates, scan, dt, integrator)
    radius = torch.linalg.eigvals(matrices[0]).abs().max().item()
    power = torch.linalg.matrix_power(matrices, steps)
    most = torch.linalg.svdvals(power).max().item() if power.isfinite().all() else math.inf
    return Horizon(
        _power(found.growth * dt * steps),
        _power(steps * math.log(radius)) if radius else 0.0,
        min(most, _power(LARGEST_EXPONENT)),
    )


def _power(exponent: float) -> float:
    return math.exp(min(exponent, LARGEST_EXPONENT))


def largest_step(kinetics: str, rates: Rates[float], steps: int, integrator: str = "euler") -> float:
    """The largest dt at which all that bounds.py states is proven through so many steps."""
    low, high = 0.0, 1 / bounds(kinetics, rates, 1.0, 1, "imex" if integrator == "imex" else "euler").load
    if bounds(kinetics, rates, high, steps, integrator).load <= 1:
        return high
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        proven = bounds(kinetics, rates, middle, steps, integrator).load <= 1
        low, high = (middle, high) if proven else (low, middle)
    return low
