"""What the report measures, by closed forms and by definitions: calibration, sharpness, smoothing, settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from rdmf.fuse.temporal_diffusion import diffuse_steps
from rdmf.manifests.schema import Manifest, Moment, Query, Video
from rdmf.pipeline.config import Config, parse_config
from rdmf.pipeline.evaluation.pairing import Pairs, pair
from rdmf.pipeline.evaluation.predictions import Prediction
from rdmf.pipeline.report.calibration import quantile_bins, reliability, spearman
from rdmf.pipeline.report.collect import collect
from rdmf.pipeline.report.sharpness import OFFSETS, REACH, around, sharpness, standardised
from rdmf.pipeline.report.smoothing import PLACES, Smoothing, places_of
from rdmf.pipeline.report.svg import ticks
from rdmf.pipeline.training.train import train

# Calibration


def first_windows(confidence: Sequence[float], iou: Sequence[float]) -> Pairs:
    """A query each whose first window has that confidence, and that IoU with its true window [0, 10]."""
    queries = tuple(Query(str(i), f"v{i}", "a sentence", "val", (Moment(0, 10),)) for i in range(len(iou)))
    predictions = [
        Prediction(q.qid, np.array([[0, 10 * overlap, c]]))
        for q, c, overlap in zip(queries, confidence, iou, strict=True)
    ]
    return pair(predictions, Manifest("mine", 2.0, {q.vid: Video(q.vid, 100.0) for q in queries}, queries))


def test_a_confidence_that_is_the_iou_has_no_error_and_full_rank_correlation() -> None:
    iou = np.linspace(0.05, 1, 200)
    found = reliability("mine", "c", [first_windows(iou, iou)], resamples=200)
    assert found is not None
    assert found.error == pytest.approx(0, abs=1e-12)
    assert found.gap == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.spearman == pytest.approx((1, 1, 1))
    np.testing.assert_allclose(found.confidence, found.iou, atol=1e-12)
    assert (np.diff(found.rank) > 0).all()
    assert found.r1 == pytest.approx((iou >= 0.5).mean())


@pytest.mark.parametrize("shift", [0.2, -0.2])
def test_a_confidence_off_by_a_constant_has_that_error_and_keeps_its_ranks(shift: float) -> None:
    iou = np.linspace(0.25, 0.75, 150)
    found = reliability("mine", "c", [first_windows(iou + shift, iou)], resamples=200)
    assert found is not None
    assert found.error == pytest.approx(abs(shift))
    assert found.gap == pytest.approx((shift, shift, shift))
    assert found.spearman is not None
    assert found.spearman[0] == pytest.approx(1)


def test_the_error_is_that_of_its_definition_and_intervals_hold_the_value() -> None:
    rng = np.random.default_rng(0)
    confidence, iou = rng.random(400), rng.random(400)
    found = reliability("mine", "c", [first_windows(confidence, iou)], resamples=500)
    assert found is not None
    bins = quantile_bins(confidence)
    parts = [np.abs(confidence[bins == b].mean() - iou[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    assert found.error == pytest.approx(sum(parts))
    assert found.spearman is not None
    assert found.spearman[0] == pytest.approx(scipy.stats.spearmanr(confidence, iou).statistic)
    assert found.spearman[1] < found.spearman[0] < found.spearman[2]
    assert (found.low <= found.iou).all()
    assert (found.iou <= found.high).all()


def test_rank_correlation_is_scipys_also_with_equal_values() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, 300).astype(float), rng.integers(0, 9, 300).astype(float)
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert spearman(a, np.ones(300)) is None


def test_bins_are_of_equal_size_and_hold_equal_values_together() -> None:
    assert (
        np.bincount(quantile_bins(np.random.default_rng(2).permutation(500.0 * np.arange(100)))).tolist() == [10] * 10
    )
    tied = np.array([0.0] * 60 + [1.0] * 40)
    bins = quantile_bins(tied)
    assert len(set(bins[:60])) == len(set(bins[60:])) == 1
    assert sorted(set(bins)) == [0, 1]


def test_scores_that_are_no_probabilities_have_ranks_and_no_error() -> None:
    iou = np.linspace(0, 1, 100)
    found = reliability("mine", "c", [first_windows(30 * iou - 20, iou)], resamples=200)
    assert found is not None
    assert found.error is found.gap is None
    assert found.spearman is not None
    assert found.spearman[0] == pytest.approx(1)


def test_of_a_few_windows_nothing_is_said() -> None:
    assert reliability("mine", "c", [first_windows([0.5] * 19, [0.5] * 19)]) is None


# Sharpness


def test_scores_that_are_the_truth_have_the_contrast_of_their_share() -> None:
    inside = np.zeros(50)
    inside[20:30] = 1
    z = standardised(3 * inside - 7)
    assert z is not None
    start, end, contrast = around(z, [Moment(40, 60)], 2.0)
    step = 1 / np.sqrt(0.2 * 0.8)  # two values, a fifth of them the higher one
    assert contrast == pytest.approx(step)
    assert start[REACH] - start[REACH - 1] == pytest.approx(step)
    assert end[REACH - 1] - end[REACH] == pytest.approx(step)
    np.testing.assert_allclose(start, z[20 + OFFSETS])


def test_other_windows_are_neither_outside_nor_inside_of_one() -> None:
    z = np.arange(30.0)
    start, end, _ = around(z, [Moment(10, 12), Moment(13, 20)], 1.0)
    # left of the second window there is one clip in no window; right of the first one the same
    before_first, before_second = z[[9]], z[[12]]
    assert start[REACH - 1] == pytest.approx(np.mean([*before_first, *before_second]))
    assert start[REACH - 2] == pytest.approx(8)  # of the second window, this clip is inside of the first
    assert end[REACH] == pytest.approx(np.mean([12, 20]))


def test_equal_scores_and_windows_without_clips_say_nothing() -> None:
    assert standardised(np.full(20, 0.3)) is None
    assert np.isnan(around(np.arange(5.0), [Moment(0, 5)], 1.0)[2]).all()
    assert np.isnan(around(np.arange(5.0), [Moment(40, 50)], 1.0)[0]).all()


# Smoothing


def test_the_spread_is_the_standard_deviation_of_a_diffused_clip() -> None:
    steps, dt, d = 40, 0.1, 0.5
    impulse = torch.zeros(1, 201, 1, dtype=torch.float64)
    impulse[0, 100] = 1
    diffused = diffuse_steps(impulse, torch.ones(1, 201, dtype=torch.bool), torch.tensor(d), dt, steps)[0, :, 0].numpy()
    variance = float((diffused * (np.arange(201) - 100) ** 2).sum())
    none = (0.0, 0.0, 0.0)
    smoothing = Smoothing("run", steps, dt, d, 1, {}, {}, none, none, none, None)
    assert smoothing.spread_clips**2 == pytest.approx(variance)


def test_a_step_is_inside_at_a_border_or_outside() -> None:
    centres = np.arange(8) + 0.5
    found = places_of(centres, [Moment(2, 5), Moment(5, 6)])
    assert found.tolist() == ["outside", "border", "inside", "inside", "border", "border", "outside"]


# Runs


@pytest.fixture(scope="module")
def runs(tiny_features: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One epoch each: as configured, without the IoU head, without temporal diffusion."""
    base = {"model": {"hidden": 16, "moment": {"queries": 10, "heads": 4}}, "training": {"batch": 8, "epochs": 1}}
    changes = {
        "full": {},
        "no_head": {"moment": {"queries": 10, "heads": 4, "iou": False}},
        "no_td": {"diffusion": {"steps": 0}},
    }
    out = {}
    for name, model in changes.items():
        config = parse_config({**base, "model": {**base["model"], **model}}, name)
        out[name] = tmp_path_factory.mktemp("runs") / name
        train(tiny_features, out[name], config)
    return out


