"""Gray-Scott: conservation, and the steady states of equations (9) to (11)."""

from __future__ import annotations

import math

import pytest
import torch

from rdmf.fuse.kinetics import gray_scott
from rdmf.fuse.rates import Rates


def scalars(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@pytest.mark.parametrize(("feed", "kill"), [(0.04, 0.05), (0.04, 0.06), (0.03, 0.055), (0.1, 0.05)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_interior_steady_states_do_not_move(feed: float, kill: float, sign: int) -> None:
    # At 0.04, 0.06 the root is 0 up to rounding: the saddle-node.
    root = math.sqrt(max(0.0, 1 - 4 * (feed + kill) ** 2 / feed))
    v_steady = (1 + sign * root) / 2
    u, v = scalars((feed + kill) / v_steady, v_steady)
    f, g = gray_scott(u, v, Rates(*scalars(0.2, 0.1, feed, kill)))
    assert f.item() == pytest.approx(0, abs=1e-15)
    assert g.item() == pytest.approx(0, abs=1e-15)


def test_no_video_and_full_text_do_not_move() -> None:
    f, g = gray_scott(*scalars(0.0, 1.0), Rates(*scalars(0.2, 0.1, 0.04, 0.06)))
    assert f.item() == 0
    assert g.item() == 0


def test_the_reaction_moves_text_into_video_and_loses_none() -> None:
    u, v = torch.rand(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f, g = gray_scott(u, v, Rates(*scalars(0.2, 0.1, 0.0, 0.0)))
    assert torch.equal(f, -g)
    assert (f > 0).all()


def test_the_paper_jacobian_is_not_stable() -> None:
    rates = Rates(*scalars(0.2, 0.1, 0.04, 0.06))
    rows = torch.func.jacrev(lambda u, v: torch.stack(gray_scott(u, v, rates)), argnums=(0, 1))
    jacobian = torch.stack(rows(*scalars(0.2, 0.5)), dim=1)
    torch.testing.assert_close(jacobian, torch.tensor([[0.1, 0.04], [-0.2, -0.08]], dtype=torch.float64))
