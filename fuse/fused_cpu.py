"""The CPU's side of fused.py: fused_cpu.c, compiled once with the C compiler of this machine and called through ctypes.

The library is kept under ~/.cache/rdmf (or $XDG_CACHE_HOME) by the hash of the source, the compiler's version and the
processor, in a folder that only the user may write. Threads share the tiles; their number is torch's.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("fused_cpu.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared")
REALS = {torch.float32: "float", torch.float64: "double"}
SMALL = 1 << 15
"""Numbers in a species below which one thread is faster than several."""


class _Problem(ctypes.Structure):
    """`problem` of fused_cpu.c."""

    _fields_ = (
        *((name, ctypes.c_long) for name in ("batch", "clips", "channels", "steps", "kinetics", "broadcast")),
        ("dt", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in (
            "lengths", "u", "v", "rates", "u_out", "v_out", "u_grad", "v_grad", "u_back", "v_back", "rates_back",
        )),
    )  # fmt: skip


def forward(
    u: Tensor, v: Tensor, lengths: Tensor, rates: Tensor, dt: float, steps: int, kinetics: int, text: bool
) -> tuple[Tensor, Tensor | None]:
    """(U^M, V^M or None) from U^0 [B, T, D], V^0 [B, T or 1, D], lengths int64 [B], rates [4, D]."""
    u, v, rates = u.contiguous(), v.contiguous(), rates.contiguous()
    u_out, v_out = torch.empty_like(u), torch.empty_like(u) if text else None
    problem = _problem(u, v, lengths, rates, dt, steps, kinetics, u_out=u_out, v_out=v_out)
    _run("forward", problem, u)
    return u_out, v_out


def backward(
    u: Tensor,
    v: Tensor,
    lengths: Tensor,
    rates: Tensor,
    dt: float,
    steps: int,
    kinetics: int,
    u_grad: Tensor,
    v_grad: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of U^0, V^0 and the rates [4, D], from those of U^M and V^M."""
    u, v, rates, u_grad = u.contiguous(), v.contiguous(), rates.contiguous(), u_grad.contiguous()
    v_grad = None if v_grad is None else v_grad.contiguous()
    u_back, v_back, rates_back = torch.empty_like(u), torch.empty_like(v), u.new_empty(len(u), *rates.shape)
    problem = _problem(
        u, v, lengths, rates, dt, steps, kinetics,
        u_grad=u_grad, v_grad=v_grad, u_back=u_back, v_back=v_back, rates_back=rates_back,
    )  # fmt: skip
    _run("backward", problem, u)
    return u_back, v_back, rates_back.sum(0)


def why_not() -> str:
    """Why there is no fused pass on this machine; empty where there is one."""
    try:
        _library("float")
    except (OSError, subprocess.SubprocessError) as error:
        return " ".join(str(error).split())
    return ""


def _problem(
    u: Tensor,
    v: Tensor,
    lengths: Tensor,
    rates: Tensor,
    dt: float,
    steps: int,
    kinetics: int,
    **arrays: Tensor | None,
) -> _Problem:
    batch, clips, channels = u.shape
    arrays |= {"u": u, "v": v, "rates": rates, "lengths": lengths}
    assert all(a is None or (a.is_contiguous() and a.device.type == "cpu") for a in arrays.values())
    assert all(a is None or a.dtype == u.dtype for name, a in arrays.items() if name != "lengths")
    assert lengths.dtype == torch.int64
    assert v.shape in ((batch, clips, channels), (batch, 1, channels))
    pointers = {name: None if a is None else a.data_ptr() for name, a in arrays.items()}
    broadcast = v.shape[1] == 1 and clips > 1
    return _Problem(batch, clips, channels, steps, kinetics, broadcast, dt, **pointers)


def _run(name: str, problem: _Problem, u: Tensor) -> None:
    """All tiles, shared among torch's threads."""
    library = _library(REALS[u.dtype])
    call, tiles = getattr(library, name), library.tiles(ctypes.byref(problem))
    threads = min(torch.get_num_threads(), tiles) if u.numel() * problem.steps >= SMALL else 1
    if threads <= 1:
        failed = call(ctypes.byref(problem), 0, tiles)
    else:
        borders = [tiles * i // threads for i in range(threads + 1)]
        *others, own = pairwise(borders)
        parts = [_pool(threads).submit(call, ctypes.byref(problem), *part) for part in others]
        failed = call(ctypes.byref(problem), *own)
        failed = max([failed, *(part.result() for part in parts)])
    if failed:
        raise MemoryError("no memory for the scratch of the reaction steps")


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, "reaction")


@functools.cache
def _library(real: str) -> ctypes.CDLL:
    """Compile, or find what was compiled. Raises OSError or SubprocessError where that does not go."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise OSError(f"no C compiler ({', '.join(COMPILERS)}) is installed")
    command = [compiler, *FLAGS, f"-DREAL={real}"]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=30).stdout
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(command).encode(), version, _processor()]))
    path = _cache() / f"fused_cpu-{real}-{key.hexdigest()[:16]}.so"
    if not path.is_file():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            subprocess.run([*command, str(SOURCE), "-o", str(made)], capture_output=True, check=True, timeout=120)
            os.replace(made, path)
    library = ctypes.CDLL(str(path))
    library.tiles.restype = ctypes.c_long
    library.tiles.argtypes = [ctypes.c_void_p]
    for call in (library.forward, library.backward):
        call.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
    return library


def _processor() -> bytes:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return repr(os.uname()).encode()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"model name", b"flags", b"Features"))}))


def _cache() -> Path:
    """A folder that nobody else can write to: what lies there is run."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rdmf"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.stat()
        only_ours = info.st_uid == os.getuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if only_ours and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # a user without a home
        pass
    return _own_folder()


@functools.cache
def _own_folder() -> Path:
    """For this process alone, where there is no cache."""
    return Path(tempfile.mkdtemp(prefix="rdmf-"))
