"""How fast Video Swin is here: clips/s beside torchvision's in the same run, and what the device could do at best.

Prints, for one device: clips/s of torchvision's eager swin3d (fp32, on CUDA with TF32) and of ours, taken in turn, and
their ratio (median and range); how far the outputs are apart; the error of bf16; and the FLOP/s of every stage beside a
roofline: every operation limited by the matrix ceiling or by the memory bandwidth, both measured on the spot, whichever
is worse. Ours is what extraction runs: fp32 on the CPU, bf16 and compiled on CUDA. No ratio without torchvision.

    python benchmarks/video_swin.py [--variant t] [--device cuda] [--batch 16] [--threads 1] [--repeat 5]
"""

from __future__ import annotations

import argparse
import importlib
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rdmf.extract.encoders import SWIN_SAMPLING, fill_randomly, load_video_encoder
from rdmf.extract.video_encoder import compiled, matrix_precision
from rdmf.extract.video_swin import VARIANTS, SwinConfig, VideoSwin

SIZE = (SWIN_SAMPLING.frames, SWIN_SAMPLING.size, SWIN_SAMPLING.size)
CEILING = {"cpu": (2048, 2**26), "cuda": (8192, 2**30)}
"""Rows of the square matrices, and numbers that are copied, to measure what the device can do."""


class Operation(NamedTuple):
    """One matrix product of the model, for one clip. Norms, GELU and additions are taken for free."""

    stage: int
    """From 0; the patch embedding is of stage 0, merging of the stage it leads to."""
    name: str
    flops: int
    """Two for each multiplication with its addition."""
    numbers: int
    """Read and written, each once; attention's scores are not, nor are the weights, which all clips share."""
    weights: int


