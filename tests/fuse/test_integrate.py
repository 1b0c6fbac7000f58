"""The integrators: closed forms, and their orders of convergence as measured."""

from __future__ import annotations

import math

import pytest
import torch

from rdmf.fuse.integrate import INTEGRATORS, integrate
from rdmf.fuse.kinetics import KINETICS
from rdmf.fuse.rates import Rates
from rdmf.fuse.reaction_diffusion import react_and_diffuse

ORDER = {"euler": 1, "ssprk3": 3, "imex": 1}


class Decay:
    """dx/dt = -0.2 x (diffusion) - 0.1 x (reaction), for plain numbers."""

    dt = 0.1

    def explicit(self, state: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(x * (1 - 0.3 * self.dt) for x in state)

    def reaction(self, state: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(x * (1 - 0.1 * self.dt) for x in state)

    def diffusion(self, state: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(x / (1 + 0.2 * self.dt) for x in state)


def test_exponential_decay_follows_the_closed_form_of_each_scheme() -> None:
    z = 0.03
    factor = {"euler": 1 - z, "ssprk3": 1 - z + z**2 / 2 - z**3 / 6, "imex": 0.99 / 1.02}
    for name in INTEGRATORS:
        (x,) = integrate(name, Decay(), (1.0,), 7)
        assert x == pytest.approx(factor[name] ** 7, rel=1e-14)


@pytest.mark.parametrize("kinetics", KINETICS)
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_error_falls_with_the_power_of_the_step_that_is_stated(kinetics: str, integrator: str) -> None:
    u, v = torch.rand(2, 1, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 6, dtype=torch.bool)
    rates = Rates(*(torch.tensor(r, dtype=torch.float64) for r in (0.2, 0.1, *KINETICS[kinetics].initial)))

    def end(steps: int, scheme: str) -> torch.Tensor:
        return torch.stack(react_and_diffuse(u, v, mask, rates, 2.0 / steps, steps, kinetics, scheme))

    exact = end(400, "ssprk3")  # its own error is (80 / 400)^3 of the least below
    errors = [float((end(steps, integrator) - exact).abs().max()) for steps in (20, 40, 80)]
    orders = [math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])]
    assert orders == pytest.approx([ORDER[integrator]] * 2, abs=0.15)


def test_implicit_diffusion_takes_steps_that_explicit_diffusion_cannot() -> None:
    u, v = torch.rand(2, 1, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 20, dtype=torch.bool)
    rates = Rates(*(torch.tensor(r, dtype=torch.float64) for r in (30.0, 30.0, 0.04, 0.06)))
    explicit, _ = react_and_diffuse(u, v, mask, rates, 0.1, 30)
    implicit, _ = react_and_diffuse(u, v, mask, rates, 0.1, 30, integrator="imex")
    assert not explicit.isfinite().all() or explicit.abs().max() > 1e6
    assert 0 <= implicit.min() <= implicit.max() < 2
    assert implicit.std(1).max() < u.std(1).min() / 2
