# mypy: ignore-errors
"""The kernels of fused_cuda.py, in Triton: the streaming passes of fused_cpu.c with all rows in registers.

A program is one sequence, BLOCK channels and a chunk of clips with a halo. It walks along the clips; as row r comes in,
step m advances row r - 1 - m, so a species is read once and written once whatever the number of steps S.

The gradient walks the same way. Beside the steps, taken again, runs their adjoint: row i of the adjoint of step m is
due at r = i + 2 (S - 1) - m, when state m of row i has waited 2 (S - 1 - m) rows, in registers too.

Dimensions: B sequences, T clips, D channels, S steps. Arrays are [B, T, D] without gaps, rates [4, D].
"""

import triton
import triton.language as tl

from .kinetics import THRESHOLD as _THRESHOLD

THRESHOLD = tl.constexpr(_THRESHOLD)


@triton.jit
def _react(u, v, a, b, KINETICS: tl.constexpr):
    made = u * u * v
    if KINETICS == 0:  # gray_scott
        f, g = made - (a + b) * u, a * (1 - v) - made
    elif KINETICS == 1:  # gray_scott_substrate
        used = u * v * v
        f, g = a * (1 - u) - used, used - (a + b) * v
    elif KINETICS == 2:  # schnakenberg
        f, g = a - u + made, b - made
    else:  # fitzhugh_nagumo
        f, g = u * (1 - u) * (u - THRESHOLD) - v, a * (u - b * v)
    return f, g


@triton.jit
def _react_adjoint(u, v, a, b, p, q, KINETICS: tl.constexpr):
    """(p f_u + q g_u, p f_v + q g_v, p f_a + q g_a, p f_b + q g_b)."""
    uv = 2 * u * v
    if KINETICS == 0:
        to_u, to_v = p * (uv - a - b) - q * uv, (p - q) * u * u - q * a
        to_a, to_b = q * (1 - v) - p * u, -p * u
    elif KINETICS == 1:
        to_u, to_v = (q - p) * v * v - p * a, q * (uv - a - b) - p * uv
        to_a, to_b = p * (1 - u) - q * v, -q * v
    elif KINETICS == 2:
        to_u, to_v = p * (uv - 1) - q * uv, (p - q) * u * u
        to_a, to_b = p, q
    else:
        to_u = p * (2 * (1 + THRESHOLD) * u - 3 * u * u - THRESHOLD) + q * a
        to_v, to_a, to_b = -p - q * a * b, q * (u - b * v), -q * a * v
    return to_u, to_v, to_a, to_b


@triton.jit
def forward_kernel(
    u_in, v_in, lengths, rates, u_out, v_out, T, D, dt, chunk, repeated,
    S: tl.constexpr, KINETICS: tl.constexpr, TEXT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < D
    batch = tl.program_id(2).to(tl.int64)
    start = tl.program_id(1) * chunk
    length = tl.load(lengths + batch).to(tl.int32)
    stop = tl.minimum(start + chunk, length)
    du = dt * tl.load(rates + channel, mask=inside, other=0.0)
    dv = dt * tl.load(rates + D + channel, mask=inside, other=0.0)
    a = tl.load(rates + 2 * D + channel, mask=inside, other=0.0)
    b = tl.load(rates + 3 * D + channel, mask=inside, other=0.0)
    at = batch * T * D + channel
    v_at, v_row = at, D
    if repeated:
        v_at, v_row = batch * D + channel, 0
    zero, none = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.int32)
    u_old, u_now, v_old, v_now = (zero,) * S, (zero,) * S, (zero,) * S, (zero,) * S
    for step in range(tl.maximum(start - S, 0), tl.where(start < length, stop + S, 0)):
        r = step + none  # a block, as masks of one shape are what the interpreter can join
        there = inside & (r < length)
        u = tl.load(u_in + at + r * D, mask=there, other=0.0).to(tl.float32)
        v = tl.load(v_in + v_at + r * v_row, mask=there, other=0.0).to(tl.float32)
        u_next, v_next, u_last, v_last = (), (), (), ()
        for m in tl.static_range(S):  # step m: row i from its neighbours i - 1 (old) and i + 1 (what has just come in)
            i = r - 1 - m
            first, last = i <= 0, i + 1 >= length
            f, g = _react(u_now[m], v_now[m], a, b, KINETICS)
            u_sides = tl.where(first, u_now[m], u_old[m]) + tl.where(last, u_now[m], u)
            v_sides = tl.where(first, v_now[m], v_old[m]) + tl.where(last, v_now[m], v)
            u_made = u_now[m] + du * (u_sides - 2 * u_now[m]) + dt * f
            v_made = v_now[m] + dv * (v_sides - 2 * v_now[m]) + dt * g
            u_last, v_last = u_last + (u_now[m],), v_last + (v_now[m],)
            u_next, v_next = u_next + (u,), v_next + (v,)
            u, v = u_made, v_made
        u_old, v_old, u_now, v_now = u_last, v_last, u_next, v_next
        i = r - S
        wanted = inside & (i >= start) & (i < stop)
        tl.store(u_out + at + i * D, u, mask=wanted)
        if TEXT:
            tl.store(v_out + at + i * D, v, mask=wanted)
    for i in range(tl.maximum(start, length), tl.minimum(start + chunk, T)):
        tl.store(u_out + at + i * D, zero, mask=inside)
        if TEXT:
            tl.store(v_out + at + i * D, zero, mask=inside)


