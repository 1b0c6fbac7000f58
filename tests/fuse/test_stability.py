"""The theory against the system itself: roots, derivatives, scans, and simulations that grow what it predicts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rdmf.fuse.bounds import bounds
from rdmf.fuse.integrate import INTEGRATORS
from rdmf.fuse.kinetics import KINETICS
from rdmf.fuse.rates import Rates, critical_ratio
from rdmf.fuse.reaction_diffusion import react_and_diffuse
from rdmf.fuse.stability import (
    LARGEST_MU,
    STATES,
    SteadyState,
    eigenvalues,
    horizon,
    jacobian,
    largest_step,
    leading,
    mode_mu,
    regime,
    steady_states,
    step_matrices,
    wavelength,
    waves,
)

PAPER = Rates(d_video=0.2, d_text=0.1, first=0.04, second=0.06)
TURING = Rates(d_video=0.02, d_text=0.2, first=0.04, second=0.05)
SCHNAKENBERG = Rates(d_video=0.08, d_text=1.0, first=0.1, second=0.9)


def rate(low: float = 1e-4, high: float = 2.0) -> st.SearchStrategy[float]:
    """Spread evenly over the orders of magnitude."""
    return st.floats(math.log(low), math.log(high)).map(math.exp)


any_rates = st.builds(Rates, rate(), rate(), rate(), rate())


def state_named(kinetics: str, rates: Rates[float], name: str) -> SteadyState:
    (state,) = (state for state in steady_states(kinetics, rates) if state.name == name)
    return state


def test_at_the_papers_rates_the_interior_state_is_a_saddle_node_and_not_stable() -> None:
    empty, state = steady_states("gray_scott", PAPER)
    assert empty.stable
    assert (state.name, state.u, state.v) == ("saddle-node", pytest.approx(0.2), 0.5)
    torch.testing.assert_close(torch.tensor(state.jacobian), torch.tensor([[0.1, 0.04], [-0.2, -0.08]]))
    assert (state.trace, state.det) == (pytest.approx(0.02), 0)
    assert state.eigenvalues == (pytest.approx(0.02), pytest.approx(0))
    assert not state.stable
    assert "degenerate" in state.verdict
    assert not any(waves(s, PAPER).turing_unstable for s in (empty, state))


def test_with_the_decay_k_alone_the_papers_state_would_be_stable() -> None:
    """The reading of the lost formula under which the paper's claim would hold: f = U U V - k U."""
    feed, kill = PAPER.first, PAPER.second
    u, v = 0.6, 0.1
    assert u * u * v - kill * u == pytest.approx(0)
    assert -u * u * v + feed * (1 - v) == pytest.approx(0)
    trace, det = (kill - u * u - feed), kill * (u * u - feed)
    assert max(root.real for root in eigenvalues(trace, det)) < 0


def test_the_start_of_diffusion_order_turing_grows_waves_of_five_clips() -> None:
    state = state_named("gray_scott", TURING, "active")
    found = waves(state, TURING)
    assert (state.u, state.v) == (pytest.approx(0.3191, abs=5e-5), pytest.approx(0.2821, abs=5e-5))
    assert found.turing_unstable
    assert found.growth == pytest.approx(0.0206, abs=5e-5)
    assert wavelength(found.fastest_mu) == pytest.approx(5.1, abs=0.05)


@settings(max_examples=100, deadline=None)
@given(kinetics=st.sampled_from(list(KINETICS)), rates=any_rates)
@example(kinetics="gray_scott", rates=PAPER)
@example(kinetics="gray_scott_substrate", rates=PAPER)
@example(kinetics="gray_scott", rates=Rates(0.1, 0.1, 1e-4, 1e-4))
@example(kinetics="fitzhugh_nagumo", rates=Rates(0.1, 0.1, 0.05, 4 / 0.9**2))
@example(kinetics="fitzhugh_nagumo", rates=Rates(0.1, 0.1, 0.05, 50.0))
def test_steady_states_do_not_move_and_there_are_as_many_as_the_inequality_says(
    kinetics: str, rates: Rates[float]
) -> None:
    states = steady_states(kinetics, rates)
    exact = [torch.tensor(x, dtype=torch.float64) for x in rates]
    for state in states:
        u, v = (torch.tensor(x, dtype=torch.float64) for x in (state.u, state.v))
        slopes = KINETICS[kinetics].react(u, v, exact[2], exact[3])
        for slope in slopes:  # relative to the terms that cancel
            assert abs(slope.item()) <= 1e-12 * max(1.0, state.u, state.v) ** 3
    _, _, first, second = rates
    if kinetics.startswith("gray_scott"):
        lack = 4 * (first + second) ** 2 / first - 1
    else:
        lack = 4 / (second * 0.9**2) - 1
    expected = 1 if kinetics == "schnakenberg" else 2 if abs(lack) < 1e-9 else 1 if lack > 0 else 3
    assert len(states) == expected
    assert ("saddle-node" in {state.name for state in states}) == (expected == 2)


