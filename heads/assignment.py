"""One-to-one assignment of least total cost, exact, for a whole batch, without leaving the device.

Successive shortest augmenting paths (Tomizawa, 1971; Jonker & Volgenant, 1987). The spans enter one at a time. A new
span takes a query; if another span holds it, that one moves on to another query, and so forth until one takes a free
query. The cheapest such chain is a shortest path through the spans that are in: a graph of at most N nodes, whatever Q
is. With duals u of spans and v of queries a move of span n to query q costs
    c[n, q] - u[n] - v[q] >= 0,    and 0 where n holds q, so v[q] = c[n, q] - u[n]: only u is kept.
Bellman-Ford finds the path in i - 1 rounds for i spans. Shapes and the number of steps depend on N alone, so nothing
waits for the host and a CUDA graph can capture it.

It is one-to-one whatever the costs are, NaN and infinity too: they are bounded to +-FAR first. A loop of predecessors
would need a negative move, and those that rounding makes are clamped to 0; this holds in floating point because adding
what is not negative never makes a number smaller. It is exact: sums are float64, and those of float32 costs do not
round while the largest is below 2^29 times the smallest cost but 0. Beyond that the total is least up to rounding, as
scipy's is.

To torch.compile each method is one opaque operator. Traced, the loops unroll: on a CPU, N = 5 took 13 s to compile,
N = 8 took 45 s, and every N anew.

Dimensions: B sequences, Q queries, N true spans, C = max(Q, N) queries and stand-ins, i spans that are in.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

FAR = 1e60  # above all of float32; sums of it stay finite


def assign(cost: Tensor, mask: Tensor, method: str | None = None) -> Tensor:
    """The query of every true span: int64 [B, N], -1 where it has none.

    cost [B, Q, N], any float type; mask bool [B, N], True = a true span, in any order. Where a sequence has more spans
    than queries, the best Q of them are matched. Which of several best assignments is found depends on the method. NaN
    counts as the lowest cost, as in argmin: what has diverged is matched, and seen in the loss. `method` is 'batched',
    'host' (not in a CUDA graph), or None: the faster one on this device.
    """
    cost = cost.detach()
    if cost.shape[2] == 1:  # nobody competes
        return cost.argmin(1).masked_fill(~mask, -1)
    method = method or METHOD_OF_DEVICE.get(cost.device.type, "host")
    if method not in METHODS:
        raise ValueError(f"expected the method of assignment to be one of {', '.join(METHODS)}, got {method!r}")
    return METHODS[method](cost, mask)


def bounded(cost: Tensor) -> Tensor:
    """Costs in float64 without NaN and infinity."""
    return cost.double().nan_to_num(nan=-FAR).clamp(-FAR, FAR)


def assign_on_host(cost: Tensor, mask: Tensor) -> Tensor:
    """`assign` by scipy, sequence by sequence; the costs reach the host in one transfer."""
    costs, spans = bounded(cost.cpu()).numpy(), mask.cpu().numpy()
    query = np.full(spans.shape, -1)
    for b, own in enumerate(map(np.flatnonzero, spans)):
        rows, columns = linear_sum_assignment(costs[b][:, own])
        query[b, own[columns]] = rows
    return torch.from_numpy(query).to(cost.device)


def assign_batched(cost: Tensor, mask: Tensor) -> Tensor:
    """`assign` by augmenting paths, all sequences at once."""
    queries, n = cost.shape[1:]
    table, free = with_stand_ins(bounded(cost.mT), mask)
    column_ids = torch.arange(free.shape[2] - 1, device=cost.device)
    column = mask.new_zeros(len(mask), n + 1, dtype=torch.long)  # what span n holds; the last one is a bin
    u = table.new_zeros(mask.shape)
    for i in range(n):
        cheapest, nearest = free[:, : i + 1].min(-1)  # of the free columns, for the spans in and the new one: [B, i+1]
        price = table.gather(2, column[:, None, :i].expand(-1, i + 1, -1))  # [B, i+1, i]: ... of what span j holds
        v = price.diagonal(dim1=1, dim2=2) - u[:, :i]
        steps = (price[:, :i] - u[:, :i, None] - v[:, None]).clamp(min=0)
        distance, came_from = shortest_paths(price[:, i] - v, steps)

        leave = torch.cat((distance + (cheapest[:, :i] - u[:, :i]).clamp(min=0), cheapest[:, i:]), 1)
        length, end = leave.min(1, keepdim=True)  # [B, 1]
        u[:, :i] += (length - distance).clamp(min=0)
        u[:, i : i + 1] = length

        # Back along the path every span hands on what it holds. Doubling lists it in log2(i) steps; before the new
        # span there is the bin.
        taken, path, back = nearest.gather(1, end), end, F.pad(came_from, (0, n + 1 - i), value=n)
        for _ in range(i.bit_length()):
            path, back = torch.cat((path, back.gather(1, path)), 1), back.gather(1, back)
        column.scatter_(1, path, torch.cat((taken, column.gather(1, path[:, :-1])), 1))
        free[..., :-1].masked_fill_((column_ids == taken)[:, None], torch.inf)
    column = column[:, :n]
    return column.masked_fill(column >= queries, -1)


def with_stand_ins(table: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Costs [B, N, Q] -> [B, N, C + 1] twice, the second with infinity where a column cannot be had.

    Of more spans than queries, those left over share as many stand-ins at no cost: all are taken, so they choose
    nothing. A masked span can have the last column alone, which everybody may hold.
    """
    n, queries = table.shape[1:]
    table = F.pad(table, (0, max(0, n - queries) + 1))
    last = table.shape[2] - 1
    columns = torch.arange(last + 1, device=table.device)
    table = table.masked_fill(torch.where(mask[..., None], columns == last, columns < last), torch.inf)
    exists = (columns < mask.sum(1, keepdim=True).clamp(min=queries)) | (columns == last)  # [B, C + 1]
    return table, table.masked_fill(~exists[:, None], torch.inf)


def shortest_paths(distance: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Bellman-Ford from a source: its steps [B, i], all others' [B, i, i] >= 0 -> lengths and predecessors [B, i].

    Predecessor i is the source.
    """
    i = distance.shape[1]
    came_from = torch.full_like(distance, i, dtype=torch.long)
    for _ in range(i - 1):
        nearer, through = (distance[:, :, None] + steps).min(1)
        came_from = torch.where(nearer < distance, through, came_from)
        distance = torch.minimum(distance, nearer)
    return distance, came_from


LIBRARY = torch.library.Library("rdmf", "FRAGMENT")
for _name, _function in (("assign_batched", assign_batched), ("assign_on_host", assign_on_host)):
    LIBRARY.define(f"{_name}(Tensor cost, Tensor mask) -> Tensor")
    LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(
        f"rdmf::{_name}", lambda cost, mask: torch.empty_like(mask, dtype=torch.long), lib=LIBRARY
    )

METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "batched": torch.ops.rdmf.assign_batched,
    "host": torch.ops.rdmf.assign_on_host,
}
METHOD_OF_DEVICE = {"cuda": "batched", "cpu": "host"}
"""The faster one: on the CPU as measured (benchmarks/matching.py), on CUDA by the wait for the host that it saves. Any
other device asks the host: not all have float64."""
