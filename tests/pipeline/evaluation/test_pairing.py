"""Which queries count, and predictions that do not belong to the truth: refused in a sentence that says what to do."""

from __future__ import annotations

import numpy as np
import pytest

from rdmf.manifests.schema import Finding, Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.evaluation.evaluate import evaluate
from rdmf.pipeline.evaluation.per_query import per_query
from rdmf.pipeline.evaluation.predictions import Prediction


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


def test_a_missing_query_is_refused_or_counts_as_wrong() -> None:
    two = perfect(truth())[:2]
    with pytest.raises(ValueError, match=r"1 are missing: '3'; .*--allow-missing"):
        evaluate(two, truth())
    read = [Prediction(p.qid, p.windows, p.saliency, source=f"p.jsonl:{i}") for i, p in enumerate(two, 1)]
    with pytest.raises(ValueError, match=r"^p\.jsonl: expected a prediction for each of the 3 queries"):
        evaluate(read, truth())
    results = evaluate(two, truth(), allow_missing=True)
    assert results.rdmf["missing"] == ["3"]
    assert results.metrics["full"]["MR-R1"]["0.5"] == 66.67
    assert results.metrics["full"]["MR-mAP"]["average"] == 66.67
    assert results.metrics["HL-min-VeryGood"] == {"HL-mAP": 44.44, "HL-Hit1": 66.67}
    assert "1 of 3 queries have no prediction and count as wrong" in results.rdmf["notes"]


def test_an_empty_list_of_windows_counts_as_wrong() -> None:
    predictions = perfect(truth())
    predictions[2] = Prediction("3", np.empty((0, 3)), predictions[2].saliency)
    results = evaluate(predictions, truth())
    assert results.metrics["full"]["MR-mAP"]["average"] == 66.67
    assert "1 predictions list no window and count as wrong" in results.rdmf["notes"]


def test_a_query_without_true_windows_is_left_out_and_named() -> None:
    queries = truth().queries
    bare = manifest(*queries[:2], Query("3", "b", "third", "val", (), queries[2].saliency))
    predictions = perfect(truth())
    results = evaluate(predictions, bare)
    assert results.rdmf["counts"] | {"queries": 3, "moments": 2, "highlights": 3} == results.rdmf["counts"]
    assert results.metrics["full"]["MR-R1"]["0.95"] == 100.0
    assert any(note.startswith("1 queries have no true window") for note in results.rdmf["notes"])
    assert np.isnan(per_query(predictions, bare)["ap"][2])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            Prediction("9", np.empty((0, 3)), np.zeros(1), source="p.jsonl:4"),
            r"p\.jsonl:4 .*1 others: '9'; take them out",
        ),
        (Prediction("3", np.empty((0, 3)), np.zeros(1), source="p.jsonl:4"), r"p\.jsonl:4 .*second one; keep one"),
    ],
)
def test_extra_and_duplicate_queries_are_refused(extra: Prediction, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate([*perfect(truth()), extra], truth())


def test_predictions_for_another_video_or_of_mixed_kinds_are_refused() -> None:
    predictions = perfect(truth())
    wrong = Prediction("3", predictions[2].windows, predictions[2].saliency, vid="z")
    with pytest.raises(ValueError, match="expected video 'b', got 'z'"):
        evaluate([*predictions[:2], wrong], truth())
    with pytest.raises(ValueError, match="pred_saliency_scores in every prediction or in none"):
        evaluate([*predictions[:2], Prediction("3", predictions[2].windows)], truth())


def test_the_split_is_the_one_that_was_predicted() -> None:
    queries = truth().queries
    other = Query("4", "c", "fourth", "train", (Moment(0, 2),))
    both = manifest(*queries, other)
    assert evaluate(perfect(truth()), both).rdmf["split"] == "val"
    four = [*perfect(truth()), Prediction("4", np.empty((0, 3)), np.zeros(1))]
    with pytest.raises(ValueError, match="one split, got val, train"):
        evaluate(four, both)
    with pytest.raises(ValueError, match="1 others: '4'; they are of split train: judge it with --split"):
        evaluate(four, both, split="val")
    with pytest.raises(ValueError, match=r"3 others: .*; they are of split val"):
        evaluate(perfect(truth()), both, split="train")
    of_test = [Prediction(f"t{i}", np.empty((0, 3)), source=f"p.jsonl:{i}") for i in (1, 2)]
    with pytest.raises(ValueError, match=r"p\.jsonl:1 .*2 others: 't1', 't2'; none is of this split: give the annot"):
        evaluate(of_test, truth())
    with pytest.raises(ValueError, match="has no split 'test'"):
        evaluate(perfect(truth()), both, split="test")
    with pytest.raises(ValueError, match=r"such as '1', '2', '3', \.\.\., got 'x'"):
        evaluate([Prediction("x", np.empty((0, 3)))], both)


def test_what_the_protocol_cannot_judge_is_refused() -> None:
    windows_only = [Prediction(p.qid, p.windows) for p in perfect(truth())]
    with pytest.raises(ValueError, match="expected times in seconds, clips"):
        evaluate(windows_only, truth(), times_in="frames")
    with pytest.raises(ValueError, match="judges saliency scores"):
        evaluate(windows_only, truth(), "highlights")
    with pytest.raises(ValueError, match="expected a protocol of qvhighlights, charades"):
        evaluate(windows_only, truth(), "coco")
    unknown = manifest(*truth().queries, duration_s=None)
    with pytest.raises(ValueError, match="expected a duration of video 'a'"):
        evaluate(perfect(truth()), unknown)


def test_what_the_reader_changed_is_in_the_notes() -> None:
    base = truth()
    found = tuple(Finding("f:1", qid, "clipped", "") for qid in ("1", "2", "of another split"))
    changed = Manifest(base.dataset, base.clip_seconds, base.videos, base.queries, found)
    assert evaluate(perfect(base), changed).rdmf["notes"] == ["reading the annotations: 2 times 'clipped'"]
