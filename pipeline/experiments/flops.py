"""How many floating point operations a model takes: one for each addition and each multiplication.

What is counted: matrix products and attention, as torch's FlopCounterMode counts them (the transforms of temporal
diffusion are such products, up to 512 clips), and the reaction's arithmetic, which is elementwise and which it does not
know: M steps, on both species, of every number of a clip. What is not, as is usual: norms, activations, softmax,
dropout, masks; and temporal diffusion beyond 512 clips, where it is steps or Fourier transforms.

Arithmetic of the reaction is counted by letting fuse/kinetics.py and integrate.py run on numbers that count.

Dimensions: B sequences, T clips, D channels.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ...fuse.integrate import integrate
from ...fuse.kinetics import KINETICS
from ...fuse.reaction_diffusion import ReactionDiffusionFusion
from ..loading.dataset import Batch
from ..model import RDMF


def forward_flops(model: RDMF, batch: Batch) -> int:
    """Of answering the queries of a batch. Leaves the model in evaluation mode."""
    model.eval()
    ops = torch.ops.rdmf
    counter = FlopCounterMode(display=False, custom_mapping={ops.euler_steps: _euler_steps})
    # Only what is differentiable, and only plain attention, is taken apart into the products that are counted
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(batch.clips, batch.clip_mask, batch.positions, batch.words, batch.word_mask)
    total, fusion = counter.get_total_flops(), model.fusion
    if isinstance(fusion, ReactionDiffusionFusion) and ops.euler_steps not in counter.get_flop_counts()["Global"]:
        numbers = batch.clip_mask.numel() * fusion.to_video.out_features  # its steps were taken one by one
        total += numbers * reaction_flops(fusion.kinetics, fusion.integrator, fusion.steps)
    return total


@functools.cache
def reaction_flops(kinetics: str, integrator: str = "euler", steps: int = 1) -> int:
    """Of `steps` steps, for one channel of one clip."""
    count = [0]
    species = _Number(count), _Number(count)
    integrate(integrator, _CountingStepper(kinetics), species, steps)
    return count[0]


class _Number:
    """A number that counts what is done to it."""

    def __init__(self, count: list[int]) -> None:
        self._count = count

    def _counted(self, other: object) -> _Number:
        self._count[0] += 1
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _counted


_State = tuple[_Number, _Number]


class _CountingStepper(NamedTuple):
    """The parts of a step (fuse/integrate.py) as SpeciesStepper takes them; rates are no numbers of the data."""

    kinetics: str

    def explicit(self, state: Any) -> Any:
        return tuple(x + 1.0 * (1.0 * _laplacian(x) + r) for x, r in zip(state, self._react(state), strict=True))

    def reaction(self, state: Any) -> Any:
        return tuple(x + 1.0 * r for x, r in zip(state, self._react(state), strict=True))

    def diffusion(self, state: Any) -> Any:
        return tuple(1.0 * x for x in state)  # in cosine modes; the transforms are matrix products

    def _react(self, state: _State) -> _State:
        u, v = state
        return KINETICS[self.kinetics].react(u, v, 1.0, 1.0)  # type: ignore[arg-type, return-value]


def _laplacian(x: _Number) -> _Number:
    return x - 2.0 * x + x


# FlopCounterMode gives shapes in place of tensors
def _euler_steps(
    u: torch.Size, v: Any, rates: Any, lengths: Any, dt: float, steps: int, kinetics: int, *_: Any, **__: Any
) -> int:
    return u.numel() * reaction_flops(list(KINETICS)[kinetics], "euler", steps)
