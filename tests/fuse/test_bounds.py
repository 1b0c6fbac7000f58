"""What is proven of U and V holds: hunts for violations, tightness, and limits within which all rates are proven."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rdmf.fuse.bounds import PROOFS, bounds, limits
from rdmf.fuse.integrate import INTEGRATORS
from rdmf.fuse.rates import Rates
from rdmf.fuse.reaction_diffusion import react_and_diffuse

PAPER = Rates(0.2, 0.1, 0.04, 0.06)
TURING = Rates(0.02, 0.2, 0.04, 0.05)
SLACK = 1e-12  # of the implicit solve, in float64


def tensors(rates: Rates[float]) -> Rates[torch.Tensor]:
    return Rates(*(torch.tensor(rate, dtype=torch.float64) for rate in rates))


def extreme(seed: int, power: float) -> tuple[torch.Tensor, torch.Tensor]:
    """States in [0, 1]; to a power far from 1, uniform numbers crowd at the ends, where the bounds are tight."""
    u, v = torch.rand(2, 3, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) ** power
    return u, v


RAGGED = torch.arange(8) < torch.tensor([[8], [3], [1]])


@pytest.mark.parametrize("kinetics", PROOFS)
@pytest.mark.parametrize("integrator", INTEGRATORS)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), dt=st.sampled_from([0.02, 0.1, 0.3]), steps=st.integers(1, 30), seed=st.integers(0, 999))
def test_states_stay_in_their_bounds_while_the_load_is_at_most_one(
    kinetics: str, integrator: str, data: st.DataObject, dt: float, steps: int, seed: int
) -> None:
    implicit = integrator == "imex"
    diffusion, reaction = st.floats(0, (5 if implicit else 0.1) / dt), st.floats(0, min(0.1 / dt, 2))
    rates = Rates(*(data.draw(rate) for rate in (diffusion, diffusion, reaction, reaction)))
    assume(bounds(kinetics, rates, dt, steps, integrator).load <= 1)
    u, v = extreme(seed, data.draw(st.sampled_from([0.02, 1.0, 50.0])))
    for done in range(1, steps + 1):
        u, v = react_and_diffuse(u, v, RAGGED, tensors(rates), dt, 1, kinetics, integrator)
        most = bounds(kinetics, rates, dt, done, integrator)
        assert u.abs().max() <= most.u * (1 + SLACK)
        assert v.abs().max() <= most.v * (1 + SLACK)
        if kinetics != "fitzhugh_nagumo":
            assert min(u.min(), v.min()) >= -SLACK


@pytest.mark.parametrize("steps", [1, 5, 1000])
def test_the_paper_rates_are_proven_at_any_horizon(steps: int) -> None:
    for kinetics in ("gray_scott", "gray_scott_substrate"):
        for integrator in INTEGRATORS:
            assert bounds(kinetics, PAPER, 0.1, steps, integrator).load < 1


def test_the_bound_on_video_is_met_by_its_worst_case_and_levels_off_at_three() -> None:
    # One clip, full of video and text: the first step is the bound itself.
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    u, _ = react_and_diffuse(one, one, torch.ones(1, 1, dtype=torch.bool), tensors(PAPER), 0.1, 1)
    assert u.item() == pytest.approx(bounds("gray_scott", PAPER, 0.1, 1).u)
    assert bounds("gray_scott", PAPER, 0.1, 10_000).u == pytest.approx(3)


@pytest.mark.parametrize("rates", [PAPER, TURING])
@pytest.mark.parametrize("dt", [0.01, 0.02])
def test_video_and_text_together_at_the_bound_meet_it_and_go_no_further(rates: Rates[float], dt: float) -> None:
    most = bounds("gray_scott", rates, dt, 100_000)
    assert most.load <= 1
    v = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64).view(1, 5, 1)
    u, v = react_and_diffuse(most.u - v, v, torch.ones(1, 5, dtype=torch.bool), tensors(rates), dt, 1)
    assert (u + v).max().item() == pytest.approx(most.u, rel=1e-12)


def test_beyond_the_bound_text_does_turn_negative() -> None:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    rates = PAPER._replace(d_video=0.01, d_text=0.01)
    assert bounds("gray_scott", rates, 0.6, 3).load > 1
    _, v = react_and_diffuse(one, one, torch.ones(1, 1, dtype=torch.bool), tensors(rates), 0.6, 2)
    assert v.item() < 0


@pytest.mark.parametrize("kinetics", PROOFS)
@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize(("dt", "steps"), [(0.1, 5), (0.05, 10), (0.1, 20), (0.02, 300)])
def test_every_rate_within_the_limits_is_proven(kinetics: str, integrator: str, dt: float, steps: int) -> None:
    allowed = limits(kinetics, dt, steps, integrator)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        # Rates at all scales, and some at the limits themselves.
        shares = torch.rand(4, generator=generator, dtype=torch.float64) ** 4
        shares = torch.where(torch.rand(4, generator=generator) < 0.3, 1.0, shares)
        rates = Rates(*(s * most for s, most in zip(shares, allowed.most, strict=True)))
        if allowed.room is not None:
            gap, room = rates.d_video - rates.d_text, allowed.room(rates)
            assert room > 0
            slower = (room / gap.abs()).clamp(max=1)
            rates = rates._replace(d_video=slower * rates.d_video, d_text=slower * rates.d_text)
        assert bounds(kinetics, Rates(*map(float, rates)), dt, steps, integrator).load <= 1 + 1e-9


def test_short_horizons_limit_the_rates_alone_and_long_ones_their_difference() -> None:
    assert limits("gray_scott", 0.1, 5).room is None
    assert limits("gray_scott", 0.1, 5).most == pytest.approx(Rates(0.625, 0.625, 0.625, 0.625))
    assert limits("gray_scott", 0.1, 20).room is not None


@pytest.mark.parametrize("dt", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_time_step_is_refused(dt: float) -> None:
    with pytest.raises(ValueError, match="dt > 0"):
        limits("gray_scott", dt, 5)


def test_steps_that_prove_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no rates of gray_scott are proven .* 10 steps of dt = 0.6: take a smaller"):
        limits("gray_scott", 0.6, 10)
