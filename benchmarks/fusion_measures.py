"""How fusion.py measures: times in turn, peak memory, differences, and the least that M steps must cost.

The floor of a pass over N = B T D numbers is the larger of two times. Memory: the forward pass reads U^0 and writes
U^M, as a copy of a species does; the backward pass reads U^0 and the gradient and writes one, 3/2 of that. A copy of
the same size is timed, so caches count for the floor too. Arithmetic: the least additions, multiplications and fused
pairs that we know of, each one instruction, at half the FLOP/s of a matrix product in fp32 (without TF32), which stands
for the peak of fused multiply-adds. On a CPU it reaches most of that, and additions may have units of their own, so
that is a floor within a tenth or two.

An Euler step of Gray-Scott, one number of both species, constants folded (l, r: the neighbours):

    U' = c_u U + dt D_u (U_l + U_r) + dt UUV             4 operations, and 2 for UUV, which V' shares
    V' = (c_v V + dt F) + dt D_v (V_l + V_r) - dt UUV    4, so 10; the last V is not asked for

and of its adjoint P, Q, with E = dt U (P - Q), 3 operations:

    P' = c_p P + dt D_u (P_l + P_r) + 2 V E              5
    Q' = c_q Q + dt D_v (Q_l + Q_r) + U E                4
    sums of U (P_l + P_r), V (Q_l + Q_r), P U, Q V, Q    5 for the gradients of the rates, so 17; the last Q is 0

The states that the adjoint reads are made again, M - 1 steps: keeping them would cost memory and bandwidth.

    python benchmarks/fusion_measures.py [--device cuda] [--threads 1]      prints the floor
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from video_swin import ceilings, seconds

from rdmf.fuse import fused_cpu

STEP, ADJOINT = 10, 17
WITHOUT_V, WITHOUT_Q = 4, 7
"""Saved in the last step, as V^M is not asked for, and in its adjoint, as Q^M is 0."""
PRODUCT = {"cpu": 1024, "cuda": 8192}
"""Rows of the square matrices whose product is timed beside each row."""
TOO_LONG_S = 60


class Floor(NamedTuple):
    """Milliseconds at least of a forward pass and of forward and backward, and what bounds the latter."""

    forward: float
    both: float
    bound: str


def operations(steps: int) -> tuple[int, int]:
    """Instructions for each number of a species: of the forward pass and of the backward pass."""
    return STEP * steps - WITHOUT_V, STEP * (steps - 1) + ADJOINT * steps - WITHOUT_Q


def floor(steps: int, numbers: int, copy_ms: float, flops: float) -> Floor:
    """From the time that a copy of a species takes and the FLOP/s of fused multiply-adds."""
    arithmetic = [count * numbers / (flops / 2) * 1e3 for count in operations(steps)]
    memory = [copy_ms, 1.5 * copy_ms]
    forward, backward = map(max, memory, arithmetic)
    return Floor(forward, forward + backward, "memory" if sum(memory) > sum(arithmetic) else "arithmetic")


def product(device: torch.device) -> tuple[int, Callable[[], Tensor]]:
    """A matrix product in fp32 and its FLOPs."""
    side = PRODUCT[device.type]
    a, b, out = torch.randn(3, side, side, device=device)
    return 2 * side**3, functools.partial(torch.mm, a, b, out=out)


def in_turn(
    runs: dict[str, Callable[[], Any]], device: torch.device, repeat: int, row_seconds: float
) -> dict[str, np.ndarray]:
    """ms of every run, one after another: `repeat` times, or 3 times if that took row_seconds.

    A run over a minute is left out, and printed as such.
    """
    for name, run in list(runs.items()):
        if seconds(run, device) > TOO_LONG_S and (again := seconds(run, device)) > TOO_LONG_S:  # the first may compile
            print(f"left out: {name}, {again:.0f} s a repeat")
            del runs[name]
    began, taken = time.perf_counter(), []
    while len(taken) < repeat and (len(taken) < 3 or time.perf_counter() - began < row_seconds):
        taken.append([seconds(run, device) for run in runs.values()])
    return dict(zip(runs, 1e3 * np.array(taken).T, strict=True))


def spread(values: np.ndarray | None) -> str:
    """Median (range), 24 wide."""
    if values is None:
        return f"{'-':>24}"
    median, low, high = (f"{x:.0f}" if x >= 100 else f"{x:.3g}" for x in (np.median(values), *np.sort(values)[[0, -1]]))
    return f"{median:>8} {f'({low}-{high})':15}"


def exponent(times: dict[int, np.ndarray], largest: int = 3) -> np.ndarray | None:
    """The slope of log time over log T at the largest T, for each repeat; None for a single T."""
    clips = sorted(times)[-largest:]
    if len(clips) < 2:
        return None
    repeats = min(len(times[t]) for t in clips)
    return np.polyfit(np.log(clips), np.log([times[t][:repeats] for t in clips]), 1)[0]


def gradients(out: Tensor, of: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """0 for what does not matter, as D_v in a single step."""
    found = torch.autograd.grad(out, of, grad.to(out.dtype), allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(of, found, strict=True)]


def difference(values: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest of all, each relative to the largest number of the exact one."""
    pairs = [(a.float(), b.float()) for a, b in zip(values, exact, strict=True)]
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in pairs)


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int | None:
    """How far `run` takes memory above what was there before, its second time; None where no one tells (no /proc).

    On the CPU it is of the process's resident set, whoever allocates: torch, the C code's scratch, threads.
    """
    run()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is free but held would hide what is taken
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
        before = _resident("VmRSS")
        run()
        return _resident("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def about(device: torch.device) -> str:
    """The machine, how busy it is, and what compiled."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    compiler = next(filter(None, map(shutil.which, fused_cpu.COMPILERS)), None)
    version = "no C compiler"
    if compiler:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return f"{platform.machine()}, {torch.get_num_threads()} threads, load {load}, torch {torch.__version__}, {version}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    flops, copied = ceilings(options.device, torch.float32)
    print(f"{flops / 1e9:.1f} GFLOP/s of an fp32 matrix product, {copied / 1e9:.1f} GB/s of a large copy")
    print("least ms for 10^6 numbers in main memory\n  M   forward   forward and back   bound by")
    for steps in (1, 5, 10, 20, 50):
        least = floor(steps, 10**6, 8e9 / copied, flops)
        print(f"{steps:3}{least.forward:10.3f}{least.both:19.3f}   {least.bound}")


if __name__ == "__main__":
    main()
