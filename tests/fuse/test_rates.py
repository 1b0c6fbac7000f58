"""Rates stay positive, bounded, ordered and trainable, whatever an optimizer does to them."""

from __future__ import annotations

import pytest
import torch

from rdmf.fuse.rates import DIFFUSION_ORDERS, BoundedRate, FreeRates, Rates, check_rate

PAPER = Rates(d_video=0.2, d_text=0.1, feed=0.04, kill=0.06)


@pytest.mark.parametrize("order", DIFFUSION_ORDERS)
def test_rates_start_at_their_initial_values(order: str) -> None:
    torch.testing.assert_close(torch.stack(DIFFUSION_ORDERS[order](PAPER, 0.1)()), torch.tensor(PAPER))


@pytest.mark.parametrize("order", DIFFUSION_ORDERS)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_large_random_steps_never_leave_the_bounds(order: str, optimizer: type[torch.optim.Optimizer]) -> None:
    rates = DIFFUSION_ORDERS[order](PAPER, 0.1)
    generator = torch.Generator().manual_seed(0)
    stepper = optimizer(rates.parameters(), lr=30.0)
    for _ in range(500):
        stepper.zero_grad()
        for parameter in rates.parameters():
            parameter.grad = torch.randn((), generator=generator) * 10
        stepper.step()
        now = torch.stack(rates())
        assert (now > 0).all()
        assert (now <= 1 / 1.6).all()
        if order == "paper":
            assert now[0] > now[1]


@pytest.mark.parametrize("shift", [-1e6, -1e3, -30.0, 0.0, 30.0, 1e3])
def test_a_gradient_always_leads_back(shift: float) -> None:
    rate = BoundedRate(0.2, 2.5)
    torch.nn.init.constant_(rate.shift, shift)
    rate().backward()
    assert 0 < rate().item() <= 2.5
    assert rate.shift.grad is not None
    assert 0 < rate.shift.grad.item() < float("inf")


def test_gradients_agree_with_finite_differences() -> None:
    rate = BoundedRate(0.2, 2.5, (3,)).double()
    shift = torch.tensor([-5.0, 0.1, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: torch.func.functional_call(rate, {"shift": s}, ()), (shift,))


@pytest.mark.parametrize(
    ("value", "advice"),
    [(0.0, "raise it"), (-0.1, "raise it"), (0.7, "lower it, or take dt below 0.08929"), (float("inf"), "lower it$")],
)
def test_a_value_outside_the_bound_is_refused_by_name(value: float, advice: str) -> None:
    with pytest.raises(ValueError, match=rf"expected feed between 0 and 0\.625, .*dt = 0\.1 .*{advice}"):
        FreeRates(PAPER._replace(feed=value), 0.1)


def test_a_rate_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="got nan"):
        FreeRates(PAPER._replace(kill=float("nan")), 0.1)


def test_the_advised_step_is_accepted() -> None:
    with pytest.raises(ValueError, match=r"take dt below 0\.05"):
        check_rate("d", 1.25, 1 / 16, 0.1)
    assert check_rate("d", 1.25, 1 / 16, 0.0499) > 1.25


@pytest.mark.parametrize("dt", [0.0, -0.1, float("nan"), float("inf")])
def test_a_step_that_is_no_step_is_refused(dt: float) -> None:
    with pytest.raises(ValueError, match="expected a time step dt > 0"):
        check_rate("d", 0.1, 1 / 16, dt)


def test_the_paper_order_refuses_text_that_diffuses_faster_and_free_takes_it() -> None:
    turing = PAPER._replace(d_video=0.02, d_text=0.2)
    with pytest.raises(ValueError, match="'free'"):
        DIFFUSION_ORDERS["paper"](turing, 0.1)
    assert DIFFUSION_ORDERS["free"](turing, 0.1)().d_text.item() == pytest.approx(0.2)
