from __future__ import annotations

import torch
from torch import nn

from rdmf.pipeline.training.ema import RunningMean, decay_at


def moved(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator))


def test_the_mean_is_the_sum_of_all_weights_seen_with_the_weights_of_its_recursion():
    model = nn.Linear(3, 2).double()
    mean = RunningMean(model, 0.8)
    expected = model.weight.detach().clone()
    for step in range(1, 60):
        moved(model, step)
        mean.update(step)
        expected = decay_at(0.8, step) * expected + (1 - decay_at(0.8, step)) * model.weight.detach()
    torch.testing.assert_close(mean.model.weight, expected)


def test_the_decay_rises_to_the_one_asked_for():
    found = [decay_at(0.9, step) for step in range(1, 200)]
    assert found[0] < 0.2
    assert found == sorted(found)
    assert found[-1] == 0.9


def test_weights_that_stand_still_are_their_own_mean():
    model = nn.Linear(3, 2)
    mean = RunningMean(model, 0.99)
    moved(model, 0)
    for step in range(1, 5000):
        mean.update(step)
    torch.testing.assert_close(mean.model.weight, model.weight)


def test_without_decay_the_mean_is_the_model_itself():
    model = nn.Linear(3, 2)
    mean = RunningMean(model, 0.0)
    mean.update(1)
    assert mean.model is model


def test_buffers_are_copied_and_nothing_of_the_mean_learns():
    model = nn.BatchNorm1d(2)
    mean = RunningMean(model, 0.9)
    model(torch.randn(8, 2))
    mean.update(1)
    torch.testing.assert_close(mean.model.running_mean, model.running_mean)
    assert not any(p.requires_grad for p in mean.model.parameters())