def operations(config: SwinConfig, size: tuple[int, int, int]) -> list[Operation]:
    """All products of Video Swin for one clip of `size` frames, rows, columns, in their order."""

    def linear(stage: int, name: str, rows: int, inputs: int, outputs: int) -> Operation:
        return Operation(stage, name, 2 * rows * inputs * outputs, rows * (inputs + outputs), inputs * outputs)

    d, h, w = (-(-side // patch) for side, patch in zip(size, config.patch, strict=True))
    found = [linear(0, "patches", d * h * w, 3 * math.prod(config.patch), config.embed_dim)]
    for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        c = config.dim_of(stage)
        if stage:
            h, w = -(-h // 2), -(-w // 2)
            found.append(linear(stage, "merging", d * h * w, 2 * c, c))
        window = [min(side, most) for side, most in zip((d, h, w), config.window, strict=True)]
        n = math.prod(window)
        rows = math.prod(-(-side // step) * step for side, step in zip((d, h, w), window, strict=True))
        hidden = int(c * config.mlp_ratio)
        found += depth * [
            linear(stage, "qkv", rows, c, 3 * c),
            Operation(stage, "attention", 4 * rows * n * c, 4 * rows * c, heads * n * n),
            linear(stage, "proj", rows, c, c),
            linear(stage, "mlp", d * h * w, c, hidden),
            linear(stage, "mlp", d * h * w, hidden, c),
        ]
    return found


def counted_flops(config: SwinConfig, size: tuple[int, int, int]) -> int:
    """The same sum as torch counts it while the model runs (without numbers)."""
    with torch.device("meta"):
        model, clip = VideoSwin(config).eval(), torch.empty(1, 3, *size)
    with FlopCounterMode(display=False) as counter:
        model(clip)
    return counter.get_total_flops()


def import_torchvision() -> Any:
    """torchvision.models.video or None. Its CUDA wheel imports beside a CPU torch if its operators go undeclared."""
    declare = torch.library.register_fake

    def declare_others(op: Any, *args: Any, **options: Any) -> Any:
        return (lambda f: f) if str(op).startswith("torchvision::") else declare(op, *args, **options)

    torch.library.register_fake = declare_others
    try:
        return importlib.import_module("torchvision.models.video")
    except ImportError as error:
        print(f"torchvision does not import here: {error}")
        return None
    finally:
        torch.library.register_fake = declare


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def in_turn(runs: dict[str, Callable[[], Any]], device: torch.device, repeat: int) -> dict[str, np.ndarray]:
    """Seconds of every run, `repeat` times, one after another, so that what slows the machine slows all."""
    for run in runs.values():
        run()
    taken = [[seconds(run, device) for run in runs.values()] for _ in range(repeat)]
    return dict(zip(runs, np.array(taken).T, strict=True))


def ceilings(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a large matrix product and bytes/s of a copy: the best of several."""
    side, numbers = CEILING[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(numbers, device=device)
    target = torch.zeros_like(source)
    best = in_turn({"matrices": lambda: a @ b, "copy": lambda: target.copy_(source)}, device, 10)
    return 2 * side**3 / best["matrices"].min(), 2 * source.nbytes / best["copy"].min()


def stages(model: VideoSwin, clips: Tensor, prepare: Callable) -> list[tuple[Callable, Tensor]]:
    """The stages as functions with their inputs: embedding and blocks, then merging and blocks."""
    parts = list(model.features)
    modules = [nn.Sequential(model.patch_embed, parts[0]), *(nn.Sequential(*parts[i : i + 2]) for i in (1, 3, 5))]
    found = []
    for module in modules:
        found.append((prepare(module, clips), clips))
        clips = module(clips)
    return found


def error(name: str, values: Tensor, exact: Tensor) -> str:
    values, exact = values.float(), exact.float()
    cosine = nn.functional.cosine_similarity(values, exact).min()
    relative, most = (values - exact).norm() / exact.norm(), (values - exact).abs().max() / exact.abs().max()
    return f"{name:42} {relative:.1e} of the norm, at most {most:.1e} of the largest, cosine >= {cosine:.7f}"


def line(name: str, values: np.ndarray, unit: str) -> str:
    return f"{name:42} {np.median(values):9.2f} {unit:8} ({values.min():.2f} to {values.max():.2f})"


@torch.inference_mode()
def measure(variant: str, device: torch.device, batch: int, repeat: int) -> None:
    torch.manual_seed(0)
    config, gpu = VARIANTS[variant], device.type == "cuda"
    dtype, kind = (torch.bfloat16, "bf16, compiled") if gpu else (torch.float32, "fp32")
    exact = VideoSwin(config, num_classes=400).eval().requires_grad_(False)
    fill_randomly(exact)
    state = exact.state_dict()
    exact.to(device)
    rounded = VideoSwin(config, num_classes=400).eval().requires_grad_(False)
    rounded.load_state_dict(state)
    rounded.to(device, torch.bfloat16)
    clips = torch.randn(batch, 3, *SIZE, device=device)
    ours, fed = (rounded, clips.bfloat16()) if gpu else (exact, clips)

    def prepare(module: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
        return compiled(module, example) if gpu else module

    run = prepare(ours, fed)
    runs: dict[str, Callable[[], Any]] = {f"ours ({kind})": lambda: run(fed)}
    torchvision = import_torchvision()
    theirs = f"torchvision (eager, fp32{' with TF32' if gpu else ''})"
    if torchvision is not None:
        reference = getattr(torchvision, f"swin3d_{variant}")().eval().requires_grad_(False)
        reference.load_state_dict(state, strict=True)
        reference.to(device)

        def run_theirs() -> Tensor:
            with matrix_precision("tf32" if gpu else "fp32"):
                return reference(clips)

        runs[theirs] = run_theirs
        print(error("ours to torchvision, both fp32:", exact(clips), reference(clips)))
    print(error("bf16 to fp32, random weights and clips:", rounded(clips.bfloat16()), exact(clips)))
    nano = np.random.default_rng(0).integers(0, 256, (16, 8, 64, 64, 3), dtype=np.uint8)
    features = [torch.from_numpy(load_video_encoder("swin_nano", precision=p).encode(nano)) for p in ("bf16", "fp32")]
    print(error("bf16 to fp32, swin_nano as shipped:", *features))

    taken = in_turn(runs, device, repeat)
    for name, values in taken.items():
        print(line(name, batch / values, "clips/s"))
    if theirs in taken:
        print(line("ratio", taken[theirs] / taken[f"ours ({kind})"], "times"))

    matrices, copies = ceilings(device, dtype)
    print(f"\nmatrix ceiling {matrices / 1e12:.3f} TFLOP/s at {dtype}, memory {copies / 1e9:.1f} GB/s")
    found = operations(config, SIZE)
    total, counted = sum(op.flops for op in found), counted_flops(config, SIZE)
    assert total == counted, f"{total} FLOPs by formula, {counted} counted"
    print("stage   GFLOP/clip   ms/clip   TFLOP/s   roofline   of it   of the ceiling")
    for i, (stage, x) in enumerate(stages(ours, fed, prepare)):
        stage_s = np.median(in_turn({"stage": lambda stage=stage, x=x: stage(x)}, device, repeat)["stage"]) / batch
        parts = [op for op in found if op.stage == i]
        flops = sum(op.flops for op in parts)
        moved = [(op.numbers + op.weights / batch) * dtype.itemsize for op in parts]
        least_s = sum(max(op.flops / matrices, b / copies) for op, b in zip(parts, moved, strict=True))
        print(row(f"{i + 1}", flops, stage_s, flops / least_s, matrices))
    print(row("all", total, float(np.median(taken[f"ours ({kind})"])) / batch, None, matrices))


def row(name: str, flops: int, clip_s: float, roofline: float | None, ceiling: float) -> str:
    bound = " " * 18 if roofline is None else f"{roofline / 1e12:11.3f}{flops / clip_s / roofline:8.0%}"
    rate = flops / clip_s
    return f"{name:5}{flops / 1e9:13.2f}{clip_s * 1e3:10.2f}{rate / 1e12:10.3f}{bound}{rate / ceiling:16.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=("t", "s", "b"), default="t")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="clips at once; 1 on the CPU, 16 on CUDA")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU, for both")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    batch = arguments.batch or (16 if device.type == "cuda" else 1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {arguments.threads} threads"
    print(
        f"swin_{arguments.variant} on {name}, torch {torch.__version__}, {batch} clips at once, {arguments.repeat} runs"
    )
    measure(arguments.variant, device, batch, arguments.repeat)


if __name__ == "__main__":
    main()
