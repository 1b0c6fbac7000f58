"""All M Euler steps of equations (7) and (8) in one pass over the data, and a backward that recomputes them.

The loop of reaction_diffusion.py reads and writes both species many times a step and keeps every state for its
gradient. Here a species is read once and written once, whatever M is, and nothing but the inputs is kept. fused_cpu.py
does it on the CPU (C, compiled on this machine), fused_cuda.py on GPUs (Triton); both are the same equations, and the
loop is their reference: results are equal but for rounding.

Dimensions: B sequences, T clips, D channels.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from . import fused_cpu
from .kinetics import KINETICS
from .rates import Rates

NUMBERS = {name: number for number, name in enumerate(KINETICS)}
"""How the kernels call the kinetics."""


_TROUBLE: dict[str, str] = {}


def trouble(device: str) -> str:
    """Why the steps are taken one by one on a 'cpu' or 'cuda' device; empty where they are fused."""
    if device not in _TROUBLE:  # a lookup is what torch.compile can trace, compiling C is not
        if device == "cpu":
            _TROUBLE[device] = fused_cpu.why_not()
        else:
            found = device == "cuda" and find_spec("triton") is not None
            _TROUBLE[device] = "" if found else f"triton is not installed, or knows no {device}"
    return _TROUBLE[device]


def can_fuse(u: Tensor, kinetics: str) -> bool:
    """Whether there is a fused pass for tensors like u on this machine."""
    dtypes = (torch.float32, torch.float64 if u.device.type == "cpu" else torch.bfloat16)
    return kinetics in NUMBERS and u.numel() > 0 and u.dtype in dtypes and not trouble(u.device.type)


def fused_euler(
    u: Tensor,
    v: Tensor,
    clip_mask: Tensor,
    rates: Rates[Tensor],
    dt: float,
    steps: int,
    kinetics: str = "gray_scott",
    text: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """(U^M, V^M) from U^0 [B, T, D] and V^0 [B, T or 1, D]; 0 at padding; None for V^M where `text` is False.

    clip_mask [B, T]: valid clips are a prefix of their row. Rates are one number or [D] each.
    """
    table = torch.stack([rate.to(u.dtype).expand(u.shape[-1]) for rate in rates])  # [4, D]
    u_out, v_out = torch.ops.rdmf.euler_steps(u, v, table, clip_mask.sum(1), dt, steps, NUMBERS[kinetics], text)
    return u_out, v_out if text else None


def _forward(
    u: Tensor, v: Tensor, rates: Tensor, lengths: Tensor, dt: float, steps: int, kinetics: int, text: bool
) -> tuple[Tensor, Tensor]:
    u_out, v_out = _device(u).forward(u, v, lengths, rates, dt, steps, kinetics, text)
    return u_out, u.new_empty(0) if v_out is None else v_out


def _backward(
    u: Tensor,
    v: Tensor,
    rates: Tensor,
    lengths: Tensor,
    dt: float,
    steps: int,
    kinetics: int,
    u_grad: Tensor,
    v_grad: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return _device(u).backward(u, v, lengths, rates, dt, steps, kinetics, u_grad, v_grad)


def _remember(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    u, v, rates, lengths, *ctx.settings, ctx.text = inputs
    ctx.save_for_backward(u, v, rates, lengths)


def _differentiate(ctx: Any, u_grad: Tensor, v_grad: Tensor) -> tuple[Tensor | None, ...]:
    back = torch.ops.rdmf.euler_steps_back(*ctx.saved_tensors, *ctx.settings, u_grad, v_grad if ctx.text else None)
    return *back, None, None, None, None, None


def _device(u: Tensor) -> Any:
    if u.device.type == "cpu":
        return fused_cpu
    from . import fused_cuda  # imports triton

    return fused_cuda


# As operators of torch they are one opaque node to torch.compile, which could not look into C anyway.
LIBRARY = torch.library.Library("rdmf", "FRAGMENT")
STATE = "Tensor u, Tensor v, Tensor rates, Tensor lengths, float dt, int steps, int kinetics"
LIBRARY.define(f"euler_steps({STATE}, bool text) -> (Tensor, Tensor)")
LIBRARY.define(f"euler_steps_back({STATE}, Tensor u_grad, Tensor? v_grad) -> (Tensor, Tensor, Tensor)")
LIBRARY.impl("euler_steps", _forward, "CompositeExplicitAutograd")
LIBRARY.impl("euler_steps_back", _backward, "CompositeExplicitAutograd")
torch.library.register_fake(
    "rdmf::euler_steps",
    lambda u, v, *rest: (torch.empty_like(u), torch.empty_like(u) if rest[-1] else u.new_empty(0)),
    lib=LIBRARY,
)
torch.library.register_fake(
    "rdmf::euler_steps_back",
    lambda u, v, rates, *rest: (torch.empty_like(u), torch.empty_like(v), torch.empty_like(rates)),
    lib=LIBRARY,
)
torch.library.register_autograd("rdmf::euler_steps", _differentiate, setup_context=_remember, lib=LIBRARY)