@triton.jit
def backward_kernel(
    u_in, v_in, lengths, rates, u_grad, v_grad, u_back, v_back, rates_back, T, D, dt, chunk, repeated,
    S: tl.constexpr, KINETICS: tl.constexpr, TEXT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < D
    batch = tl.program_id(2).to(tl.int64)
    start = tl.program_id(1) * chunk
    length = tl.load(lengths + batch).to(tl.int32)
    stop = tl.minimum(start + chunk, length)
    du = dt * tl.load(rates + channel, mask=inside, other=0.0)
    dv = dt * tl.load(rates + D + channel, mask=inside, other=0.0)
    a = tl.load(rates + 2 * D + channel, mask=inside, other=0.0)
    b = tl.load(rates + 3 * D + channel, mask=inside, other=0.0)
    at = batch * T * D + channel
    v_at, v_row = at, D
    if repeated:
        v_at, v_row = batch * D + channel, 0
    zero, none = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.int32)
    u_old, u_now, v_old, v_now = (zero,) * S, (zero,) * S, (zero,) * S, (zero,) * S
    p_old, p_now, q_old, q_now = (zero,) * S, (zero,) * S, (zero,) * S, (zero,) * S
    u_line, v_line = (zero,) * (S * (S - 1) + 1), (zero,) * (S * (S - 1) + 1)  # one more, so that it is never empty
    to_du, to_dv, to_a, to_b, to_v = zero, zero, zero, zero, zero
    for step in range(start - 2 * S, tl.where(start < length, stop + 2 * S - 2, start - 2 * S)):
        r = step + none
        there = inside & (r >= 0) & (r < length)
        u = tl.load(u_in + at + r * D, mask=there, other=0.0).to(tl.float32)
        v = tl.load(v_in + v_at + r * v_row, mask=there, other=0.0).to(tl.float32)
        u_next, v_next, u_last, v_last, u_wait, v_wait, u_due, v_due = (), (), (), (), (), (), (), ()
        for m in tl.static_range(S):
            # State m of row r - m enters its line, and that of row r - 2 (S - 1) + m leaves it. The line has the places
            # from m (2 S - 1 - m) to (m + 1) (2 S - 2 - m) - 1 of all; that of the last state has none.
            if m == S - 1:
                u_due, v_due = u_due + (u,), v_due + (v,)
            else:
                u_due = u_due + (u_line[(m + 1) * (2 * S - 2 - m) - 1],)
                v_due = v_due + (v_line[(m + 1) * (2 * S - 2 - m) - 1],)
                u_wait, v_wait = u_wait + (u,), v_wait + (v,)
                for k in tl.static_range(m * (2 * S - 1 - m), (m + 1) * (2 * S - 2 - m) - 1):
                    u_wait, v_wait = u_wait + (u_line[k],), v_wait + (v_line[k],)
            i = r - 1 - m
            first, last = i <= 0, i + 1 >= length
            f, g = _react(u_now[m], v_now[m], a, b, KINETICS)
            u_sides = tl.where(first, u_now[m], u_old[m]) + tl.where(last, u_now[m], u)
            v_sides = tl.where(first, v_now[m], v_old[m]) + tl.where(last, v_now[m], v)
            u_made = u_now[m] + du * (u_sides - 2 * u_now[m]) + dt * f
            v_made = v_now[m] + dv * (v_sides - 2 * v_now[m]) + dt * g
            u_last, v_last = u_last + (u_now[m],), v_last + (v_now[m],)
            u_next, v_next = u_next + (u,), v_next + (v,)
            u, v = u_made, v_made
        u_old, v_old, u_now, v_now = u_last, v_last, u_next, v_next
        u_line, v_line = u_wait + (zero,), v_wait + (zero,)

        j = r - S + 2
        there = inside & (j >= 0) & (j < length)
        p = tl.load(u_grad + at + j * D, mask=there, other=0.0).to(tl.float32)
        q = zero
        if TEXT:
            q = tl.load(v_grad + at + j * D, mask=there, other=0.0).to(tl.float32)
        p_next, q_next, p_last, q_last = (), (), (), ()
        for back in tl.static_range(S):
            i = r - (S - 1) - back  # of state and step S - 1 - back
            first, last = i <= 0, i + 1 >= length
            p_lap = tl.where(first, p_now[back], p_old[back]) + tl.where(last, p_now[back], p) - 2 * p_now[back]
            q_lap = tl.where(first, q_now[back], q_old[back]) + tl.where(last, q_now[back], q) - 2 * q_now[back]
            u, v = u_due[S - 1 - back], v_due[S - 1 - back]
            by_u, by_v, by_a, by_b = _react_adjoint(u, v, a, b, p_now[back], q_now[back], KINETICS)
            ours = (i >= start) & (i < stop)
            to_du += tl.where(ours, u * p_lap, 0.0)  # over all rows the same as p Lap u: Lap is symmetric
            to_dv += tl.where(ours, v * q_lap, 0.0)
            to_a += tl.where(ours, by_a, 0.0)
            to_b += tl.where(ours, by_b, 0.0)
            p_last, q_last = p_last + (p_now[back],), q_last + (q_now[back],)
            p_next, q_next = p_next + (p,), q_next + (q,)
            p, q = p_now[back] + du * p_lap + dt * by_u, q_now[back] + dv * q_lap + dt * by_v
        p_old, q_old, p_now, q_now = p_last, q_last, p_next, q_next
        i = r - 2 * (S - 1)
        wanted = inside & (i >= start) & (i < stop)
        tl.store(u_back + at + i * D, p, mask=wanted)
        if repeated:
            to_v += tl.where(wanted, q, 0.0)
        else:
            tl.store(v_back + at + i * D, q, mask=wanted)
    for i in range(tl.maximum(start, length), tl.minimum(start + chunk, T)):
        tl.store(u_back + at + i * D, zero, mask=inside)
        if not repeated:
            tl.store(v_back + at + i * D, zero, mask=inside)
    part = batch * tl.num_programs(1) + tl.program_id(1)
    tl.store(rates_back + (4 * part) * D + channel, dt * to_du, mask=inside)
    tl.store(rates_back + (4 * part + 1) * D + channel, dt * to_dv, mask=inside)
    tl.store(rates_back + (4 * part + 2) * D + channel, dt * to_a, mask=inside)
    tl.store(rates_back + (4 * part + 3) * D + channel, dt * to_b, mask=inside)
    if repeated:
        tl.store(v_back + part * D + channel, to_v, mask=inside)
