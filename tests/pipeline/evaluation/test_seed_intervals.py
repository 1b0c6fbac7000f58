"""Intervals over seeds and queries: closed forms, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from rdmf.pipeline.evaluation.intervals import bootstrap_means
from rdmf.pipeline.evaluation.seed_intervals import estimate


def draw(rng: np.random.Generator, seeds: int, videos: int, of_seed: float) -> tuple[np.ndarray, np.ndarray]:
    """Queries three a video whose mean is 0, with effects of seed, video and query."""
    vid = np.repeat(np.arange(videos), 3)
    effects = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, 0.2, videos)[vid]
    return (effects + rng.normal(0, 0.3, (seeds, len(vid))))[:, :, None], vid


def test_where_only_seeds_differ_the_interval_and_p_are_those_of_the_t_test_over_seeds():
    per_seed = np.array([0.1, 0.3, 0.2, 0.5])
    values = np.repeat(per_seed[:, None, None], 12, axis=1)
    found = estimate(values, np.repeat(np.arange(4), 3))
    expected = ttest_1samp(per_seed, 0)
    low, high = expected.confidence_interval(0.95)
    assert found.p[0] == pytest.approx(expected.pvalue)
    assert (found.low[0], found.high[0]) == pytest.approx((low, high))
    assert found.deviation[0] == pytest.approx(per_seed.std(ddof=1))


def test_where_only_videos_differ_the_interval_is_nearly_that_of_the_t_test_over_videos():
    rng = np.random.default_rng(0)
    of_video = rng.normal(0.1, 1, 50)
    values = np.repeat(of_video, 2)[None, :, None].repeat(3, axis=0)
    found = estimate(values, np.repeat(np.arange(50), 2), resamples=20_000)
    low, high = ttest_1samp(of_video, 0).confidence_interval(0.95)
    assert found.deviation[0] == 0
    assert found.high[0] - found.low[0] == pytest.approx(high - low, rel=0.03)


@pytest.mark.parametrize("of_seed", [0.0, 0.05, 0.15])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(of_seed):
    rng, trials = np.random.default_rng(4), 600
    holds = queries_alone = 0
    for trial in range(trials):
        values, vid = draw(rng, 5, 40, of_seed)
        found = estimate(values, vid, resamples=200, seed=trial)
        holds += bool(found.low[0] <= 0 <= found.high[0])
        low, high = bootstrap_means(values.mean(0), vid, 200, trial)
        queries_alone += bool(low[0] <= 0 <= high[0])
    assert 0.91 < holds / trials < 0.985  # 0.945 less three standard errors; noise counts twice, so more than 0.95
    if of_seed == 0.15:
        assert queries_alone / trials < 0.7  # what comes of leaving the seeds out


def test_queries_that_do_not_count_are_left_out_and_a_number_that_nobody_has_is_nan():
    rng = np.random.default_rng(1)
    values, vid = draw(rng, 2, 10, 0.1)
    padded = np.concatenate([values, np.full_like(values, np.nan)], axis=2)
    padded[:, :9, 0] = np.nan
    found, rest = estimate(padded, vid), estimate(values[:, 9:], vid[9:])
    assert found.mean[0] == pytest.approx(rest.mean[0])
    assert found.deviation[0] == pytest.approx(rest.deviation[0])
    assert np.isnan(found.mean[1])
    assert np.isnan(found.low[1])


def test_one_video_has_no_interval_and_no_difference_at_all_is_certain():
    values, vid = draw(np.random.default_rng(2), 3, 1, 0.1)
    found = estimate(values, vid)
    assert np.isnan(found.low[0])
    assert found.p[0] == 1
    nothing = estimate(np.zeros((3, 12, 1)), np.repeat(np.arange(4), 3))
    assert (nothing.low[0], nothing.high[0], nothing.p[0]) == (0, 0, 1)
