"""Tests of significance against references, by hand, and against their own promise: one false alarm in twenty."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.pipeline.evaluation.intervals import resampled_means
from rdmf.pipeline.evaluation.significance import bootstrap_p, effect_size, holm, paired_t


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=40))
def test_the_t_test_is_scipy_s(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs).T
    if (a - b).std() < 1e-9:
        return
    expected = scipy.stats.ttest_rel(a, b)
    assert paired_t(a - b) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)


def test_equal_systems_differ_by_nothing_and_a_constant_difference_is_certain() -> None:
    assert paired_t(np.zeros(10)) == (0.0, 1.0)
    assert effect_size(np.zeros(10)) == 0.0
    assert paired_t(np.full(10, -0.25)) == (-np.inf, 0.0)
    assert paired_t(np.array([0.3])) == (0.0, 1.0)  # one query proves nothing
    assert bootstrap_p(np.zeros(1000)) == 1.0


def test_the_effect_size_is_the_mean_in_deviations() -> None:
    assert effect_size(np.array([1.0, 2.0, 3.0])) == 2.0
    assert effect_size(np.array([-1.0, 1.0])) == 0.0
    differences = np.random.default_rng(0).normal(0.2, 1, 50)
    t, _ = paired_t(differences)
    assert t == pytest.approx(effect_size(differences) * np.sqrt(50))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 0.01 x 3, 0.03 x 2, not below that
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_a_difference_that_is_not_there_is_found_one_time_in_twenty() -> None:
    """Simulated systems that are equally good, on videos of one to five queries that are alike."""
    rng = np.random.default_rng(1)
    found = {"bootstrap": 0, "t": 0, "interval": 0}
    runs = 800
    for i in range(runs):
        vid = np.repeat(np.arange(150), rng.integers(1, 6, 150))
        differences = rng.normal(0, 1, 150)[vid] + rng.normal(0, 1, len(vid))
        means = resampled_means(differences[:, None], vid, 600, seed=i)[:, 0]
        found["bootstrap"] += bootstrap_p(means) < 0.05
        found["t"] += paired_t(differences)[1] < 0.05
        low, high = np.quantile(means, [0.025, 0.975])
        found["interval"] += not low <= 0 <= high
    assert 0.030 < found["bootstrap"] / runs < 0.075
    assert abs(found["interval"] - found["bootstrap"]) / runs < 0.01  # the interval says what the p-value says
    assert found["t"] / runs > 0.12  # which is why the t-test alone decides nothing


def test_both_tests_keep_their_level_on_independent_queries_and_find_what_is_there() -> None:
    rng = np.random.default_rng(2)
    wrong, right, runs = np.zeros(2), np.zeros(2), 500
    vid = np.arange(200)
    for i in range(runs):
        for shift, found in ((0.0, wrong), (0.3, right)):
            a, b = rng.random(200) < 0.5 + shift / 2, rng.random(200) < 0.5 - shift / 2
            differences = a.astype(float) - b
            means = resampled_means(differences[:, None], vid, 500, seed=i)[:, 0]
            found += [bootstrap_p(means) < 0.05, paired_t(differences)[1] < 0.05]
    assert np.all((wrong / runs > 0.02) & (wrong / runs < 0.08))
    assert np.all(right / runs > 0.95)
