"""The tables of an ablation from known per-query numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rdmf.manifests.schema import Manifest, Moment, Query, Video
from rdmf.pipeline.comparison.seeds import over_runs
from rdmf.pipeline.evaluation.columns import columns
from rdmf.pipeline.evaluation.evaluate import Results, evaluate
from rdmf.pipeline.evaluation.predictions import Prediction
from rdmf.pipeline.experiments.ablation_tables import Row, markdown, problems, stacked, stacked_differences, tabulate
from rdmf.pipeline.experiments.cost import Cost

VIDEOS = 40


def judged(shift_s: float, seed: int) -> Results:
    """Windows of 10 s, predicted late by about `shift_s`."""
    queries = tuple(Query(str(i), f"v{i}", "a", "val", (Moment(20, 30.0),)) for i in range(VIDEOS))
    late = shift_s + np.random.default_rng(seed).uniform(0, 2, VIDEOS)
    predictions = [Prediction(str(i), np.array([[20 + s, 30 + s, 0.9]])) for i, s in enumerate(late)]
    manifest = Manifest("mine", 2.0, {q.vid: Video(q.vid, 60.0) for q in queries}, queries)
    return evaluate(predictions, manifest, resamples=0)


@pytest.fixture(scope="module")
def found():
    results = {
        "full": {seed: judged(0, seed) for seed in range(3)},
        "bad": {seed: judged(3, seed) for seed in range(3)},
        "same": {seed: judged(0, seed + 9) for seed in range(2)},
    }
    rows = [
        Row("full", "full", {}), Row("bad", "bad", {"training.lr": 1}), Row("alias", "full", {}),
        Row("same", "same", {}, missing={2: "it diverged"}), Row("wild", "wild", {}, refused="lower it"),
    ]  # fmt: skip
    return results, tabulate(rows, results, "full", (0, 1, 2), ["a note"])


def test_numbers_are_the_means_over_seeds_and_differences_the_means_of_pairs(found):
    results, table = found
    full, bad, alias, same, wild = table.rows
    expected = over_runs(list(results["full"].values()))
    for name, number in full.numbers.items():
        assert number.value == pytest.approx(expected[name].mean)
        assert number.deviation == pytest.approx(expected[name].deviation)
        assert number.low <= number.value <= number.high
    pairs = [columns(results["bad"][s].table)["mIoU"] - columns(results["full"][s].table)["mIoU"] for s in range(3)]
    assert bad.differences["mIoU"].value == pytest.approx(np.mean(pairs))
    assert bad.differences["mIoU"].verdict == "worse"
    assert same.differences["mIoU"].verdict == "not shown"
    both = [columns(results["same"][s].table)["mIoU"] - columns(results["full"][s].table)["mIoU"] for s in (0, 1)]
    assert same.differences["mIoU"].value == pytest.approx(np.mean(both))  # over the seeds that both have
    assert alias.numbers == full.numbers
    assert alias.differences is full.differences is None
    assert wild.numbers is None


def test_p_values_are_corrected_over_the_variants(found):
    rows = [row for row in found[1].rows if row.differences]
    p, corrected = ([getattr(row.differences["mIoU"], key) for row in rows] for key in ("p", "p_holm"))
    assert min(p) > 0
    assert min(corrected) == pytest.approx(2 * min(p), rel=1e-9, abs=0)
    assert max(corrected) == pytest.approx(max(p), rel=1e-9, abs=0)


def test_what_is_missing_is_said_and_the_json_is_json(found):
    _, table = found
    assert problems(table) == ["wild is refused: lower it", "same, seed 2: it diverged"]
    tree = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert [row["name"] for row in tree["rows"]] == ["full", "bad", "alias", "same", "wild"]
    assert tree["rows"][1]["differences"]["mIoU"]["verdict"] == "worse"


def test_terminal_and_markdown_show_the_same_numbers(found):
    _, table = found
    text = markdown(table)
    for head, body in (stacked(table), stacked_differences(table)):
        for row in body:
            assert len(row) == len(head)
            assert "| " + " | ".join(cell.replace("\n", " ") for cell in row) + " |" in text
    assert "same (seeds 0, 1)" in text
    assert "- a note" in text
    assert "- wild is refused" in text


def test_costs_are_columns_where_they_were_measured_and_a_dash_where_not(found):
    _, table = found
    cost = Cost(4_200_000, 776_363_264, 75, 12, 16, 0.5, 0.4, 1.25, 9, 188_000_000)
    rows = (replace(table.rows[0], cost=cost), *table.rows[1:])
    costly = replace(table, rows=rows, costs_on={"device": "a machine", "threads": 1, "torch": "2"})
    head, body = stacked(costly)
    at = head.index("FLOPs/query")
    assert body[0][at : at + 3] == ["0.776 G", "500 ms\n[400, 1,250]", "188 MB"]
    assert body[1][at : at + 3] == ["-"] * 3
    assert {len(row) for row in body} == {len(head)} == {len(stacked(table)[0]) + 3}
    assert "a query of 75 clips and 12 words" in markdown(costly)
    assert "a training step of 16 queries" in markdown(costly)
    assert "FLOPs" not in markdown(table)
    assert json.loads(json.dumps(costly.to_json(), allow_nan=False))["rows"][0]["cost"]["peak_bytes"] == 188_000_000


def test_one_seed_and_few_videos_are_said(monkeypatch):
    one, two = {0: judged(0, 0)}, {0: judged(0, 0), 1: judged(0, 1)}
    table = tabulate([Row("a", "a", {})], {"a": one}, "a", (0,))
    assert table.notes == ("one seed each: intervals are about other videos, not about other seeds",)
    assert stacked_differences(table)[1] == []
    monkeypatch.setitem(globals(), "VIDEOS", 29)
    few = tabulate([Row("a", "a", {})], {"a": {seed: judged(0, seed) for seed in range(2)}}, "a", (0, 1))
    assert few.notes == ("fewer than 30 videos: intervals are narrower than they should be",)
    monkeypatch.undo()
    mixed = tabulate([Row("a", "a", {}), Row("b", "b", {})], {"a": one, "b": two}, "b", (0, 1))
    assert mixed.notes == ("one seed of a: intervals are about other videos, not about other seeds",)
    assert stacked_differences(mixed)[1][0][0] == "a (seed 0)"
    turned = tabulate([Row("a", "a", {}), Row("b", "b", {})], {"a": one, "b": two}, "a", (0, 1))
    assert stacked_differences(turned)[1][0][0] == "b (seed 0)"  # the difference is over what both have
