"""All steps in one pass: the loop is the reference, for values and gradients, for every shape and kinetics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.fuse import fused_cpu
from rdmf.fuse.fused import can_fuse, fused_euler, trouble
from rdmf.fuse.kinetics import KINETICS
from rdmf.fuse.rates import Rates
from rdmf.fuse.reaction_diffusion import ReactionDiffusionFusion, react_and_diffuse

pytestmark = pytest.mark.skipif(bool(fused_cpu.why_not()), reason=f"no fused pass here: {fused_cpu.why_not()}")

RATES = {name: (0.2, 0.1, *kinetics.initial) for name, kinetics in KINETICS.items()}


class Case:
    """States, rates and the gradients of what comes out, made from a seed."""

    def __init__(self, lengths: list[int], channels: int, repeated: bool, per_channel: bool, kinetics: str) -> None:
        generator, longest = torch.Generator().manual_seed(0), max(lengths)
        shape = (len(lengths), longest, channels)
        self.mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
        self.u = torch.rand(shape, dtype=torch.float64, generator=generator)
        self.v = torch.rand(
            len(lengths), 1 if repeated else longest, channels, dtype=torch.float64, generator=generator
        )
        spread = torch.rand(4, channels if per_channel else 1, dtype=torch.float64, generator=generator) + 0.5
        self.rates = [r * s if per_channel else r * s[0] for r, s in zip(RATES[kinetics], spread, strict=True)]
        self.grads = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
        self.kinetics = kinetics

    def inputs(self, dtype: torch.dtype) -> list[torch.Tensor]:
        return [x.to(dtype, copy=True).requires_grad_() for x in (self.u, self.v, *self.rates)]

    def run(self, way, steps: int, dtype: torch.dtype = torch.float64, text: bool = True) -> list[torch.Tensor]:
        """U^M, V^M, and the gradients of U^0, V^0 and the four rates."""
        u, v, *rates = inputs = self.inputs(dtype)
        made = way(u, v, self.mask, Rates(*rates), 0.05, steps, self.kinetics)
        pairs = zip(made, self.grads.to(dtype), strict=True) if text else [(made[0], self.grads[0].to(dtype))]
        total = sum((x * grad).sum() for x, grad in pairs)
        return [*(made if text else made[:1]), *torch.autograd.grad(total, inputs)]


def assert_equal_but_for_rounding(ours: list[torch.Tensor], exact: list[torch.Tensor], rounding: float) -> None:
    for one, other in zip(ours, exact, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= rounding * max(1.0, other.abs().max().item())


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(lambda lengths: max(lengths) > 0),
    channels=st.sampled_from([1, 15, 16, 17, 40]),
    steps=st.integers(1, 12),
    repeated=st.booleans(),
    per_channel=st.booleans(),
    kinetics=st.sampled_from(list(KINETICS)),
)
def test_values_and_gradients_are_those_of_the_loop(
    lengths: list[int], channels: int, steps: int, repeated: bool, per_channel: bool, kinetics: str
) -> None:
    case = Case(lengths, channels, repeated, per_channel, kinetics)
    assert_equal_but_for_rounding(case.run(fused_euler, steps), case.run(react_and_diffuse, steps), 1e-12)


@pytest.mark.parametrize(("clips", "steps"), [(129, 5), (300, 40), (700, 50), (10_000, 3)])
def test_long_sequences_are_cut_into_chunks_that_fit_without_a_seam(clips: int, steps: int) -> None:
    case = Case([clips, clips // 2], 3, True, False, "gray_scott")
    assert_equal_but_for_rounding(case.run(fused_euler, steps), case.run(react_and_diffuse, steps), 1e-11)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    case, before = Case([300, 120, 7], 64, True, False, "gray_scott"), torch.get_num_threads()
    alone = case.run(fused_euler, 5, torch.float32)
    try:
        torch.set_num_threads(threads)
        shared = case.run(fused_euler, 5, torch.float32)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_single_precision_is_as_near_to_the_truth_as_the_loop() -> None:
    case = Case([75, 30], 33, True, False, "gray_scott")
    exact = case.run(react_and_diffuse, 20)
    ours, loop = (case.run(way, 20, torch.float32) for way in (fused_euler, react_and_diffuse))
    for one, other, true in zip(ours, loop, exact, strict=True):
        assert (one - true).abs().max() <= 2 * (other - true).abs().max() + 1e-6 * true.abs().max()


def test_the_state_of_the_text_is_left_out_where_nobody_wants_it() -> None:
    case = Case([9, 4], 5, True, False, "gray_scott")

    def ours(*arguments):
        return fused_euler(*arguments, text=False)

    assert_equal_but_for_rounding(case.run(ours, 5, text=False), case.run(react_and_diffuse, 5, text=False), 1e-13)
    assert ours(case.u, case.v, case.mask, Rates(*case.rates), 0.05, 5, "gray_scott")[1] is None


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
def test_what_stands_in_padding_changes_no_bit(garbage: float) -> None:
    case = Case([9, 4, 0], 5, False, False, "gray_scott")
    clean = case.run(fused_euler, 5)
    for x in (case.u, case.v):
        x.masked_fill_(~case.mask.unsqueeze(-1), garbage)
    dirty = case.run(fused_euler, 5)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))
    assert not dirty[0][~case.mask].any()
    assert not dirty[2][~case.mask].any()  # the gradient of U^0


@pytest.mark.parametrize("steps", [5, 50])
def test_nothing_but_the_inputs_is_kept_for_the_gradient_however_many_the_steps(steps: int) -> None:
    case, kept = Case([50, 20], 16, True, False, "gray_scott"), {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.data_ptr()] = x.nbytes
        return x

    u, v, *rates = case.inputs(torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        fused_euler(u, v, case.mask, Rates(*rates), 0.05, steps)
    assert u.nbytes <= sum(kept.values()) < 1.5 * u.nbytes


def test_the_block_takes_either_way_to_the_same_end() -> None:
    generator = torch.Generator().manual_seed(0)
    clips, words = torch.randn(2, 6, 32, generator=generator), torch.randn(2, 5, 32, generator=generator)
    masks = torch.arange(6) < torch.tensor([[6], [4]]), torch.arange(5) < torch.tensor([[5], [2]])
    fused, loop = (ReactionDiffusionFusion(32, dropout=0.0, method=method) for method in ("fused", "loop"))
    loop.load_state_dict(fused.state_dict())
    torch.testing.assert_close(
        fused(clips, masks[0], words, masks[1]), loop(clips, masks[0], words, masks[1]), rtol=0, atol=1e-5
    )


def test_the_compiler_takes_the_pass_as_one_operator_and_differentiates_it() -> None:
    case = Case([9, 4], 5, True, True, "gray_scott")
    compiled = torch.compile(fused_euler, fullgraph=True, backend="aot_eager")
    assert_equal_but_for_rounding(case.run(compiled, 5), case.run(fused_euler, 5), 1e-14)


def test_the_whole_block_compiles_without_a_break() -> None:
    block = ReactionDiffusionFusion(16, ffn=16, dropout=0.0)
    clips, words = torch.randn(2, 6, 16), torch.randn(2, 5, 16)
    masks = torch.arange(6) < torch.tensor([[6], [4]]), torch.ones(2, 5, dtype=torch.bool)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(clips, masks[0], words, masks[1]), block(clips, masks[0], words, masks[1]))


def test_what_cannot_be_fused_says_so_and_goes_through_the_loop() -> None:
    u = torch.rand(1, 4, 3)
    assert can_fuse(u, "gray_scott")
    assert not can_fuse(u.half(), "gray_scott")
    assert not can_fuse(u[:, :0], "gray_scott")
    assert trouble("cpu") == ""
    block = ReactionDiffusionFusion(4, ffn=4, integrator="imex")
    block(
        torch.randn(1, 3, 4),
        torch.ones(1, 3, dtype=torch.bool),
        torch.randn(1, 2, 4),
        torch.ones(1, 2, dtype=torch.bool),
    )


PROGRAM = """
import torch
from rdmf.fuse import fused_cpu
from rdmf.fuse.reaction_diffusion import ReactionDiffusionFusion
print(fused_cpu.why_not())
block, mask = ReactionDiffusionFusion(4, ffn=4), torch.ones(1, 3, dtype=torch.bool)
print(block(torch.randn(1, 3, 4), mask, torch.randn(1, 3, 4), mask).isfinite().all().item())
"""


def run_with(environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return done.stdout.splitlines()


def test_without_a_compiler_the_loop_is_taken_and_the_reason_is_known(tmp_path: Path) -> None:
    assert run_with({"PATH": str(tmp_path)}) == ["no C compiler (cc, gcc, clang) is installed", "True"]


def test_a_compiler_that_fails_is_no_reason_to_stop(tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    why, finite = run_with({"PATH": f"{tmp_path}:/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert "exit status 3" in why
    assert finite == "True"


def test_the_library_is_compiled_once_into_a_folder_that_only_the_user_may_write(tmp_path: Path) -> None:
    for _ in range(2):
        assert run_with({"XDG_CACHE_HOME": str(tmp_path)}) == ["", "True"]
        (made,) = (tmp_path / "rdmf").iterdir()
    assert (tmp_path / "rdmf").stat().st_mode & 0o777 == 0o700
    assert made.suffix == ".so"


def test_a_cache_that_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "rdmf").mkdir()
    (tmp_path / "rdmf").chmod(0o777)
    assert run_with({"XDG_CACHE_HOME": str(tmp_path)}) == ["", "True"]
    assert not list((tmp_path / "rdmf").iterdir())
