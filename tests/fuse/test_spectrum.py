"""Functions of the Laplacian: closed forms, both transforms, ragged batches."""

from __future__ import annotations

import pytest
import torch

from rdmf.fuse import spectrum
from rdmf.fuse.laplacian import laplacian
from rdmf.fuse.spectrum import CosineModes

LENGTHS = [1, 2, 0, 6, 9, 9, 17]


def ragged(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(len(LENGTHS), max(LENGTHS), 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)


@pytest.fixture(params=["dense", "fourier"])
def transform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(spectrum, "DENSE", 512 if request.param == "dense" else 0)
    return request.param


@pytest.mark.usefixtures("transform")
def test_the_identity_and_the_laplacian_itself_come_out() -> None:
    x, mask = ragged()
    modes = CosineModes(mask, x.dtype)
    torch.testing.assert_close(modes.apply(x, torch.ones_like)[mask], x[mask])
    torch.testing.assert_close(modes.apply(x, lambda eigenvalues: -eigenvalues)[mask], laplacian(x, mask)[mask])


@pytest.mark.usefixtures("transform")
def test_the_implicit_step_is_the_inverse_of_its_operator() -> None:
    x, mask = ragged()
    solved = CosineModes(mask, x.dtype).apply(x, lambda eigenvalues: 1 / (1 + 3.0 * eigenvalues))
    torch.testing.assert_close((solved - 3.0 * laplacian(solved, mask))[mask], x[mask])


@pytest.mark.usefixtures("transform")
def test_padding_is_zero_whatever_it_held_and_reaches_nothing() -> None:
    x, mask = ragged()
    clean = CosineModes(mask, x.dtype).apply(x, lambda eigenvalues: (-eigenvalues).exp())
    dirty = CosineModes(mask, x.dtype).apply(x.masked_fill(~mask.unsqueeze(-1), torch.nan), lambda e: (-e).exp())
    assert torch.equal(dirty, clean)
    assert not dirty[~mask].any()


@pytest.mark.usefixtures("transform")
def test_gradients_of_input_and_of_a_rate_per_channel_agree_with_finite_differences() -> None:
    x, mask = ragged()
    d = torch.tensor([0.1, 0.7, 2.0], dtype=torch.float64, requires_grad=True)

    def diffuse(x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return CosineModes(mask, x.dtype).apply(x, lambda eigenvalues: 1 / (1 + d * eigenvalues))

    assert torch.autograd.gradcheck(diffuse, (x.requires_grad_(), d))


def test_long_sequences_take_the_fast_transform_and_stay_exact_in_single_precision() -> None:
    clips = spectrum.DENSE + 200
    x = torch.rand(2, clips, 2, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(clips) < torch.tensor([[clips], [spectrum.DENSE + 1]])
    modes = CosineModes(mask, x.dtype)
    assert not modes.dense
    exact = CosineModes(mask, torch.float64).apply(x.double(), lambda eigenvalues: (1 - eigenvalues / 8) ** 50)
    assert (modes.apply(x, lambda eigenvalues: (1 - eigenvalues / 8) ** 50) - exact).abs().max() < 1e-6
