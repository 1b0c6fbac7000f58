"""The reaction-diffusion pass beside its loop, torch.compile, attention, and the least that it could cost.

All of a row is taken in turn; times are ms, median (range over repeats), and ratios are of neighbouring runs.

1. M steps: what the block runs (`react_in_one_pass`), the loop with autograd, the loop under torch.compile (mode
   default, dynamic shapes, so that a length costs no new compilation), and the floor of fusion_measures.py, from the
   best copy of the row and the best matrix product so far. `off`: the largest difference of ours from the fp32 loop, in
   U^M and in every gradient, relative to the largest number of each.
2. Peak memory of forward and backward above the inputs, against M.
3. Modules forward and backward, and the exponent of T in their time over the larger T. `encoder layer` is
   nn.TransformerEncoderLayer over the clips. No dropout and no padding, which favours attention: on the CPU its fast
   kernels do without dropout.
4. Temporal diffusion forward and backward: step by step, by the cosine matrix, and by the Fourier transform for
   sequences of T clips and for B different lengths from T / 2 to T. spectrum.DENSE is decided here.

B is halved until the batch fits. About 6 minutes on two cores; on a busy machine use --threads 1, as the threads of
torch wait for each other at every operation.

    python benchmarks/fusion.py [--quick] [--device cuda] [--dtype bf16] [--threads 1] [--repeat 5] [--row-seconds 6]
                                [--clips 75 1000] [--steps 5 20] [--compile-steps 10] [--diffusion-clips 256 512]
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fusion_measures import about, difference, exponent, floor, gradients, in_turn, peak_bytes, product, spread
from torch import Tensor, nn
from video_swin import ceilings, seconds

from rdmf.fuse import spectrum
from rdmf.fuse.cross_attention import CrossAttentionFusion
from rdmf.fuse.fused import trouble
from rdmf.fuse.rates import Rates
from rdmf.fuse.reaction_diffusion import ReactionDiffusionFusion, react_and_diffuse, react_in_one_pass
from rdmf.fuse.temporal_diffusion import diffuse_spectrum, diffuse_steps

BATCH, HEADS, FFN, WORDS, DT, MODULE_STEPS = 16, 8, 1024, 20, 0.1, 5
RATES = Rates(0.2, 0.1, 0.04, 0.06)
MOST_CLIPS = {"cpu": 16 * 300, "cuda": 16 * 3000}
"""B T of a batch. At 50 steps and D 256 the loop takes 650 times that, 3 GB and 32 GB; one of 10,000 clips 7 GB."""
DENSE_MOST = 4096
"""Clips up to which the cosine matrix, T^2 for each sequence, is tried."""
USUAL_AND_QUICK: dict[str, tuple[Any, Any]] = {
    "repeat": (5, 3),
    "row_seconds": (6, 1),
    "clips": ([75, 300, 1000, 3000, 10000], [75, 300, 1000]),
    "steps": ([1, 5, 10, 20, 50], [5, 20]),
    "compile_steps": (10, 0),
    "diffusion_clips": ([32, 75, 128, 256, 512, 1024, 2048, 4096, 10000], [32, 128, 512, 1024]),
}


class Case:
    """A batch of B, T, D with random concentrations, and a gradient of U^M."""

    def __init__(self, options: argparse.Namespace, clips: int) -> None:
        self.batch = BATCH
        while self.batch > 1 and self.batch * clips > MOST_CLIPS[options.device.type]:
            self.batch //= 2
        torch.manual_seed(0)
        on: dict[str, Any] = {"device": options.device, "dtype": options.dtype}
        self.u = torch.rand(self.batch, clips, options.dim, **on)
        self.v = torch.rand(self.batch, 1, options.dim, **on)
        self.grad = torch.randn(self.u.shape, **on)
        self.mask = torch.ones(self.batch, clips, dtype=torch.bool, device=options.device)
        self.rates = [torch.tensor(rate, device=options.device, requires_grad=True) for rate in RATES]
        self.copied = torch.empty_like(self.u)

    @torch.no_grad()
    def forward(self, react: Callable, steps: int) -> Tensor:
        return react(self.u, self.v, self.mask, self.rates, steps)

    def both(self, react: Callable, steps: int, dtype: torch.dtype | None = None) -> list[Tensor]:
        """U^M and the gradients of U^0, V^0 and the rates."""
        u, v = (x.detach().to(dtype or x.dtype).requires_grad_() for x in (self.u, self.v))
        out = react(u, v, self.mask, self.rates, steps)
        return [out.detach(), *gradients(out, (u, v, *self.rates), self.grad)]

    def copy(self) -> Tensor:
        return self.copied.copy_(self.u)


def loop(u: Tensor, v: Tensor, mask: Tensor, rates: list[Tensor], steps: int) -> Tensor:
    return react_and_diffuse(u, v, mask, Rates(*rates), DT, steps)[0]


def ours(u: Tensor, v: Tensor, mask: Tensor, rates: list[Tensor], steps: int) -> Tensor:
    return react_in_one_pass(u, v, mask, Rates(*rates), DT, steps)[0]


def compile_loop(options: argparse.Namespace, steps: int) -> Callable | None:
    """The loop compiled, tried on the shortest clips; None where it would take long or does not go."""
    if steps > options.compile_steps:
        return None
    torch._dynamo.reset()
    compiled, case = torch.compile(loop, dynamic=True), Case(options, min(options.clips))
    try:
        forward, both = (
            seconds(functools.partial(run, compiled, steps), options.device) for run in (case.forward, case.both)
        )
    except Exception as error:  # of any of the compiler's parts
        print(f"M {steps:<3} torch.compile does not go here: {str(error).splitlines()[0]}")
        return None
    print(f"M {steps:<3} compiled in {forward:.1f} s forward, {both:.1f} s forward and back; for B = 1 once more")
    return compiled


def reaction(options: argparse.Namespace, flops: float) -> list[str]:
    """Table 1; returns the lines of table 2, which are measured beside it at the middle T."""
    header = ("loop", "compiled", "ours", "loop / ours", "compiled / ours", "ours / floor")
    print(
        f"\n{'1. reaction and diffusion steps':36}"
        + "".join(f"{name:>14}{'':10}" for name in header)
        + "bound by   off"
    )
    count, multiply = product(options.device)
    middle, peaks = sorted(options.clips)[len(options.clips) // 2], []
    for steps in options.steps:
        compiled = compile_loop(options, steps)
        for clips in options.clips:
            case = Case(options, clips)
            ways = {"loop": loop, "compiled": compiled, "ours": ours}
            runs = {
                f"{name} {kind}": functools.partial(getattr(case, kind), way, steps)
                for kind in ("forward", "both")
                for name, way in ways.items()
                if way is not None
            }
            off = difference(case.both(ours, steps), case.both(loop, steps, torch.float32))
            beside = {"copy": case.copy, "product": multiply}
            taken = in_turn(runs | beside, options.device, options.repeat, options.row_seconds)
            flops = max(flops, count / taken["product"].min() * 1e3)
            least = floor(steps, case.u.numel(), taken["copy"].min(), flops)
            for kind, title, least_ms in (("forward", "forward", least.forward), ("both", "and back", least.both)):
                times = [taken.get(f"{name} {kind}") for name in ways]
                by_ours = [None if x is None else x / times[2] for x in times[:2]]
                columns = "".join(map(spread, (*times, *by_ours, times[2] / least_ms)))
                where = f"M {steps:<3} T {clips:<6} B {case.batch:<3} {title}"
                print(f"{where:36}{columns}{least.bound:10} {off:.1e}", flush=True)
            if clips == middle:
                found = {name: peak_bytes(runs[f"{name} both"], options.device) for name in ways if ways[name]}
                texts = (f"{name} {taken_of(peak, case.u.nbytes)}" for name, peak in found.items())
                peaks.append(f"M {steps:<3} T {clips:<6} B {case.batch:<20}" + "".join(f"{text:40}" for text in texts))
    print(f"floor: from up to {flops / 1e9:.1f} GFLOP/s of the products beside the rows")
    return peaks


def taken_of(peak: int | None, species: int) -> str:
    return "not measured" if peak is None else f"{peak / 1e6:.1f} MB, {peak / species:.1f} species"


def modules(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    dim, on = options.dim, {"device": options.device}
    rd = ReactionDiffusionFusion(dim, MODULE_STEPS, DT, dropout=0, ffn=FFN).to(**on)
    cross = CrossAttentionFusion(dim, HEADS, 0, FFN).to(**on)
    layer = nn.TransformerEncoderLayer(dim, HEADS, FFN, dropout=0, batch_first=True, norm_first=True, **on)
    ways: dict[str, tuple[nn.Module, Callable]] = {
        "RD mix": (rd, rd.mix),
        "RD block": (rd, rd),
        "cross-attention mix": (cross, cross.mix),
        "cross-attention block": (cross, cross),
        "encoder layer": (layer, lambda clips, *_: layer(clips)),
    }

    def both(module: nn.Module, run: Callable, case: Case, inputs: tuple[Tensor, ...]) -> None:
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.dtype is torch.bfloat16):
            out = run(*inputs)
        gradients(out, (inputs[0], *module.parameters()), case.grad)

    found: dict[str, dict[int, np.ndarray]] = {name: {} for name in ways}
    for clips in options.clips:
        case = Case(options, clips)
        x, words = (torch.randn(case.batch, n, dim, requires_grad=True, **on) for n in (clips, WORDS))
        inputs = x, case.mask, words, torch.ones(case.batch, WORDS, dtype=torch.bool, **on)
        runs = {name: functools.partial(both, *way, case, inputs) for name, way in ways.items()}
        for name, times in in_turn(runs, options.device, options.repeat, options.row_seconds).items():
            found[name][clips] = times / case.batch
    header = (*(f"T {clips}" for clips in options.clips), "exponent of T")
    print(f"\n{f'3. modules (M {MODULE_STEPS}), ms a sequence':36}" + "".join(f"{name:>14}{'':10}" for name in header))
    for name, at in found.items():
        print(f"{name:36}" + "".join(map(spread, (*map(at.get, options.clips), exponent(at)))), flush=True)


def temporal(options: argparse.Namespace) -> None:
    names = ("steps", "matrix", "Fourier", "Fourier, ragged", "Fourier / matrix", "steps / best")
    print(f"\n{'4. temporal diffusion':36}" + "".join(f"{name:>14}{'':10}" for name in names) + "off")
    own, d = spectrum.DENSE, torch.tensor(0.2, device=options.device, requires_grad=True)

    def both(diffuse: Callable, dense: int, x: Tensor, mask: Tensor, grad: Tensor, steps: int) -> list[Tensor]:
        spectrum.DENSE = dense
        out = diffuse(x, mask, d, DT, steps)
        return [out.detach(), *gradients(out, (x, d), grad)]

    for steps in (10, 100):
        for clips in options.diffusion_clips:
            case = Case(options, clips)
            x, grad = case.u.float().requires_grad_(), case.grad.float()
            lengths = torch.linspace(clips / 2, clips, case.batch, device=options.device).long()
            ragged = torch.arange(clips, device=options.device) < lengths[:, None]
            ways = {"steps": (diffuse_steps, 0, x, case.mask), "Fourier": (diffuse_spectrum, 0, x, case.mask)}
            if clips <= DENSE_MOST:
                ways["matrix"] = diffuse_spectrum, DENSE_MOST, x, case.mask
            if case.batch > 1:
                ways["Fourier, ragged"] = diffuse_spectrum, 0, x, ragged
            runs = {name: functools.partial(both, *way, grad, steps) for name, way in ways.items()}
            exact = runs["steps"]()
            off = max(difference(runs[name](), exact) for name in ("matrix", "Fourier") if name in runs)
            taken = in_turn(runs, options.device, options.repeat, options.row_seconds)
            matrix = taken.get("matrix")
            best = taken["Fourier"] if matrix is None else np.minimum(taken["Fourier"], matrix)
            ratios = None if matrix is None else taken["Fourier"] / matrix, taken["steps"] / best
            columns = "".join(map(spread, (*map(taken.get, names[:4]), *ratios)))
            print(f"{f'N {steps:<3} T {clips:<6} B {case.batch}':36}{columns}{off:.1e}", flush=True)
    spectrum.DENSE = own
    print(f"spectrum.DENSE is {own}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="few sizes, nothing compiled")
    parser.add_argument("--repeat", type=int, help="at most; 5, with --quick 3")
    parser.add_argument("--row-seconds", type=float, help="after which a row takes 3 repeats at most; 6, or 1")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--clips", type=int, nargs="+")
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument("--compile-steps", type=int, help="the largest M to compile: it takes long; 10, with --quick 0")
    parser.add_argument("--diffusion-clips", type=int, nargs="+", help="T of temporal diffusion")
    options = parser.parse_args()
    for name, values in USUAL_AND_QUICK.items():
        if getattr(options, name) is None:
            setattr(options, name, values[options.quick])
    options.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    flops, copied = ceilings(options.device, torch.float32)
    print(f"{about(options.device)}; D {options.dim}, {options.dtype}, at most {options.repeat} repeats")
    print(f"{flops / 1e9:.1f} GFLOP/s of an fp32 matrix product, {copied / 1e9:.1f} GB/s of a large copy")
    if why := trouble(options.device.type):
        print(f"ours is the loop here: {why}")
    if left := [str(steps) for steps in options.steps if steps > options.compile_steps]:
        print(f"not compiled, as it takes long (--compile-steps): M {', '.join(left)}")
    peaks = reaction(options, flops)
    print("\n2. peak memory, forward and back", *peaks, sep="\n")
    modules(options)
    temporal(options)


if __name__ == "__main__":
    main()
