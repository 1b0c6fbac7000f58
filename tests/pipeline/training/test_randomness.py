from __future__ import annotations

import pytest
import torch

from rdmf.pipeline.training.parallel import World
from rdmf.pipeline.training.randomness import own_draws, random_state, repeatable, restore_random_state

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _draws_of_others_stay():
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


def test_draws_go_on_where_they_were():
    state = random_state(World(CPU))
    expected = torch.randn(5)
    torch.manual_seed(99)
    restore_random_state(state, World(CPU))
    assert torch.equal(torch.randn(5), expected)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_process_gets_its_own_state_back(rank):
    states, draws = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append(torch.get_rng_state())
        draws.append(torch.randn(5))
    restore_random_state({"rng.cpu": torch.stack(states)}, World(CPU, rank, 3))
    assert torch.equal(torch.randn(5), draws[rank])


def test_a_process_that_was_not_there_before_draws_what_it_would_have_drawn():
    state = random_state(World(CPU))
    torch.manual_seed(4)
    expected = torch.randn(5)
    torch.manual_seed(4)
    restore_random_state(state, World(CPU, rank=1, size=2))
    assert torch.equal(torch.randn(5), expected)


def test_process_0_draws_as_if_it_were_alone_and_the_others_something_else():
    draws = []
    for rank, size in ((0, 1), (0, 3), (1, 3), (2, 3)):
        torch.manual_seed(7)
        own_draws(World(CPU, rank, size), 7)
        draws.append(torch.randn(5))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])
    assert not torch.equal(draws[2], draws[3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_draws_go_on_and_settings_are_put_back():
    world = World(torch.device("cuda", 0))
    before = torch.are_deterministic_algorithms_enabled()
    with repeatable(world.device):
        assert torch.are_deterministic_algorithms_enabled()
        state = random_state(world)
        expected = torch.randn(5, device=world.device)
        restore_random_state(state, world)
        assert torch.equal(torch.randn(5, device=world.device), expected)
    assert torch.are_deterministic_algorithms_enabled() == before
