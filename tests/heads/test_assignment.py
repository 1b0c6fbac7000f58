"""Assignment against scipy on costs of every kind, its structure on costs that are none, and torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rdmf.heads.assignment import METHOD_OF_DEVICE, METHODS, assign, assign_batched

SIZES = [(1, 1), (1, 4), (2, 2), (3, 7), (5, 3), (10, 5), (25, 25), (40, 10), (20, 25), (300, 5), (100, 25)]  # Q, N


def random_signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1


def random_range(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return random_signs(shape, generator) * 10 ** (torch.rand(shape, generator=generator) * 60 - 30)


def forbidden(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    costs = torch.rand(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.5, 1e30, costs)


def copies(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Every query and every span several times."""
    b, q, n = shape
    costs = torch.randn(b, (q + 2) // 3, (n + 1) // 2, generator=generator)
    return costs.repeat(1, 3, 2)[:, :q, :n].contiguous()


def chains(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """All spans prefer the same query, then the same next one: every new span moves those before it."""
    _, q, n = shape
    place = torch.arange(q)[:, None] * torch.arange(n, 0, -1.0)
    return place.expand(shape) + torch.randint(0, 2, shape, generator=generator)


# Sums of these costs are exact in float64, so nothing less than the very same total will do.
EXACT: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "normal": lambda shape, generator: (torch.randn(shape, generator=generator) * 2**20).round() / 2**20,
    "negative": lambda shape, generator: -torch.randint(0, 2**20, shape, generator=generator) / 2**16,
    "few values": lambda shape, generator: torch.randint(0, 3, shape, generator=generator).float(),
    "lattice": lambda shape, generator: torch.randint(-50, 50, shape, generator=generator).float(),
    "equal": lambda shape, generator: torch.full(shape, 0.7),
    "copies": lambda shape, generator: (copies(shape, generator) * 2**20).round() / 2**20,
    "chains": chains,
    "products": lambda shape, generator: chains(shape, generator).flip(2) * -1,
}
ROUNDED = {"range of 1e60": random_range, "forbidden": forbidden}


def chosen_costs(cost: Tensor, query: Tensor) -> list[float]:
    """What the matched spans of one sequence cost: cost [Q, N], query [N]."""
    return [float(cost[q, n]) for n, q in enumerate(query.tolist()) if q >= 0]


def check_valid(query: Tensor, mask: Tensor, queries: int) -> None:
    for row, own in zip(query, mask, strict=True):
        matched = row[row >= 0].tolist()
        assert len(matched) == len(set(matched)) == min(queries, int(own.sum()))
        assert max(matched, default=0) < queries
        assert (row[~own] == -1).all()


def some_mask(b: int, n: int, generator: torch.Generator) -> Tensor:
    """Full, empty, and anything between."""
    mask = torch.rand(b, n, generator=generator) < torch.linspace(0, 1, b)[:, None]
    return mask | (torch.arange(b) == b - 1)[:, None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", EXACT | ROUNDED)
def test_no_assignment_is_cheaper_than_scipys_nor_dearer(kind: str, size: tuple[int, int], method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    cost = (EXACT | ROUNDED)[kind]((6, *size), generator)
    mask = some_mask(6, size[1], generator)
    query = assign(cost, mask, method)
    assert query.dtype == torch.long
    check_valid(query, mask, size[0])
    for b in range(6):
        own = mask[b].nonzero()[:, 0]
        table = cost[b, :, own].double().numpy()
        expected, found = table[linear_sum_assignment(table)].tolist(), chosen_costs(cost[b], query[b])
        largest = max(map(abs, expected + found), default=0.0)
        tolerance = 0 if kind in EXACT else 1e-13 * largest
        assert abs(math.fsum(found) - math.fsum(expected)) <= tolerance


def test_the_order_of_the_true_spans_and_padding_between_them_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(1)
    cost = torch.randn(4, 9, 6, generator=generator)
    mask = some_mask(4, 6, generator)
    order = torch.randperm(6, generator=generator)
    for method in METHODS:
        straight = assign(cost, mask, method)
        assert torch.equal(assign(cost[..., order], mask[:, order], method), straight[:, order])
        rubbish = cost.masked_fill(~mask[:, None], float("nan"))
        assert torch.equal(assign(rubbish, mask, method), straight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("share", [0.1, 0.9, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_costs_that_are_no_numbers_still_make_a_valid_assignment(bad: float, share: float, method: str) -> None:
    generator = torch.Generator().manual_seed(2)
    for queries, n in SIZES:
        cost, mask = torch.randn(5, queries, n, generator=generator), some_mask(5, n, generator)
        spoilt = cost.masked_fill(torch.rand(cost.shape, generator=generator) < share, bad)
        check_valid(assign(spoilt, mask, method), mask, queries)
        clean = cost.clone()
        clean[2] = bad  # one sequence has no say in another
        others = torch.arange(5) != 2
        assert torch.equal(assign(clean, mask, method)[others], assign(cost, mask, method)[others])


def test_a_query_that_is_nan_is_matched_so_that_the_loss_shows_it() -> None:
    for n in (1, 3):
        cost = torch.randn(1, 6, n)
        cost[0, 4] = float("nan")
        for method in METHODS:
            assert 4 in assign(cost, torch.ones(1, n, dtype=torch.bool), method)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_type_will_do(dtype: torch.dtype) -> None:
    cost, mask = torch.randn(3, 8, 4).to(dtype), torch.ones(3, 4, dtype=torch.bool)
    assert torch.equal(assign(cost, mask, "batched"), assign(cost.double(), mask, "host"))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_no_step_depends_on_what_a_tensor_holds(n: int) -> None:
    """Tensors of the meta device hold nothing: whatever reads a value or makes a shape of one fails."""
    cost, mask = torch.empty(3, 5, n, device="meta"), torch.empty(3, n, dtype=torch.bool, device="meta")
    assert assign_batched(cost, mask).shape == assign(cost, mask, "batched").shape == (3, n)


@pytest.mark.parametrize("method", METHODS)
def test_one_compilation_without_a_break_serves_every_number_of_spans(method: str) -> None:
    torch.compiler.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda cost, mask: assign(cost * 2, mask, method) + 1, fullgraph=True, backend=backend)
    for n in (2, 3, 4, 9):
        cost, mask = torch.randn(3, 6, n), some_mask(3, n, torch.Generator().manual_seed(n))
        assert torch.equal(compiled(cost, mask), assign(cost, mask, method) + 1)
    assert len(graphs) == 2  # the first number, then any


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_inductor_compiles_it(method: str) -> None:
    compiled = torch.compile(lambda cost, mask: assign(cost * 2, mask, method) + 1, fullgraph=True)
    for n in (1, 3, 4):
        cost, mask = torch.randn(3, 6, n), torch.ones(3, n, dtype=torch.bool)
        assert torch.equal(compiled(cost, mask), assign(cost, mask, method) + 1)


def test_the_method_is_that_of_the_device_or_refused() -> None:
    assert set(METHOD_OF_DEVICE.values()) <= set(METHODS)
    cost, mask = torch.randn(2, 5, 3), torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(assign(cost, mask), assign(cost, mask, METHOD_OF_DEVICE["cpu"]))
    with pytest.raises(ValueError, match="one of batched, host, got 'greedy'"):
        assign(cost, mask, "greedy")


def test_no_gradient_goes_through_it() -> None:
    cost = torch.randn(2, 5, 3, requires_grad=True)
    assert not assign(cost, torch.ones(2, 3, dtype=torch.bool), "batched").requires_grad
