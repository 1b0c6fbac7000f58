"""Bootstrap intervals over videos: against the normal theory, and of every number that is printed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdmf.pipeline.evaluation.evaluate import evaluate_files
from rdmf.pipeline.evaluation.headline import headline
from rdmf.pipeline.evaluation.intervals import bootstrap_means, intervals, percentiles, resampled_means


def test_a_bootstrap_interval_matches_the_normal_one_for_independent_queries() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0.6, 0.2, (2000, 1))
    low, high = bootstrap_means(values, np.arange(2000), resamples=2000)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert low[0] == pytest.approx(values.mean() - half, abs=half / 10)
    assert high[0] == pytest.approx(values.mean() + half, abs=half / 10)


def test_repeating_every_query_of_a_video_does_not_narrow_the_interval() -> None:
    values = np.random.default_rng(2).random((300, 1))
    videos = np.arange(300)
    once = bootstrap_means(values, videos)
    twice = bootstrap_means(np.repeat(values, 2, axis=0), np.repeat(videos, 2))
    np.testing.assert_allclose(once, twice, atol=1e-12)


def test_intervals_leave_out_queries_that_do_not_count() -> None:
    values = np.array([[1.0, np.nan], [1.0, np.nan], [np.nan, np.nan]])
    low, high = bootstrap_means(values, np.array(["a", "b", "c"]))
    assert (low[0], high[0]) == (1.0, 1.0)
    assert np.isnan(low[1])
    assert np.isnan(high[1])


def test_intervals_cover_the_truth_as_often_as_they_say_when_queries_of_a_video_are_alike() -> None:
    rng = np.random.default_rng(3)
    covered, naive = [], []
    for i in range(400):
        videos = np.repeat(np.arange(100), rng.integers(1, 6, 100))
        values = rng.normal(0, 1, 100)[videos] + rng.normal(0, 1, len(videos))
        low, high = bootstrap_means(values[:, None], videos, resamples=400, seed=i)
        covered.append(low[0] <= 0 <= high[0])
        naive.append(abs(values.mean()) <= 1.96 * values.std() / np.sqrt(len(values)))
    assert 0.90 <= np.mean(covered) <= 0.98
    assert np.mean(naive) < 0.88  # queries taken for independent draws


def test_a_number_s_resamples_are_the_same_whatever_else_is_resampled_with_it() -> None:
    rng = np.random.default_rng(5)
    values, videos = rng.random((50, 3)), rng.integers(0, 20, 50)
    alone = resampled_means(values[:, :1], videos, 100, seed=7)
    np.testing.assert_allclose(resampled_means(values, videos, 100, seed=7)[:, :1], alone, atol=1e-15)
    assert not np.array_equal(resampled_means(values[:, :1], videos, 100, seed=8), alone)
    assert np.isnan(percentiles(np.full((10, 2), np.nan))).all()


def test_one_video_gives_a_value_and_no_interval() -> None:
    columns = {"a": np.array([0.0, 1.0, np.nan]), "b": np.array([0.0, 1.0, 1.0])}
    found = intervals(columns, np.array(["x", "x", "y"]))
    assert found["a"] == {"value": 0.5, "low": None, "high": None}
    assert found["b"]["low"] is not None
    assert intervals({}, np.array([])) == {}


@pytest.mark.shared
def test_every_headline_number_has_its_interval(shared: Path) -> None:
    folder = shared / "predictions" / "qvhighlights_val" / "cg_detr_best"
    results = evaluate_files(
        folder / "preds.jsonl", shared / "annotations/qvhighlights/highlight_val_release.jsonl", resamples=200
    )
    shown = headline(results)
    assert list(shown) == ["R1@0.5", "R1@0.7", "mIoU", "mAP", "HL-mAP", "Hit@1"]
    for text in shown.values():
        value, low, high = (float(part.strip("[],")) for part in text.split())
        assert low < value < high
    brief, found = results.metrics["brief"], results.rdmf["intervals"]
    for key, name in {
        "MR-full-R1@0.3": "R1@0.3", "MR-full-R1@0.5": "R1@0.5", "MR-full-R1@0.7": "R1@0.7", "MR-full-mAP": "mAP",
        "MR-full-mAP@0.5": "mAP@0.5", "MR-full-mAP@0.75": "mAP@0.75", "MR-full-mIoU": "mIoU",
        "MR-short-mAP": "mAP-short", "MR-middle-mAP": "mAP-middle", "MR-long-mAP": "mAP-long",
        **{f"HL-min-{level}-{m}": f"HL-{level}-{m}" for level in ("Fair", "Good", "VeryGood") for m in ("mAP", "Hit1")},
    }.items():  # fmt: skip
        interval = found[name]
        assert brief.pop(key) == pytest.approx(100 * interval["value"], abs=0.0051)
        assert interval["low"] < interval["value"] < interval["high"]
    assert not brief  # no number of the summary is without one
