"""Temporal diffusion: exact decay of cosine modes, invariants of the heat equation, solvers that agree."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.fuse.temporal_diffusion import SOLVERS, TemporalDiffusion, diffuse_spectrum, diffuse_steps

LENGTHS = [1, 2, 6, 9]


def ragged(seed: int = 0, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(LENGTHS), max(LENGTHS), channels, dtype=torch.float64, generator=generator)
    return x, torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)


def d_of(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("length", [1, 2, 5, 75])
def test_cosine_modes_decay_by_their_closed_form(solver: str, length: int) -> None:
    mode = torch.arange(length, dtype=torch.float64)
    x = torch.cos(torch.pi * mode * (mode.unsqueeze(1) + 0.5) / length).unsqueeze(0)  # [1, T, J]
    mask = torch.ones(1, length, dtype=torch.bool)
    factor = (1 - 0.1 * 0.2 * (2 - 2 * torch.cos(torch.pi * mode / length))) ** 10
    torch.testing.assert_close(SOLVERS[solver](x, mask, d_of(0.2), 0.1, 10), factor * x, rtol=0, atol=1e-13)


@settings(max_examples=25, deadline=None)
@given(d=st.floats(0.001, 2.5), steps=st.integers(1, 50), seed=st.integers(0, 999))
def test_both_solvers_agree_on_ragged_batches(d: float, steps: int, seed: int) -> None:
    x, mask = ragged(seed)
    looped, closed = (SOLVERS[name](x, mask, d_of(d), 0.1, steps) for name in ("steps", "spectrum"))
    torch.testing.assert_close(looped, closed, rtol=0, atol=1e-12)


def test_both_solvers_give_the_same_gradients() -> None:
    x, mask = ragged()
    gradients = []
    for solver in SOLVERS.values():
        inputs = (
            x.clone().requires_grad_(),
            torch.tensor([0.1, 0.7, 2.5], dtype=torch.float64, requires_grad=True),
        )
        (solver(inputs[0], mask, inputs[1], 0.1, 10) ** 2).sum().backward()
        gradients.append([i.grad for i in inputs])
    torch.testing.assert_close(gradients[0], gradients[1])


@settings(max_examples=25, deadline=None)
@given(d=st.floats(0.001, 2.5), steps=st.integers(1, 50), seed=st.integers(0, 999))
def test_the_sum_is_kept_and_no_new_extreme_appears(d: float, steps: int, seed: int) -> None:
    x, mask = ragged(seed)
    y = diffuse_steps(x, mask, d_of(d), 0.1, steps)
    for before, after, length in zip(x, y, LENGTHS, strict=True):
        before, after = before[:length], after[:length]
        torch.testing.assert_close(after.sum(0), before.sum(0))
        assert (after.amax(0) <= before.amax(0) + 1e-12).all()
        assert (after.amin(0) >= before.amin(0) - 1e-12).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_constants_stay_and_long_diffusion_ends_at_the_mean(solver: str) -> None:
    x, mask = ragged()
    constant = torch.full_like(x, 0.7)
    torch.testing.assert_close(SOLVERS[solver](constant, mask, d_of(0.2), 0.1, 10)[mask], constant[mask])
    flat = SOLVERS[solver](x, mask, d_of(2.5), 0.1, 3000)
    mean = torch.stack([row[:n].mean(0) for row, n in zip(x, LENGTHS, strict=True)])
    torch.testing.assert_close(flat[mask], mean.unsqueeze(1).expand_as(x)[mask])


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("channels", [1, 3, 16, 37])
def test_padding_of_any_length_and_content_changes_no_bit_of_the_steps(garbage: float, channels: int) -> None:
    x = torch.randn(1, 6, channels, generator=torch.Generator().manual_seed(0))
    diffuse = TemporalDiffusion(solver="steps")
    alone = diffuse(x, torch.ones(1, 6, dtype=torch.bool))
    for pad in (1, 5, 30):
        padded = torch.cat([x, torch.full((1, pad, channels), garbage)], 1).repeat(2, 1, 1)
        out = diffuse(padded, (torch.arange(6 + pad) < 6).repeat(2, 1))
        assert torch.equal(out[:, :6], alone.expand(2, -1, -1))
        assert not out[:, 6:].any()


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("channels", [1, 3, 16, 37])
def test_what_padding_holds_changes_no_bit_and_its_length_the_rounding_alone(garbage: float, channels: int) -> None:
    """A product with a longer matrix may add its zeros in another order, which is the processor's choice."""
    x = torch.randn(1, 6, channels, generator=torch.Generator().manual_seed(0))
    diffuse = TemporalDiffusion()
    alone = diffuse(x, torch.ones(1, 6, dtype=torch.bool))
    for pad in (1, 5, 30):
        mask = (torch.arange(6 + pad) < 6).repeat(2, 1)
        clean, dirty = (
            diffuse(torch.cat([x, torch.full((1, pad, channels), held)], 1).repeat(2, 1, 1), mask)
            for held in (0.0, garbage)
        )
        assert torch.equal(clean, dirty)
        assert not dirty[:, 6:].any()
        torch.testing.assert_close(dirty[:, :6], alone.expand(2, -1, -1), rtol=0, atol=1e-6)


def test_padding_reaches_the_spectral_solver_by_rounding_alone() -> None:
    x = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    d = torch.tensor(0.2)
    alone = diffuse_spectrum(x, torch.ones(1, 6, dtype=torch.bool), d, 0.1, 10)
    padded = torch.cat([x, torch.full((1, 9, 3), float("nan"))], 1)
    out = diffuse_spectrum(padded, torch.arange(15).unsqueeze(0) < 6, d, 0.1, 10)
    torch.testing.assert_close(out[:, :6], alone, rtol=0, atol=1e-6)
    assert not out[:, 6:].any()


def test_no_steps_return_the_input_itself_and_hold_no_parameter() -> None:
    x, mask = ragged()
    without = TemporalDiffusion(steps=0)
    assert without(x, mask) is x
    assert not list(without.parameters())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("channels", [None, 3])
def test_gradients_agree_with_finite_differences(solver: str, channels: int | None) -> None:
    x, mask = ragged()
    module = TemporalDiffusion(steps=3, channels=channels, solver=solver).double()
    shift = torch.full_like(module.d.shift, 0.3).requires_grad_()

    def diffuse(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"d.shift": shift}, (x, mask))

    assert torch.autograd.gradcheck(diffuse, (x.requires_grad_(), shift))


def test_d_starts_where_asked_and_never_leaves_the_bound() -> None:
    module = TemporalDiffusion(channels=4)
    torch.testing.assert_close(module.d(), torch.full((4,), 0.2))
    stepper = torch.optim.AdamW(module.parameters(), lr=50.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        module.d.shift.grad = torch.randn(4, generator=generator)
        stepper.step()
        assert (module.d() > 0).all()
        assert (0.1 * 4 * module.d() <= 1).all()


def test_half_precision_input_is_diffused_in_single() -> None:
    x = torch.rand(2, 50, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 50, dtype=torch.bool)
    for solver in SOLVERS:
        module = TemporalDiffusion(steps=200, d=2.0, solver=solver)
        half = x.bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = module(half, mask)
        assert out.dtype == torch.bfloat16
        assert torch.equal(out, module(half.float(), mask).bfloat16())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"d": 3.0}, "take dt below"), ({"steps": -1}, "steps >= 0"), ({"solver": "fft"}, "fastest, spectrum, steps")],
)
def test_bad_settings_are_refused_in_a_sentence(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TemporalDiffusion(**change)
