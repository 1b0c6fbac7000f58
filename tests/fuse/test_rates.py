"""Rates stay positive, bounded, ordered and trainable, whatever an optimizer does to them."""

from __future__ import annotations

import math

import pytest
import torch

from rdmf.fuse.bounds import bounds, limits
from rdmf.fuse.rates import DIFFUSION_ORDERS, BoundedRate, Limits, Rates, check_rate, critical_ratio

PAPER = Rates(0.2, 0.1, 0.04, 0.06)
TURING = Rates(0.02, 0.2, 0.04, 0.05)
START = {"paper": PAPER, "free": PAPER, "turing": TURING}
HORIZONS = [(0.1, 5), (0.1, 20), (0.05, 100)]


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("order", DIFFUSION_ORDERS)
def test_rates_start_at_their_initial_values(order: str, horizon: tuple[float, int], channels: int | None) -> None:
    rates = DIFFUSION_ORDERS[order](START[order], limits("gray_scott", *horizon), channels)
    for rate, initial in zip(rates(), START[order], strict=True):
        assert rate.shape == (() if channels is None else (channels,))
        torch.testing.assert_close(rate, torch.full_like(rate, initial))


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("order", DIFFUSION_ORDERS)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_no_training_leads_out_of_what_is_proven(
    order: str, horizon: tuple[float, int], optimizer: type[torch.optim.Optimizer]
) -> None:
    rates = DIFFUSION_ORDERS[order](START[order], limits("gray_scott", *horizon), None)
    generator = torch.Generator().manual_seed(0)
    stepper = optimizer(rates.parameters(), lr=30.0)
    for _ in range(150):
        stepper.zero_grad()
        for parameter in rates.parameters():
            parameter.grad = torch.randn((), generator=generator) * 10
        stepper.step()
        now = Rates(*(rate.item() for rate in rates()))
        assert min(now) > 0
        assert bounds("gray_scott", now, *horizon).load <= 1 + 1e-5
        if order == "paper":
            assert now.d_video > now.d_text
        if order == "turing":
            assert pattern_grows(now)


def pattern_grows(rates: Rates[float]) -> bool:
    """The conditions as the theory has them, with slack for single precision where a state nearly merges."""
    du, dv, feed, kill = rates
    v = (1 - math.sqrt(max(0.0, 1 - 4 * (feed + kill) ** 2 / feed))) / 2
    u = (feed + kill) / v
    trace, det = feed + kill - u * u - feed, (feed + kill) * (u * u - feed)
    grows = dv * (feed + kill) - du * (u * u + feed)
    slack = 1e-3 * dv * (feed + kill)
    return trace < 1e-6 and det > -1e-6 and grows > -slack and grows**2 > 4 * du * dv * det - slack**2


def test_turing_rates_learn_in_double_precision_within_the_exact_conditions() -> None:
    rates = DIFFUSION_ORDERS["turing"](TURING, limits("gray_scott", 0.1, 20), None).double()
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        with torch.no_grad():
            for parameter in rates.parameters():
                parameter.copy_(torch.randn((), generator=generator, dtype=torch.float64) * 3)
        du, dv, feed, kill = (rate.item() for rate in rates())
        v = (1 - math.sqrt(1 - 4 * (feed + kill) ** 2 / feed)) / 2
        u = (feed + kill) / v
        det = (feed + kill) * (u * u - feed)
        assert feed > 4 * (feed + kill) ** 2
        assert u * u > max(feed, kill)  # the state is stable by itself
        grows = dv * (feed + kill) - du * (u * u + feed)
        assert grows > 0
        assert grows**2 > 4 * du * dv * det


def test_the_critical_ratio_is_where_one_wavelength_stops_decaying() -> None:
    feed, kill = 0.04, 0.05
    v = (1 - math.sqrt(1 - 4 * (feed + kill) ** 2 / feed)) / 2
    u = (feed + kill) / v
    jacobian = torch.tensor([[feed + kill, u * u], [-2 * (feed + kill), -(u * u + feed)]], dtype=torch.float64)
    du = 0.01

    def fastest(ratio: float) -> float:
        d = torch.diag(torch.tensor([du, du * ratio], dtype=torch.float64))
        waves = torch.linspace(0, 40, 4001, dtype=torch.float64).view(-1, 1, 1)
        return torch.linalg.eigvals(jacobian - waves * d)[1:].real.max().item()

    critical = critical_ratio(feed, kill)
    assert fastest(critical * 0.999) < 0 < fastest(critical * 1.001)


@pytest.mark.parametrize("shift", [-1e6, -1e3, -30.0, 0.0, 30.0, 1e3])
def test_a_gradient_always_leads_back(shift: float) -> None:
    rate = BoundedRate(0.2, 2.5)
    torch.nn.init.constant_(rate.shift, shift)
    rate().backward()
    assert 0 < rate().item() <= 2.5
    assert rate.shift.grad is not None
    assert 0 < rate.shift.grad.item() < float("inf")


@pytest.mark.parametrize("order", DIFFUSION_ORDERS)
def test_gradients_agree_with_finite_differences_on_a_long_horizon(order: str) -> None:
    rates = DIFFUSION_ORDERS[order](START[order], limits("gray_scott", 0.1, 20), 2).double()
    names = [name for name, _ in rates.named_parameters()]
    generator = torch.Generator().manual_seed(0)
    shifts = [torch.randn(2, dtype=torch.float64, generator=generator).requires_grad_() for _ in names]

    def forward(*shifts: torch.Tensor) -> torch.Tensor:
        return torch.stack(torch.func.functional_call(rates, dict(zip(names, shifts, strict=True)), ()))

    assert torch.autograd.gradcheck(forward, shifts)


@pytest.mark.parametrize(
    ("value", "advice"),
    [(0.0, "raise it"), (-0.1, "raise it"), (0.7, "lower it, or take dt below 0.08929"), (float("inf"), "lower it$")],
)
def test_a_value_outside_its_limit_is_refused_by_name(value: float, advice: str) -> None:
    with pytest.raises(ValueError, match=rf"expected feed between 0 and 0\.625, .*dt = 0\.1 .*{advice}"):
        check_rate("feed", value, 0.625, 0.1)


@pytest.mark.parametrize(
    ("order", "change", "sentence"),
    [
        ("paper", {"d_text": 0.2}, "expected d_text below 0.999 d_video .* 'free'"),
        ("turing", {"first": 0.02, "second": 0.06}, r"expected feed > 4 \(feed \+ kill\)\^2"),
        ("turing", {"d_video": 0.1}, "expected d_text above 5.4.* d_video"),
        ("turing", {"first": 0.005, "second": 0.03}, "expected a stable steady state"),
    ],
)
def test_a_start_that_its_order_forbids_is_refused(order: str, change: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DIFFUSION_ORDERS[order](START[order]._replace(**change), limits("gray_scott", 0.1, 5), None)


def test_diffusion_rates_too_far_apart_for_the_horizon_are_refused() -> None:
    proven = limits("gray_scott", 0.1, 400)
    assert proven.room is not None
    with pytest.raises(ValueError, match=r"less than 0\.1.* apart, .* bring them together, or take smaller or fewer"):
        DIFFUSION_ORDERS["free"](PAPER._replace(d_video=0.3), proven, None)


def test_without_a_limit_on_the_difference_nothing_is_slowed() -> None:
    rates = DIFFUSION_ORDERS["free"](PAPER, Limits(Rates(1.0, 1.0, 1.0, 1.0), None), None)
    assert torch.equal(torch.stack(rates()), torch.stack(rates.raw()))