@pytest.mark.parametrize(
    ("kinetics", "first", "second"),
    [("gray_scott", 0.04, 0.05), ("gray_scott_substrate", 0.1, 0.05), ("fitzhugh_nagumo", 0.05, 8.0)],
)
def test_the_closed_forms_are_all_the_roots_that_a_search_finds(kinetics: str, first: float, second: float) -> None:
    rates = torch.tensor([first, second], dtype=torch.float64)

    def slopes(x: torch.Tensor) -> torch.Tensor:
        return torch.stack(KINETICS[kinetics].react(x[0], x[1], *rates))

    x = torch.rand(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    for _ in range(60):  # Newton
        matrix = torch.func.vmap(torch.func.jacrev(slopes))(x) + 1e-14 * torch.eye(2)
        x = x - torch.linalg.solve(matrix, torch.func.vmap(slopes)(x))
    ended = x[torch.func.vmap(slopes)(x).abs().amax(1) < 1e-12]
    found = {(round(u, 6) + 0.0, round(v, 6) + 0.0) for u, v in ended.tolist()}
    assert found == {(round(s.u, 6), round(s.v, 6)) for s in steady_states(kinetics, Rates(0.1, 0.1, first, second))}


@settings(max_examples=100, deadline=None)
@given(u=st.floats(0, 2), v=st.floats(0, 2), rates=any_rates)
def test_jacobians_are_those_of_the_textbook(u: float, v: float, rates: Rates[float]) -> None:
    _, _, a, b = rates
    loss = a + b
    expected = {
        "gray_scott": ((2 * u * v - loss, u * u), (-2 * u * v, -u * u - a)),
        "gray_scott_substrate": ((-v * v - a, -2 * u * v), (v * v, 2 * u * v - loss)),
        "schnakenberg": ((2 * u * v - 1, u * u), (-2 * u * v, -u * u)),
        "fitzhugh_nagumo": ((-3 * u * u + 2.2 * u - 0.1, -1.0), (a, -a * b)),
    }
    assert expected.keys() == STATES.keys() == KINETICS.keys()
    for kinetics, rows in expected.items():
        for row, found in zip(rows, jacobian(kinetics, rates, u, v), strict=True):
            assert found == pytest.approx(row, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(rates=any_rates)
def test_the_active_state_is_stable_where_u_squared_exceeds_feed_and_kill(rates: Rates[float]) -> None:
    for state in steady_states("gray_scott", rates):
        if state.name == "active":
            edge = state.u**2 / max(rates.first, rates.second)
            assume(abs(edge - 1) > 1e-6)
            assert state.stable == (edge > 1)
        if state.name == "threshold":
            assert state.det < 0
        roots = torch.linalg.eigvals(torch.tensor(state.jacobian, dtype=torch.float64))
        assert max(r.real for r in state.eigenvalues) == pytest.approx(roots.real.max().item(), rel=1e-6, abs=1e-9)


def test_on_the_hopf_line_a_state_is_called_degenerate() -> None:
    root = 0.2  # of k; F sqrt(k) = (F + k)^2
    feed = root * (1 - 2 * root - math.sqrt(1 - 4 * root)) / 2
    rates = Rates(0.1, 0.1, feed, root**2)
    state = state_named("gray_scott", rates, "active")
    assert state.trace == 0
    assert not state.stable
    assert "Hopf" in state.verdict
    assert "Hopf" in regime("gray_scott", (state,), (waves(state, rates),))


@settings(max_examples=150, deadline=None)
@given(kinetics=st.sampled_from(list(KINETICS)), rates=any_rates, data=st.data())
def test_turings_conditions_and_the_fastest_wave_agree_with_a_scan(
    kinetics: str, rates: Rates[float], data: st.DataObject
) -> None:
    ratio = data.draw(rate(0.02, 50))
    rates = rates._replace(d_text=rates.d_video * ratio)
    for state in steady_states(kinetics, rates):
        found = waves(state, rates)
        matrices = torch.tensor(state.jacobian, dtype=torch.float64).expand(4001, 2, 2)
        mu = torch.linspace(0, LARGEST_MU, 4001, dtype=torch.float64)
        spread = torch.diag(torch.tensor([rates.d_video, rates.d_text], dtype=torch.float64))
        a = matrices - mu.view(-1, 1, 1) * spread
        trace, det = a.diagonal(dim1=1, dim2=2).sum(1), torch.linalg.det(a)
        growth = (trace / 2 + torch.sqrt(torch.complex(trace**2 / 4 - det, torch.zeros_like(det)))).real
        scale = matrices[0].abs().max().item() + 4 * max(rates[:2])
        best = growth.max().item()
        assert found.growth >= best - 1e-7 * scale
        assert found.growth == pytest.approx(leading(state, rates, found.fastest_mu).real)
        if state.stable and abs(best) > 1e-6 * scale:
            assert found.turing_unstable == (best > 0)
        if found.turing_unstable and found.band is not None:
            low, high = found.band
            assert low < found.fastest_mu <= LARGEST_MU
            inside = (mu > low * 1.001) & (mu < high * 0.999)
            assert (growth[inside] > 0).all()
            outside = (mu < low * 0.999) | (mu > high * 1.001)
            assert (growth[outside] < 0).all()


@settings(max_examples=100, deadline=None)
@given(feed=rate(1e-3, 0.2), kill=rate(1e-3, 0.0625), factor=st.sampled_from([0.5, 0.99, 1.01, 2.0]))
def test_turing_begins_at_the_critical_ratio_of_the_learned_rates(feed: float, kill: float, factor: float) -> None:
    rates = Rates(1e-3, 1e-3, feed, kill)
    active = [state for state in steady_states("gray_scott", rates) if state.name == "active" and state.stable]
    assume(active)
    rates = rates._replace(d_text=rates.d_video * critical_ratio(feed, kill) * factor)
    assert (waves(active[0], rates).band is not None) == (factor > 1)
    swapped = rates._replace(d_video=rates.d_text, d_text=rates.d_video)
    (mirror,) = (state for state in steady_states("gray_scott_substrate", swapped) if state.name == "active")
    assert (waves(mirror, swapped).band is not None) == (factor > 1)


def test_a_band_of_waves_below_two_clips_is_out_of_reach() -> None:
    tiny = TURING._replace(d_video=TURING.d_video / 100, d_text=TURING.d_text / 100)
    state = state_named("gray_scott", tiny, "active")
    found = waves(state, tiny)
    assert found.out_of_reach
    assert not found.turing_unstable
    assert found.growth < 0
    wide = waves(state, TURING).band
    assert found.band == pytest.approx(tuple(100 * mu for mu in wide or ()))


@pytest.mark.parametrize("clips", [2.0, 3.0, 5.1, 37.0])
def test_wavelengths_and_eigenvalues_are_inverse(clips: float) -> None:
    assert wavelength(mode_mu(clips)) == pytest.approx(clips)
    assert wavelength(0) == math.inf


@pytest.mark.parametrize(
    ("kinetics", "rates", "words"),
    [
        ("gray_scott", PAPER, "saddle-node"),
        ("gray_scott", TURING, "Turing-unstable"),
        ("gray_scott", PAPER._replace(first=0.02), "no interior state: video dies out"),
        ("gray_scott_substrate", PAPER._replace(first=0.02), "no interior state: text dies out"),
        ("gray_scott", PAPER._replace(second=0.05), "bistable"),
        ("gray_scott", PAPER._replace(first=0.02, second=0.048), "oscillatory"),
        ("schnakenberg", SCHNAKENBERG, "Turing-unstable"),
        ("schnakenberg", SCHNAKENBERG._replace(d_text=0.08), "one stable state"),
        ("schnakenberg", Rates(0.1, 0.1, 0.02, 0.5), "oscillatory"),
        ("fitzhugh_nagumo", Rates(0.1, 0.1, 0.05, 1.0), "excitable"),
        ("fitzhugh_nagumo", Rates(0.1, 0.1, 0.05, 8.0), "bistable"),
    ],
)
def test_the_regime_is_said_in_words(kinetics: str, rates: Rates[float], words: str) -> None:
    states = steady_states(kinetics, rates)
    assert words in regime(kinetics, states, [waves(state, rates) for state in states])


def cosine_modes(clips: int) -> torch.Tensor:
    """[J, T], orthonormal."""
    j, i = torch.arange(clips, dtype=torch.float64).view(-1, 1), torch.arange(clips, dtype=torch.float64)
    norm = torch.full((clips, 1), math.sqrt(2 / clips), dtype=torch.float64)
    norm[0] = math.sqrt(1 / clips)
    return norm * torch.cos(math.pi * j * (i + 0.5) / clips)


def simulate(
    kinetics: str, rates: Rates[float], state: SteadyState, clips: int, dt: float, steps: int, looks: int,
    integrator: str = "ssprk3",
) -> torch.Tensor:  # fmt: skip
    """Amplitudes [looks, J] of U's cosine modes, from a perturbation of 1e-9, every steps / looks steps."""
    generator = torch.Generator().manual_seed(1)
    noise = 1e-9 * torch.randn(2, 1, clips, 1, dtype=torch.float64, generator=generator)
    u, v = state.u + noise[0], state.v + noise[1]
    mask = torch.ones(1, clips, dtype=torch.bool)
    exact = Rates(*(torch.tensor(r, dtype=torch.float64) for r in rates))
    seen = []
    for _ in range(looks):
        u, v = react_and_diffuse(u, v, mask, exact, dt, steps // looks, kinetics, integrator)
        seen.append(cosine_modes(clips) @ (u[0, :, 0] - state.u))
    return torch.stack(seen)


def measured_growth(amplitudes: torch.Tensor, time_between: float) -> torch.Tensor:
    """[J]: the slope of log |amplitude| by least squares."""
    time = torch.arange(len(amplitudes), dtype=torch.float64) * time_between
    time = time - time.mean()
    return time @ amplitudes.abs().log() / (time @ time)


@pytest.mark.parametrize(
    ("kinetics", "rates", "clips", "dt", "steps"),
    [
        ("gray_scott", TURING, 120, 0.5, 600),
        ("gray_scott_substrate", TURING._replace(d_video=0.2, d_text=0.02), 101, 0.5, 600),
        ("schnakenberg", SCHNAKENBERG, 120, 0.04, 800),
        ("schnakenberg", SCHNAKENBERG._replace(d_video=0.4, d_text=5.0), 120, 0.04, 800),
    ],
)
def test_a_simulation_grows_every_unstable_wave_at_the_predicted_rate(
    kinetics: str, rates: Rates[float], clips: int, dt: float, steps: int
) -> None:
    state = state_named(kinetics, rates, "active")
    found = waves(state, rates)
    assert found.turing_unstable
    mu = [4 * math.sin(math.pi * j / (2 * clips)) ** 2 for j in range(clips)]
    predicted = torch.tensor([leading(state, rates, m).real for m in mu])
    amplitudes = simulate(kinetics, rates, state, clips, dt, steps, 40)[20:]  # the decaying parts are gone by half time
    measured = measured_growth(amplitudes, dt * steps / 40)
    unstable = predicted > 0
    assert unstable.sum() >= 10
    torch.testing.assert_close(measured[unstable].float(), predicted[unstable], rtol=0.05, atol=1e-3 * found.growth)
    assert amplitudes[-1, predicted < 0].abs().max() < 1e-8  # none of the others has grown
    assert amplitudes[-1].abs().max() > 1e-7
    fastest = int(torch.where(unstable, measured, 0).argmax())
    assert predicted[fastest] >= 0.999 * predicted.max()
    assert abs(2 * clips / fastest - wavelength(found.fastest_mu)) < 0.3


def test_at_the_papers_rates_waves_die_on_the_stable_state_and_never_outgrow_the_uniform_mode() -> None:
    empty, interior = steady_states("gray_scott", PAPER)
    starts = simulate("gray_scott", PAPER, empty, 100, 0.1, 1, 1)[0].abs()
    assert (simulate("gray_scott", PAPER, empty, 100, 0.1, 400, 1)[0].abs() < 0.1 * starts).all()
    measured = measured_growth(simulate("gray_scott", PAPER, interior, 100, 0.2, 1600, 40)[20:], 8.0)
    assert measured[0] == pytest.approx(0.02, rel=0.01)
    assert (measured[1:11] < measured[0]).all()  # waves of 20 clips and more
    waves_below_20 = simulate("gray_scott", PAPER, interior, 100, 0.2, 1600, 1)[0, 11:].abs()
    assert waves_below_20.max() < 1e-9


@pytest.mark.parametrize("kinetics", ["gray_scott", "gray_scott_substrate"])
def test_at_the_papers_numbers_a_pulse_divides_only_if_video_is_the_substrate(kinetics: str) -> None:
    """What linear theory does not see: with the letters of Pearson (1993) a finite disturbance forms a pattern."""
    activator, substrate = torch.zeros(1, 200, 1, dtype=torch.float64), torch.ones(1, 200, 1, dtype=torch.float64)
    activator[:, 95:105] = substrate[:, 95:105] = 0.5
    divides = kinetics == "gray_scott_substrate"
    start = (substrate, activator) if divides else (activator, substrate)
    exact = Rates(*(torch.tensor(r, dtype=torch.float64) for r in PAPER))
    ended = react_and_diffuse(*start, torch.ones(1, 200, dtype=torch.bool), exact, 0.5, 1000, kinetics)
    x = ended[1 if divides else 0][0, :, 0]
    pulses = (x[1:-1] > x[:-2]) & (x[1:-1] > x[2:]) & (x[1:-1] > 0.05)
    assert int(pulses.sum()) == (4 if divides else 0)


def test_the_default_horizon_grows_nothing_to_speak_of() -> None:
    for rates, name in ((PAPER, "saddle-node"), (TURING, "active")):
        grown = horizon(state_named("gray_scott", rates, name), rates, dt=0.1, steps=5)
        assert grown.exact == pytest.approx(1.0103, abs=5e-4)
        assert grown.exact == pytest.approx(grown.stepped, abs=1e-4)
        assert 1.04 < grown.most < 1.07


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_steppers_growth_is_that_of_a_real_wave_through_real_steps(integrator: str) -> None:
    clips, j, dt, steps = 60, 23, 0.4, 50
    state = state_named("gray_scott", TURING, "active")
    mu = 4 * math.sin(math.pi * j / (2 * clips)) ** 2
    (matrix,) = step_matrices(state, TURING, [mu], dt, integrator)
    size, tiny = torch.tensor([1.0, -0.5], dtype=torch.float64), 1e-8
    expected = torch.linalg.matrix_power(matrix, steps) @ size
    wave = cosine_modes(clips)[j].view(1, -1, 1)
    mask = torch.ones(1, clips, dtype=torch.bool)
    exact = Rates(*(torch.tensor(r, dtype=torch.float64) for r in TURING))
    u, v = state.u + tiny * size[0] * wave, state.v + tiny * size[1] * wave
    after = react_and_diffuse(u, v, mask, exact, dt, steps, "gray_scott", integrator)
    found = (
        torch.stack([cosine_modes(clips)[j] @ x[0, :, 0] for x in after]) / tiny
    )  # the state itself has no part in j
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_no_perturbation_outgrows_the_largest_factor(integrator: str) -> None:
    state, (dt, steps) = state_named("gray_scott", TURING, "active"), (0.4, 30)
    most = horizon(state, TURING, dt, steps, integrator).most
    generator = torch.Generator().manual_seed(0)
    noise = 1e-8 * torch.randn(2, 500, 16, 1, dtype=torch.float64, generator=generator)
    mask = torch.ones(500, 16, dtype=torch.bool)
    exact = Rates(*(torch.tensor(r, dtype=torch.float64) for r in TURING))
    after = react_and_diffuse(state.u + noise[0], state.v + noise[1], mask, exact, dt, steps, "gray_scott", integrator)
    size = torch.stack([after[0] - state.u, after[1] - state.v]).pow(2).sum((0, 2, 3)).sqrt()
    factor = size / noise.pow(2).sum((0, 2, 3)).sqrt()
    assert factor.max() <= most * 1.001
    assert factor.max() > 0.3 * most  # and it is no empty promise


@pytest.mark.parametrize("kinetics", KINETICS)
@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("steps", [1, 5, 200])
def test_the_largest_step_is_proven_and_a_larger_one_is_not(kinetics: str, integrator: str, steps: int) -> None:
    rates = Rates(0.2, 0.1, *KINETICS[kinetics].initial)
    dt = largest_step(kinetics, rates, steps, integrator)
    assert bounds(kinetics, rates, dt, steps, integrator).load <= 1
    assert bounds(kinetics, rates, dt * 1.0001, steps, integrator).load > 1
    assert dt <= largest_step(kinetics, rates, 1, integrator)
