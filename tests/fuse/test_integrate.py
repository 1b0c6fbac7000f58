"""Forward Euler: closed form, measured order. The step bound: what it promises holds for any rates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rdmf.fuse.integrate import activator_bound, euler, step_load
from rdmf.fuse.rates import Rates
from rdmf.fuse.reaction_diffusion import react_and_diffuse

PAPER = Rates(d_video=0.2, d_text=0.1, feed=0.04, kill=0.06)


def tensors(rates: Rates[float]) -> Rates[torch.Tensor]:
    return Rates(*(torch.tensor(rate, dtype=torch.float64) for rate in rates))


def test_exponential_decay_follows_its_closed_form() -> None:
    (x,) = euler(lambda state: (-0.3 * state[0],), (torch.ones((), dtype=torch.float64),), 0.1, 7)
    assert x.item() == pytest.approx((1 - 0.03) ** 7)


def test_the_error_falls_with_the_first_power_of_the_step() -> None:
    u, v = torch.rand(2, 1, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 6, dtype=torch.bool)

    def end(steps: int) -> torch.Tensor:
        return torch.stack(react_and_diffuse(u, v, mask, tensors(PAPER), 4.0 / steps, steps))

    fine = end(20_000)
    errors = [float((end(steps) - fine).abs().max()) for steps in (50, 100, 200)]
    orders = [math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])]
    assert orders == pytest.approx([1, 1], abs=0.05)


def rates_within(dt: float, share: float) -> st.SearchStrategy[Rates[float]]:
    rate = st.floats(0, share / dt)
    return st.builds(Rates, rate, rate, rate, rate)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dt=st.sampled_from([0.02, 0.1, 0.3]), steps=st.integers(1, 40), seed=st.integers(0, 999))
def test_concentrations_stay_in_their_bounds_while_the_step_load_is_at_most_one(
    data: st.DataObject, dt: float, steps: int, seed: int
) -> None:
    rates = data.draw(rates_within(dt, 0.1))
    assume(step_load(rates, dt, steps) <= 1)
    generator = torch.Generator().manual_seed(seed)
    # Raised to 0 or to a high power, uniform numbers crowd at the ends 0 and 1, where the bounds are tight.
    power = data.draw(st.sampled_from([0.02, 1.0, 50.0]))
    u, v = torch.rand(2, 3, 8, 5, dtype=torch.float64, generator=generator) ** power
    mask = torch.arange(8) < torch.tensor([[8], [3], [1]])
    for done in range(1, steps + 1):
        u, v = react_and_diffuse(u, v, mask, tensors(rates), dt, 1)
        assert u.min() >= 0
        assert v.min() >= 0
        assert v.max() <= 1 + 1e-12
        assert u.max() <= activator_bound(rates, dt, done) * (1 + 1e-12)


@pytest.mark.parametrize("steps", [1, 5, 1000])
def test_the_paper_rates_are_within_the_bound_at_any_horizon(steps: int) -> None:
    assert step_load(PAPER, 0.1, steps) < 1


def test_the_activator_bound_is_met_by_its_worst_case_and_levels_off_at_three() -> None:
    # One clip, full of video and text: the first step is the bound itself.
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    u, _ = react_and_diffuse(one, one, torch.ones(1, 1, dtype=torch.bool), tensors(PAPER), 0.1, 1)
    assert u.item() == pytest.approx(activator_bound(PAPER, 0.1, 1))
    assert activator_bound(PAPER, 0.1, 10_000) == pytest.approx(3)


@pytest.mark.parametrize("rates", [PAPER, Rates(d_video=0.02, d_text=0.2, feed=0.04, kill=0.05)])
@pytest.mark.parametrize("dt", [0.01, 0.02])
def test_video_and_text_together_at_the_bound_meet_it_and_go_no_further(rates: Rates[float], dt: float) -> None:
    bound = activator_bound(rates, dt, 100_000)
    assert step_load(rates, dt, 100_000) <= 1
    v = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64).view(1, 5, 1)
    u, v = react_and_diffuse(bound - v, v, torch.ones(1, 5, dtype=torch.bool), tensors(rates), dt, 1)
    assert (u + v).max().item() == pytest.approx(bound, rel=1e-12)


def test_beyond_the_bound_text_does_turn_negative() -> None:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    rates = PAPER._replace(d_video=0.01, d_text=0.01)
    assert step_load(rates, 0.6, 3) > 1
    _, v = react_and_diffuse(one, one, torch.ones(1, 1, dtype=torch.bool), tensors(rates), 0.6, 2)
    assert v.item() < 0
