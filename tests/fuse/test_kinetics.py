"""The reactions: conservation, steady states of equations (9) to (11), roles, Jacobians."""

from __future__ import annotations

import math

import pytest
import torch

from rdmf.fuse.kinetics import KINETICS, fitzhugh_nagumo, gray_scott, gray_scott_substrate, schnakenberg


def scalars(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@pytest.mark.parametrize(("feed", "kill"), [(0.04, 0.05), (0.04, 0.06), (0.03, 0.055), (0.1, 0.05)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_interior_steady_states_do_not_move(feed: float, kill: float, sign: int) -> None:
    # At 0.04, 0.06 the root is 0 up to rounding: the saddle-node.
    root = math.sqrt(max(0.0, 1 - 4 * (feed + kill) ** 2 / feed))
    v_steady = (1 + sign * root) / 2
    f, g = gray_scott(*scalars((feed + kill) / v_steady, v_steady, feed, kill))
    assert f.item() == pytest.approx(0, abs=1e-15)
    assert g.item() == pytest.approx(0, abs=1e-15)


def test_no_video_and_full_text_do_not_move() -> None:
    f, g = gray_scott(*scalars(0.0, 1.0, 0.04, 0.06))
    assert f.item() == 0
    assert g.item() == 0


def test_the_state_of_schnakenberg_does_not_move() -> None:
    f, g = schnakenberg(*scalars(1.0, 0.9, 0.1, 0.9))
    assert f.item() == pytest.approx(0, abs=1e-15)
    assert g.item() == pytest.approx(0, abs=1e-15)


def test_fitzhugh_nagumo_rests_at_zero_and_is_excited_above_its_threshold() -> None:
    f, g = fitzhugh_nagumo(*scalars(0.0, 0.0, 0.05, 1.0))
    assert (f.item(), g.item()) == (0, 0)
    below, above = (fitzhugh_nagumo(*scalars(u, 0.0, 0.05, 1.0))[0].item() for u in (0.05, 0.2))
    assert below < 0 < above


def test_the_substrate_form_is_gray_scott_with_the_roles_exchanged() -> None:
    u, v = torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rates = scalars(0.04, 0.06)
    f, g = gray_scott(v, u, *rates)
    assert torch.equal(torch.stack(gray_scott_substrate(u, v, *rates)), torch.stack((g, f)))


@pytest.mark.parametrize("kinetics", ["gray_scott", "gray_scott_substrate", "schnakenberg"])
def test_the_reaction_moves_one_species_into_the_other_and_loses_none(kinetics: str) -> None:
    u, v = torch.rand(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f, g = KINETICS[kinetics].react(u, v, *scalars(0.0, 0.0))
    decay = -u if kinetics == "schnakenberg" else 0 * u  # its decay has no rate that could be 0
    torch.testing.assert_close(f - decay, -g, rtol=0, atol=1e-15)
    assert (g.abs() > 0).all()


def test_the_paper_jacobian_is_not_stable() -> None:
    rates = scalars(0.04, 0.06)
    rows = torch.func.jacrev(lambda u, v: torch.stack(gray_scott(u, v, *rates)), argnums=(0, 1))
    jacobian = torch.stack(rows(*scalars(0.2, 0.5)), dim=1)
    torch.testing.assert_close(jacobian, torch.tensor([[0.1, 0.04], [-0.2, -0.08]], dtype=torch.float64))
