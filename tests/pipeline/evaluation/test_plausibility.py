"""Times in another unit, scores on another grid: predictions that pass every check of form and mean something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.evaluation.evaluate import evaluate
from rdmf.pipeline.evaluation.predictions import Prediction, read_predictions
from rdmf.pipeline.evaluation.truth import read_truth


def many(queries: int = 12, clip_seconds: float = 2.0) -> tuple[Manifest, list[Prediction]]:
    """Videos of 60 to 93 s, a window each somewhere, and predictions that are near it."""
    rng = np.random.default_rng(9)
    truth, predictions = [], []
    for i in range(queries):
        start = float(rng.uniform(0, 40))
        end = start + float(rng.uniform(10, 20))
        truth.append(Query(str(i), f"v{i}", "a sentence", "val", (Moment(start, end),)))
        near = np.array([[start + 1, end + 1, 0.9], [max(0, start - 9), end, 0.5], [start, 60.0, 0.1]])
        predictions.append(Prediction(str(i), near, source=f"p.jsonl:{i + 1}"))
    videos = {q.vid: Video(q.vid, 60.0 + 3 * i) for i, q in enumerate(truth)}
    return Manifest("mine", clip_seconds, videos, tuple(truth)), predictions


def in_unit(predictions: list[Prediction], seconds: dict[str, float]) -> list[Prediction]:
    return [
        Prediction(p.qid, p.windows / [seconds[p.qid], seconds[p.qid], 1.0], source=p.source)
        for p in predictions
        if p.windows is not None
    ]


@pytest.mark.parametrize("unit", ["clips", "fractions", "milliseconds"])
def test_times_in_another_unit_are_refused_by_name_and_converted_on_request(unit: str) -> None:
    manifest, predictions = many()
    lengths = {q.qid: manifest.videos[q.vid].duration_s or 0.0 for q in manifest.queries}
    seconds = {q: {"clips": 2.0, "fractions": lengths[q], "milliseconds": 0.001}[unit] for q in lengths}
    wrong = in_unit(predictions, seconds)
    with pytest.raises(ValueError, match=rf"^p\.jsonl: .* look like {unit}: .*--times-in {unit} or --times-in seconds"):
        evaluate(wrong, manifest)
    right, converted = evaluate(predictions, manifest), evaluate(wrong, manifest, times_in=unit)
    assert converted.numbers == pytest.approx(right.numbers)
    assert any(f"converted from {unit}" in note for note in converted.rdmf["notes"])
    assert evaluate(wrong, manifest, times_in="seconds").numbers["mIoU"] < 0.3  # you said so
    assert evaluate(wrong, manifest, trusted=True).numbers["mIoU"] < 0.3
    evaluate(wrong[:9], Manifest("mine", 2.0, manifest.videos, manifest.queries[:9]))  # too few to tell


def test_bad_predictions_in_seconds_are_not_taken_for_another_unit() -> None:
    manifest, _ = many(40)
    rng = np.random.default_rng(10)
    videos = [(q, manifest.videos[q.vid].duration_s or 0.0) for q in manifest.queries]
    guesses = {
        "centre": lambda s: [[s / 4, 3 * s / 4, 1.0]],
        "all": lambda s: [[0, s, 1.0]],
        "start": lambda s: [[0, 2, 1.0]],
        "random": lambda s: np.column_stack([np.sort(rng.uniform(0, s, (10, 2)), axis=1), rng.random(10)]),
        "frames": lambda s: [[30 * 5, 30 * 15, 1.0]],
        "none": lambda s: np.empty((0, 3)),
    }
    for guess in guesses.values():
        evaluate([Prediction(q.qid, np.array(guess(s))) for q, s in videos], manifest, resamples=0)
    same_unit, predictions = many(clip_seconds=1.0)
    evaluate(predictions, same_unit)  # clips of 1 s are seconds


@pytest.mark.shared
def test_published_predictions_in_clips_are_told_from_the_same_in_seconds(shared: Path) -> None:
    folder = shared / "predictions" / "qvhighlights_val" / "moment_detr_sample"
    annotations = read_truth(shared / "annotations/qvhighlights/highlight_val_release.jsonl")
    predictions = read_predictions(folder / "preds.jsonl")
    clips = [
        Prediction(p.qid, p.windows / [2, 2, 1], p.saliency, source=p.source)
        for p in predictions
        if p.windows is not None
    ]
    with pytest.raises(ValueError, match=r"^preds\.jsonl: .* look like clips"):
        evaluate(clips, annotations)
    converted = evaluate(clips, annotations, times_in="clips", resamples=0)
    assert converted.metrics == evaluate(predictions, annotations, resamples=0).metrics


def test_score_lists_on_another_grid_are_refused_with_the_line() -> None:
    rated = Saliency((1, 2), ((4, 4, 2), (3, 4, 2)))
    videos = {"v": Video("v", 150.0), "w": Video("w", 149.5)}
    truth = Manifest(
        "mine", 2.0, videos, (Query("1", "v", "a", "val", (), rated), Query("2", "w", "b", "val", (), rated))
    )
    for count in (73, 74, 75, 76, 77, 60, 90):  # tails differ by a clip or two; a quarter is let pass and noted
        evaluate([Prediction("1", None, np.zeros(75)), Prediction("2", None, np.zeros(count))], truth, "qvhighlights")
    for count in (0, 1, 37, 150):
        bad = Prediction("2", None, np.zeros(count), source="p.jsonl:7")
        message = rf"^p\.jsonl:7 \(query '2'\): expected about 75 .* each clip of 2 s, got {count} .*; score the clips"
        with pytest.raises(ValueError, match=message):
            evaluate([Prediction("1", None, np.zeros(75)), bad], truth, "qvhighlights")
        evaluate([Prediction("1", None, np.zeros(75)), bad], truth, "qvhighlights", trusted=True)


def test_scores_of_highlight_datasets_may_stop_with_the_labels_or_with_the_video() -> None:
    labelled = Saliency(tuple(range(8)), ((1,) * 2,) * 8)
    truth = Manifest("tvsum", 2.0, {"v": Video("v", 20.0)}, (Query("1", "v", "a", "val", (), labelled),))
    for count in (7, 8, 10, 11):
        evaluate([Prediction("1", None, np.zeros(count))], truth)
    with pytest.raises(ValueError, match="got 20"):
        evaluate([Prediction("1", None, np.zeros(20))], truth)
