"""Numbers by group of queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.evaluation.columns import columns, mean
from rdmf.pipeline.evaluation.evaluate import evaluate, evaluate_files
from rdmf.pipeline.evaluation.groups import GROUPINGS, by_group, groups_of
from rdmf.pipeline.evaluation.per_query import per_query
from rdmf.pipeline.evaluation.predictions import Prediction


def case() -> tuple[Manifest, list[Prediction]]:
    rng = np.random.default_rng(0)
    queries, predictions = [], []
    for i in range(24):
        starts = rng.integers(0, 20, i % 4)
        windows = tuple(Moment(float(s), float(s + rng.integers(2, 40))) for s in starts)
        saliency = Saliency((1, 2), ((4.0,), (3.0,)))
        queries.append(Query(str(i), f"v{i % 9}", "a dog runs", "val", windows, saliency))
        listed = np.sort(rng.uniform(0, 60, (5, 2)), axis=1)
        predictions.append(Prediction(str(i), np.column_stack([listed, rng.random(5)]), rng.random(30)))
    return Manifest("mine", 2.0, {f"v{i}": Video(f"v{i}", 60.0) for i in range(9)}, tuple(queries)), predictions


def test_a_group_s_numbers_are_those_of_an_evaluation_of_its_queries_alone() -> None:
    truth, predictions = case()
    table = per_query(predictions, truth, protocol="qvhighlights")
    groups = ["even" if i % 2 == 0 else "odd" for i in range(24)]
    found = by_group(table, groups, resamples=200, seed=3)
    assert list(found) == ["even", "odd"]
    for name, start in (("even", 0), ("odd", 1)):
        alone = Manifest("mine", 2.0, truth.videos, truth.queries[start::2])
        expected = evaluate(predictions[start::2], alone, "qvhighlights", resamples=200, seed=3)
        assert found[name].numbers == expected.numbers
        assert found[name].intervals == expected.rdmf["intervals"]
        assert (found[name].queries, found[name].videos) == (12, expected.rdmf["counts"]["videos"])


def test_groups_together_are_the_whole() -> None:
    truth, predictions = case()
    table = per_query(predictions, truth, protocol="qvhighlights")
    for by in GROUPINGS:
        groups, order = groups_of(truth.queries, np.full(24, 60.0), by)
        found = by_group(table, groups, order, resamples=0)
        assert sum(numbers.queries for numbers in found.values()) == 24
        assert [name for name in order if name in found] == [name for name in found if name in order]
        hits = sum(numbers.queries * (numbers.numbers["HL-VeryGood-Hit1"] or 0) for numbers in found.values())
        assert hits / 24 == pytest.approx(mean(columns(table)["HL-VeryGood-Hit1"]))


def test_a_group_without_a_query_that_counts_has_no_number() -> None:
    truth, predictions = case()
    groups, order = groups_of(truth.queries, np.full(24, 60.0), "windows")
    found = by_group(per_query(predictions, truth, protocol="qvhighlights"), groups, order, resamples=10)
    assert found["no window"].numbers["mIoU"] is None
    assert found["no window"].intervals["mIoU"] == {"value": None, "low": None, "high": None}
    assert found["no window"].numbers["HL-Fair-mAP"] is not None


def test_every_grouping_says_what_it_means() -> None:
    def query(*windows: tuple[float, float], kind: str | None = None, text: str = "a man cooks") -> Query:
        return Query("q", "v", text, "val", tuple(Moment(*w) for w in windows), kind=kind)

    def group(by: str, query: Query, duration_s: float = 60.0) -> str:
        return groups_of([query], np.array([duration_s]), by)[0][0]

    assert [group("length", query((0, s))) for s in (10, 11, 30, 31, 150, 151)] == [
        "short", "middle", "middle", "long", "long", "over 150 s",
    ]  # fmt: skip
    assert group("length", query((0, 5), (10, 30))) == "mixed"
    assert group("length", query((0, 5), (10, 12))) == "short"
    assert group("length", query()) == "no window"
    counts = [group("windows", query(*[(i, i + 1) for i in range(n)])) for n in (0, 1, 2, 4, 5, 25)]
    assert counts == ["no window", "1 window", "2 to 4", "2 to 4", "5 or more", "5 or more"]
    found = [group("duration", query(), s) for s in (30, 30.1, 60, 120, 150, 300, 301, np.nan)]
    assert found == [
        "up to 30 s", "30 to 60 s", "30 to 60 s", "1 to 2 min", "2 to 3 min", "3 to 5 min", "over 5 min", "unknown",
    ]  # fmt: skip
    assert group("kind", query(kind="scene")) == "scene"  # as annotated
    assert group("kind", query(text="view of the beach at sunset")) == "scene"  # as read
    for by, (_, order) in GROUPINGS.items():
        assert len(set(order)) == len(order) > 2, by


def test_what_does_not_fit_is_refused() -> None:
    truth, predictions = case()
    with pytest.raises(ValueError, match="a group for each of the 24 queries, got 2"):
        by_group(per_query(predictions, truth, protocol="qvhighlights"), ["a", "b"])
    with pytest.raises(ValueError, match="a grouping of length, windows, duration, kind, got 'colour'"):
        evaluate(predictions, truth, by=["colour"])


@pytest.mark.shared
def test_published_predictions_find_single_long_moments_best(shared: Path) -> None:
    """Known of these models: short moments and many windows are hard (their own papers' mAP by length says so)."""
    folder = shared / "predictions" / "qvhighlights_val" / "cg_detr_best"
    results = evaluate_files(
        folder / "preds.jsonl", shared / "annotations/qvhighlights/highlight_val_release.jsonl",
        by=("length", "windows"), resamples=0,
    )  # fmt: skip
    groups = results.rdmf["groups"]
    assert groups["length"]["short"]["numbers"]["mAP"] < groups["length"]["long"]["numbers"]["mAP"]
    by_windows = [groups["windows"][name]["numbers"]["mAP"] for name in ("1 window", "2 to 4", "5 or more")]
    assert by_windows == sorted(by_windows, reverse=True)
    assert [groups["windows"][name]["queries"] for name in ("1 window", "2 to 4", "5 or more")] == [1020, 434, 96]