def test_runs_are_opened_taken_apart_and_set_beside_each_other(runs: dict[str, Path]) -> None:
    report = collect([str(path) for path in runs.values()], resamples=100, paired_resamples=100)
    assert report.differences is not None
    assert report.differences.settings == ("TD", "IH")
    assert report.differences.values["no_td"] == {"TD": "no", "IH": "yes"}
    asked = [(each.system, each.of) for each in report.reliabilities]
    assert asked == [("full", "c"), ("full", "p"), ("full", "iou"), ("no_head", "c"), ("no_td", "c"), ("no_td", "p"),
                     ("no_td", "iou")]  # fmt: skip
    assert [each.run for each in report.smoothings] == ["full", "no_head"]
    for each in report.smoothings:
        assert set(each.raw) == set(PLACES)
        assert each.gain[0] == pytest.approx(each.diffused_ratio[0] - each.raw_ratio[0])
        # diffusion lessens the largest change; topics change at borders only, so it is there
        assert each.diffused["border"][0] < each.raw["border"][0]
        assert each.example is not None
        np.testing.assert_allclose(np.diag(each.example.raw_similarity), 1)
        assert len(each.example.raw) == len(each.example.raw_similarity) - 1


def test_settings_that_differ_are_named_as_in_the_paper(
    tiny_features: Path, tiny_config: Config, tmp_path: Path
) -> None:
    tree = tiny_config.model_dump()
    tree["training"] |= {"epochs": 1, "seed": 3}
    for steps in (3, 7):
        tree["model"]["fusion"]["steps"] = steps
        train(tiny_features, tmp_path / f"m{steps}", parse_config(tree, "steps"))
    report = collect([str(tmp_path / "m3"), str(tmp_path / "m7")], resamples=100, paired_resamples=100)
    assert report.differences is not None
    assert report.differences.settings == ("M",)
    assert report.differences.values == {"m3": {"M": "3"}, "m7": {"M": "7"}}


def test_annotators_are_the_sharpest(runs: dict[str, Path]) -> None:
    report = collect([str(runs["full"])], resamples=100)
    found = sharpness(report.judged, 100, 0)
    assert found is not None
    of_run, annotators = found.profiles
    assert annotators.system == "annotators"
    assert annotators.contrast[0] > of_run.contrast[0]
    assert report.comparison is None
    assert report.differences is None


# Charts


def test_ticks_are_round_and_within_the_axis() -> None:
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    for low, high in ((-0.37, 2.2), (0, 7e-5), (-20, 20), (0, 151.3)):
        found = ticks(low, high)
        assert 3 <= len(found) <= 8
        assert found[0] >= low - 1e-9 * abs(low)
        assert found[-1] <= high * (1 + 1e-9)
        np.testing.assert_allclose(np.diff(found), found[1] - found[0])
