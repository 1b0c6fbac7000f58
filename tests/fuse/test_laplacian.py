"""The Laplacian: its closed forms, its zero-flux ends, and that padding takes no part."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.fuse.laplacian import laplacian


def prefix_mask(lengths: list[int], longest: int) -> torch.Tensor:
    return torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)


def test_is_the_second_difference_with_mirrored_ends() -> None:
    x = torch.tensor([1.0, 4.0, 9.0, 25.0]).view(1, 4, 1)
    mirrored = torch.tensor([1.0, 1.0, 4.0, 9.0, 25.0, 25.0])
    expected = mirrored[2:] - 2 * mirrored[1:-1] + mirrored[:-2]
    assert torch.equal(laplacian(x, torch.ones(1, 4, dtype=torch.bool)).flatten(), expected)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_cosines_are_its_eigenvectors(length: int) -> None:
    mode = torch.arange(length, dtype=torch.float64)
    x = torch.cos(torch.pi * mode * (mode.unsqueeze(1) + 0.5) / length).unsqueeze(0)  # [1, T, J]
    eigenvalues = -(2 - 2 * torch.cos(torch.pi * mode / length))
    torch.testing.assert_close(laplacian(x, torch.ones(1, length, dtype=torch.bool)), eigenvalues * x)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4), seed=st.integers(0, 999))
def test_keeps_the_sum_over_valid_clips_and_leaves_padding_alone(lengths: list[int], seed: int) -> None:
    x = torch.randn(len(lengths), 9, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = prefix_mask(lengths, 9)
    lap = laplacian(x, mask)
    torch.testing.assert_close(lap.sum(1), torch.zeros_like(lap.sum(1)))
    assert not lap[~mask].any()


def test_a_gap_splits_a_row_into_sequences_of_their_own() -> None:
    x = torch.randn(1, 7, 2, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False, True, True, False]])
    lap = laplacian(x, mask)
    whole = torch.ones(1, 7, dtype=torch.bool)
    assert torch.equal(lap[:, :3], laplacian(x[:, :3], whole[:, :3]))
    assert torch.equal(lap[:, 4:6], laplacian(x[:, 4:6], whole[:, 4:6]))


@pytest.mark.parametrize("garbage", [0.0, 1e30, float("inf"), float("nan")])
def test_padding_changes_neither_result_nor_gradient(garbage: float) -> None:
    short = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    alone = laplacian(short, torch.ones(1, 5, dtype=torch.bool))
    weight = torch.arange(15.0).view(1, 5, 3)
    (expected,) = torch.autograd.grad((alone * weight).sum(), short)
    padded = torch.cat([short, torch.full((1, 4, 3), garbage)], 1).detach().requires_grad_()
    lap = laplacian(padded, prefix_mask([5], 9))
    (gradient,) = torch.autograd.grad((lap[:, :5] * weight).sum(), padded)
    assert torch.equal(lap[:, :5], alone)
    assert torch.equal(gradient[:, :5], expected)
    assert not gradient[:, 5:].any()


def test_gradients_agree_with_finite_differences_to_second_order() -> None:
    x = torch.randn(2, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = prefix_mask([4, 2], 4)
    assert torch.autograd.gradcheck(lambda x: laplacian(x, mask), (x,))
    assert torch.autograd.gradgradcheck(lambda x: laplacian(x, mask) ** 2, (x,))
