from __future__ import annotations

import math

import pytest

from rdmf.pipeline.config import TrainingConfig
from rdmf.pipeline.training.schedules import SCHEDULES, learning_rate

STEPS = 7  # of an epoch


def rates(**settings) -> list[float]:
    training = TrainingConfig(lr=0.5, **{"epochs": 10, **settings})
    return [learning_rate(training, step, STEPS) for step in range(1, STEPS * training.epochs + 1)]


def test_a_constant_rate_is_constant():
    assert set(rates()) == {0.5}


def test_warm_up_rises_in_equal_parts_to_the_rate_and_stays():
    assert rates(warmup_steps=4)[:6] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


def test_cosine_is_half_way_down_in_the_middle_and_at_0_at_the_end():
    found = rates(schedule="cosine")
    assert found[34] == pytest.approx(0.25)  # step 35 of 70
    assert found[-1] == pytest.approx(0, abs=1e-12)
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(0.5 * (1 + math.cos(math.pi / 70)) / 2)


def test_step_falls_by_its_factor_at_the_first_step_after_every_span_of_epochs():
    found = rates(schedule="step", step_epochs=3, step_factor=0.1)
    assert found == pytest.approx([0.5] * 21 + [0.05] * 21 + [0.005] * 21 + [0.0005] * 7)


def test_warm_up_and_schedule_multiply():
    assert rates(schedule="cosine", warmup_steps=10)[4] == pytest.approx(rates(schedule="cosine")[4] / 2)


def test_every_schedule_of_the_settings_exists():
    literal = TrainingConfig.model_fields["schedule"].annotation
    assert set(SCHEDULES) == set(literal.__args__)
