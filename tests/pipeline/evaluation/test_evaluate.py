"""The numbers of whole evaluations: published ones and closed forms."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdmf.manifests.files import write_manifest
from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.evaluation.evaluate import evaluate, evaluate_files
from rdmf.pipeline.evaluation.per_query import per_query
from rdmf.pipeline.evaluation.predictions import Prediction, read_predictions, write_predictions
from rdmf.pipeline.evaluation.truth import read_truth


def manifest(*queries: Query, dataset: str = "qvhighlights", duration_s: float | None = 20.0) -> Manifest:
    return Manifest(dataset, 2.0, {q.vid: Video(q.vid, duration_s) for q in queries}, queries)


def truth() -> Manifest:
    """Three queries on two videos of 20 s: two, one, one windows; saliency on a 2 s, 2 s and 1 s grid."""
    rated = Saliency((1, 2), ((4, 4, 2), (3, 4, 2)))
    fine = Saliency((5, 6), ((4, 4, 4), (2, 2, 2)), clip_seconds=1.0)
    return manifest(
        Query("1", "a", "first", "val", (Moment(2, 6), Moment(8, 20)), rated),
        Query("2", "a", "second", "val", (Moment(0, 10),), rated),
        Query("3", "b", "third", "val", (Moment(5, 7),), fine),
    )


def perfect(of: Manifest) -> list[Prediction]:
    """Windows and mean ratings of the truth itself."""
    out = []
    for q in of.queries:
        windows = np.array([(w.start_s, w.end_s, 1.0) for w in q.windows])
        clips = int(20 / q.saliency.clip_seconds) if q.saliency else 0
        out.append(Prediction(q.qid, windows, q.saliency.dense(clips).mean(axis=1) if q.saliency else None))
    return out


def numbers(nested: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from numbers(value, (*path, key))
        else:
            yield (*path, key), value


# Published numbers


@pytest.mark.shared
@pytest.mark.parametrize("name", ["moment_detr_sample", "qd_detr_video_checkpoint_best", "cg_detr_best"])
def test_published_qvhighlights_numbers_come_out_to_the_last_digit(shared: Path, name: str) -> None:
    folder = shared / "predictions" / "qvhighlights_val" / name
    results = evaluate_files(
        folder / "preds.jsonl", shared / "annotations/qvhighlights/highlight_val_release.jsonl", resamples=0
    )
    official = json.loads((folder / "metrics.json").read_text("utf-8"))
    ours = dict(numbers(results.metrics))
    wrong = {key: (value, ours.get(key)) for key, value in numbers(official) if ours.get(key) != value}
    assert not wrong
    assert len(dict(numbers(official))) >= 104
    assert list(results.metrics) == list(official)
    assert [key for key in results.metrics["brief"] if key in official["brief"]] == list(official["brief"])
    assert results.rdmf["counts"]["moments"] == 1550
    assert [results.rdmf["counts"][key] for key in ("short", "middle", "long")] == [429, 957, 574]


def charades(shared: Path, start: str, end: str) -> Manifest:
    path = shared / "predictions" / "charades_test" / "charades_sta_full_test_manifest.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    videos = {row["video_id"]: Video(row["video_id"], float(row["duration_sec"])) for row in rows}
    queries = tuple(
        Query(r["sample_id"], r["video_id"], r["query"], "test", (Moment(float(r[start]), float(r[end])),))
        for r in rows
    )
    return Manifest("charades", 1.0, videos, queries)


@pytest.mark.shared
def test_published_charades_numbers_come_out(shared: Path) -> None:
    folder = shared / "predictions" / "charades_test" / "moment_detr_full_test"
    official = json.loads((folder / "metrics.json").read_text("utf-8"))
    predictions = read_predictions(folder / "predictions.jsonl")
    results = evaluate(predictions, charades(shared, "clipped_start", "clipped_end"), resamples=0)
    assert results.protocol == "charades"
    for key in ("R@1_IoU_0.3", "R@1_IoU_0.5", "R@1_IoU_0.7", "mIoU"):
        assert results.metrics[key] == pytest.approx(official[key], abs=1e-9)
    assert results.rdmf["counts"]["queries"] == official["evaluated_queries"]

    raw = evaluate(predictions, charades(shared, "raw_start", "raw_end"), resamples=0)
    assert raw.metrics["mIoU"] > results.metrics["mIoU"] + 0.002  # another truth, other numbers


@pytest.mark.shared
@pytest.mark.parametrize("name", ["tvsum", "youtube_highlights"])
def test_highlight_datasets_are_judged_by_clip_scores_alone(shared: Path, name: str) -> None:
    annotations = read_truth(shared / "annotations" / "jsonl", name)
    rng = np.random.default_rng(0)

    def predict(noise: float) -> list[Prediction]:
        out = []
        for q in annotations.split("val"):
            assert q.saliency is not None
            mean = q.saliency.dense(max(q.saliency.clip_ids) + 1).mean(axis=1)
            out.append(Prediction(q.qid, None, mean + noise * rng.normal(size=len(mean))))
        return out

    oracle, random = (evaluate(predict(noise), annotations) for noise in (0.0, 100.0))
    assert oracle.protocol == "highlights"
    assert oracle.rdmf["split"] == "val"
    assert oracle.metrics["mAP"] > random.metrics["mAP"] + 0.15
    if name == "youtube_highlights":  # one annotator, so the oracle is perfect wherever there is a highlight
        liked = [np.any(np.array(q.saliency.scores) > 0) for q in annotations.split("val") if q.saliency]
        share = sum(liked) / oracle.rdmf["counts"]["highlights"]
        assert oracle.metrics["mAP"] == pytest.approx(share)


# Closed forms

HL_CEILING = round(100 * (2 / 3 + 2 / 3 + 1) / 3, 2)


def test_perfect_predictions_reach_the_ceiling() -> None:
    results = evaluate(perfect(truth()), truth())
    assert results.protocol == "qvhighlights"
    assert {value for _, value in numbers(results.metrics["full"])} == {100.0}
    assert results.metrics["long"]["MR-mAP"]["average"] is None  # no true window is that long
    # At VeryGood, queries 1 and 2 have two annotators with a clip and one without, whose row counts 0.
    assert results.metrics["HL-min-VeryGood"]["HL-Hit1"] == 100.0
    assert results.metrics["HL-min-VeryGood"]["HL-mAP"] == HL_CEILING
    assert results.rdmf["notes"] == []
    json.dumps(results.to_json(), allow_nan=False)


def test_recall_takes_the_first_listed_window_and_precision_the_best_scored() -> None:
    right, wrong = (5.0, 7.0), (12.0, 14.0)
    only = manifest(Query("3", "b", "third", "val", (Moment(*right),)), dataset="mine")
    results = evaluate([Prediction("3", np.array([(*wrong, 0.1), (*right, 0.9)]))], only)
    assert results.metrics["full"]["MR-R1"]["0.5"] == 0.0
    assert results.metrics["full"]["MR-mAP"]["average"] == 100.0
    assert results.rdmf["fractions"]["R@5_IoU_0.5"] == 1.0
    charades = evaluate([Prediction("3", np.array([(*wrong, 0.1), (*right, 0.9)]))], only, "charades")
    assert charades.metrics["R@1_IoU_0.5"] == 0.0
    assert charades.metrics["R@5_IoU_0.7"] == 1.0
    assert charades.metrics["mIoU"] == 0.0


def test_length_ranges_filter_the_truth_and_not_the_predictions() -> None:
    only = manifest(Query("1", "a", "first", "val", (Moment(2, 6), Moment(8, 20))), dataset="mine")
    results = evaluate([Prediction("1", np.array([[8.0, 20.0, 0.9], [2.0, 6.0, 0.8]]))], only)
    assert results.metrics["full"]["MR-mAP"]["average"] == 100.0
    assert results.metrics["short"]["MR-mAP"]["average"] == 50.0  # the 12 s window is a false positive there
    assert results.metrics["short"]["MR-R1"]["0.5"] == 0.0
    assert results.metrics["middle"]["MR-R1"]["0.5"] == 100.0


def test_the_table_holds_what_the_metrics_are_means_of() -> None:
    rng = np.random.default_rng(3)
    clips = {1: 10, 2: 10, 3: 20}
    predictions = [
        Prediction(str(i), np.sort(rng.uniform(0, 20, (6, 3)), axis=1), rng.random(clips[i])) for i in (3, 1, 2)
    ]
    results = evaluate(predictions, truth())
    table = per_query(predictions, truth())
    assert table["qid"].tolist() == ["1", "2", "3"]  # the order of the annotations
    assert results.rdmf["intervals"]["mAP"]["value"] == pytest.approx(table["ap"].mean())
    assert results.metrics["full"]["MR-mAP"]["0.5"] == round(100 * table["ap_by_threshold"][:, 0].mean(), 2)
    assert results.metrics["full"]["MR-mIoU"] == round(100 * table["iou"].mean(), 2)
    assert np.all(table["iou_at_5"] >= table["iou"])
    assert results.rdmf["intervals"]["mAP-short"]["value"] == pytest.approx(np.nanmean(table["ap_short"]))


def test_segments_of_one_source_video_are_resampled_together() -> None:
    """Three right and three wrong answers. Where these are the segments of two videos, a quarter of the resamples has
    none right; where they are six videos, one in 64."""

    def interval(*vids: str) -> tuple[float, float]:
        of = manifest(*(Query(vid, vid, "q", "val", (Moment(0, 10),)) for vid in vids))
        windows = 3 * ([[0, 10, 1.0]],) + 3 * ([[12, 14, 1.0]],)
        listed = [Prediction(vid, np.array(w)) for vid, w in zip(vids, windows, strict=True)]
        found = evaluate(listed, of, resamples=2000).rdmf["intervals"]["R1@0.5"]
        return found["low"], found["high"]

    assert interval(*(f"{source}_{at}.0_{at + 150}.0" for source in "ab" for at in (0, 150, 300))) == (0, 1)
    assert interval(*(f"{source}_0.0_150.0" for source in "abcdef")) == pytest.approx((1 / 6, 5 / 6))
    of = manifest(Query("1", "a_0.0_150.0", "q", "val", (Moment(0, 10),)), dataset="charades")
    assert per_query([Prediction("1", np.array([[0, 5, 1.0]]))], of)["source"].tolist() == ["a_0.0_150.0"]


def test_short_saliency_lists_are_filled_with_zero_and_long_ones_cut() -> None:
    only = manifest(Query("1", "a", "first", "val", (), Saliency((9,), ((4, 4, 4),))))
    negative = Prediction("1", None, np.full(9, -1.0))  # clip 9, filled with 0, comes out on top
    results = evaluate([negative], only)
    assert results.metrics["HL-min-Good"] == {"HL-mAP": 100.0, "HL-Hit1": 0.0}  # the top listed is clip 0
    assert any("shorter" in note for note in results.rdmf["notes"])
    long = evaluate([Prediction("1", None, np.arange(11.0))], only)
    assert long.metrics["HL-min-Good"] == {"HL-mAP": 100.0, "HL-Hit1": 0.0}  # the top one is too late
    assert any("longer" in note for note in long.rdmf["notes"])
    assert "full" not in long.metrics


def test_an_unfinished_last_clip_does_not_count() -> None:
    rated = Query("1", "a", "first", "val", (), Saliency((8, 9), ((4, 4, 4), (4, 4, 4))))
    scores = np.array([0.0] * 9 + [1.0])
    whole, cut = (evaluate([Prediction("1", None, scores)], manifest(rated, duration_s=s)) for s in (20, 19.9))
    assert whole.metrics["HL-min-Fair"]["HL-Hit1"] == 100.0
    assert cut.metrics["HL-min-Fair"]["HL-Hit1"] == 0.0  # int(19.9 / 2) = 9 clips, and the top one is the tenth


def test_clamping_and_rounding_are_off_unless_asked_for() -> None:
    only = manifest(Query("1", "a", "first", "val", (Moment(10, 20),)), dataset="mine")
    over = [Prediction("1", np.array([[10.4, 40.0, 1.0]]))]
    plain, clamped = evaluate(over, only), evaluate(over, only, clamp=True)
    both = evaluate(over, only, clamp=True, round_to_s=2.0)
    miou = [results.rdmf["fractions"]["mIoU"] for results in (plain, clamped, both)]
    assert miou == pytest.approx([9.6 / 30, 0.96, 1.0])
    assert any("end after the video" in note for note in plain.rdmf["notes"])
    assert [note.split()[3] for note in both.rdmf["notes"]] == ["clamped", "rounded"]


def test_suppression_before_scoring_is_off_unless_asked_for() -> None:
    only = manifest(Query("1", "a", "first", "val", (Moment(2, 6), Moment(10, 20))), dataset="mine")
    listed = [Prediction("1", np.array([[2, 6, 0.9], [2, 6, 0.8], [2, 6, 0.7], [10, 20, 0.6]]))]
    plain, thinned = evaluate(listed, only), evaluate(listed, only, nms_threshold=0.5)
    assert plain.numbers["mAP"] == 0.75  # half the recall at precision 1, half at 2 of 4
    assert thinned.numbers["mAP"] == 1.0
    assert [p.windows.tolist() for p in thinned.predictions if p.windows is not None] == [[[2, 6, 0.9], [10, 20, 0.6]]]
    assert any("non-maximum suppression at IoU 0.5" in note for note in thinned.rdmf["notes"])


# Where the truth comes from


def test_truth_is_read_from_a_manifest_a_file_or_a_folder(tmp_path: Path) -> None:
    line = {"qid": 1, "vid": "a", "query": "q", "duration": 20, "relevant_windows": [[2, 6]]}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "val.jsonl").write_text(json.dumps(line), encoding="utf-8")
    (tmp_path / "tacos_val_release.jsonl").write_text(json.dumps(line), encoding="utf-8")
    write_predictions([Prediction("1", np.array([[2.0, 6.0, 1.0]]))], tmp_path / "p.jsonl")

    own = evaluate_files(tmp_path / "p.jsonl", tmp_path / "mine")
    assert (own.rdmf["dataset"], own.rdmf["split"], own.protocol) == ("own", "val", "qvhighlights")
    assert own.metrics["full"]["MR-mIoU"] == 100.0
    assert evaluate_files(tmp_path / "p.jsonl", tmp_path / "tacos_val_release.jsonl").protocol == "charades"
    write_manifest(read_truth(tmp_path / "mine", "kitchen"), tmp_path / "mine" / "manifest.parquet")
    assert read_truth(tmp_path / "mine").dataset == "kitchen"
    (tmp_path / "tvsum_val_release.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="one dataset, got tacos, tvsum; name one"):
        read_truth(tmp_path)


@pytest.mark.shared
def test_each_published_form_is_recognised_by_its_files(shared: Path) -> None:
    annotations = shared / "annotations"
    for folder, name in (
        ("qvhighlights", "qvhighlights"),
        ("charades_sta", "charades"),
        ("jsonl/tvsum_val_release.jsonl", "tvsum"),
        ("jsonl/youtube_highlight_val_release.jsonl", "youtube_highlights"),
    ):
        assert read_truth(annotations / folder).dataset == name
