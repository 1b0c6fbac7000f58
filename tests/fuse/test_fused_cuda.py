"""The GPU's kernels: their logic on the CPU by Triton's interpreter (see tests/conftest.py), and that they compile.

On a machine with a GPU the same comparisons run there.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from rdmf.fuse import fused_cpu
from rdmf.fuse.fused import NUMBERS
from rdmf.fuse.kinetics import KINETICS
from rdmf.fuse.rates import Rates
from rdmf.fuse.reaction_diffusion import react_and_diffuse

pytest.importorskip("triton", reason="triton is not installed")
from rdmf.fuse import fused_cuda  # imports triton, so after it was looked for

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [  # sequences' lengths, channels, steps, whether the sentence is repeated
    ([1, 0], 1, 1, False),
    ([2, 1], 5, 3, True),
    ([9, 4], 40, 5, True),
    ([31, 33], 16, 2, False),
]
SEVERAL = ([50, 12], 33, 7, True)  # chunks, blocks of channels and segments


def compare(lengths: list[int], channels: int, steps: int, repeated: bool, kinetics: str, dtype: torch.dtype) -> None:
    """Outputs and gradients against the loop in double precision, from the same rounded inputs."""
    generator = torch.Generator().manual_seed(0)
    shape, mask = (len(lengths), max(lengths), channels), torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    u = torch.rand(shape, generator=generator).to(dtype)
    v = torch.rand(shape[0], 1 if repeated else shape[1], channels, generator=generator).to(dtype)
    rates = torch.tensor([0.2, 0.1, *KINETICS[kinetics].initial]).unsqueeze(1) * (
        0.5 + torch.rand(4, channels, generator=generator)
    )
    grads = torch.randn(2, *shape, generator=generator).to(dtype)

    exact = [x.double().requires_grad_() for x in (u, v, *rates)]
    made = react_and_diffuse(exact[0], exact[1], mask, Rates(*exact[2:]), 0.05, steps, kinetics)
    back = torch.autograd.grad(sum((x * g.double()).sum() for x, g in zip(made, grads, strict=True)), exact)
    expected = [*made, back[0], back[1], torch.stack(back[2:])]

    start = [x.to(DEVICE) for x in (u, v, torch.tensor(lengths), rates)]
    ours = [
        *fused_cuda.forward(*start, 0.05, steps, NUMBERS[kinetics], True),
        *fused_cuda.backward(*start, 0.05, steps, NUMBERS[kinetics], *grads.to(DEVICE)),
    ]
    rounding = {torch.float32: 3e-6, torch.bfloat16: 8e-3}[dtype]  # bfloat16 keeps 8 bits of what is stored
    for one, other in zip(ours, expected, strict=True):
        assert one.shape == other.shape
        assert (one.cpu().double() - other).abs().max() <= rounding * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kinetics", KINETICS)
def test_values_and_gradients_are_those_of_the_loop(shape: tuple, kinetics: str) -> None:
    compare(*shape, kinetics, torch.float32)


def test_several_chunks_blocks_and_segments_fit_without_a_seam() -> None:
    compare(*SEVERAL, "gray_scott", torch.float32)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_half_precision_is_computed_in_single(shape: tuple) -> None:
    compare(*shape, "gray_scott", torch.bfloat16)


@pytest.mark.parametrize("steps", [7, 8])
def test_many_steps_are_several_passes_whose_states_are_made_again(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_cuda, "SEGMENT", 2)
    monkeypatch.setattr(fused_cuda, "KEPT", 3)
    compare([6, 3], 8, steps, True, "gray_scott", torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clips", "steps", "back"), [(200, 2, True), (10_000, 1, True) if DEVICE == "cuda" else (2_500, 1, False)]
)
def test_long_sequences_are_those_of_the_cpu(clips: int, steps: int, back: bool) -> None:
    # The interpreter takes a minute for 10,000 clips, and minutes for their gradient; a GPU does both
    generator = torch.Generator().manual_seed(0)
    u, v = torch.rand(1, clips, 32, generator=generator), torch.rand(1, 1, 32, generator=generator)
    rates = torch.tensor([0.2, 0.1, 0.04, 0.06]).unsqueeze(1).repeat(1, 32)
    grad = torch.randn(u.shape, generator=generator)
    start = u, v, torch.tensor([clips - 3]), rates
    ours = [x.to(DEVICE) for x in start]
    made, none = fused_cuda.forward(*ours, 0.1, steps, 0, False)
    assert none is None
    found, expected = [made], [fused_cpu.forward(*start, 0.1, steps, 0, False)[0]]
    if back:
        found += fused_cuda.backward(*ours, 0.1, steps, 0, grad.to(DEVICE), None)
        expected += fused_cpu.backward(*start, 0.1, steps, 0, grad, None)
    for one, other in zip(found, expected, strict=True):
        assert (one.cpu() - other).abs().max() <= 1e-5 * max(1.0, other.abs().max().item())


def test_segments_are_even_and_add_up() -> None:
    for steps in range(1, 60):
        parts = fused_cuda._segments(steps)
        assert sum(parts) == steps
        assert max(parts) <= fused_cuda.SEGMENT
        assert max(parts) - min(parts) <= 1


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rdmf.fuse import fused_cuda_kernels as kernels
from rdmf.fuse.fused_cuda import BLOCK, SEGMENT
CONSTANTS = {"S": SEGMENT, "KINETICS": 0, "TEXT": False, "BLOCK": BLOCK}
KINDS = {"lengths": "*i64", "dt": "fp32", "repeated": "i1", "T": "i32", "D": "i32", "chunk": "i32"}
for kernel in (kernels.forward_kernel, kernels.backward_kernel):
    kinds = {name: "constexpr" if name in CONSTANTS else KINDS.get(name, "*fp32") for name in kernel.arg_names}
    made = triton.compile(ASTSource(kernel, kinds, CONSTANTS), target=GPUTarget("cuda", 90, 32))
    ptx = made.asm["ptx"]
    print(ptx.count(".local"), ".target sm_90" in ptx, len(made.asm["cubin"]) > 0)
"""


def test_both_kernels_compile_for_an_h100_and_keep_all_rows_in_registers() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["0 True True"] * 2
