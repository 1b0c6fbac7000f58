"""Prediction files: read strictly, written as the official evaluator reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.evaluation.evaluate import evaluate
from rdmf.pipeline.evaluation.post_processing import clamp_windows, convert_windows, round_windows, suppress_windows
from rdmf.pipeline.evaluation.predictions import Prediction, read_predictions, write_predictions

GOOD = '{"qid": 1, "query": "a", "vid": "v", "pred_relevant_windows": [[0, 2.5, 0.9]]}'


def write(folder: Path, *lines: str) -> Path:
    path = folder / "preds.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = [
        Prediction("7", np.array([[1 / 3, 2.0, 0.1 + 0.2]]), rng.random(5), "a «dog» runs", "v_1"),
        Prediction("007", np.empty((0, 3)), rng.random(3)),
        Prediction("train-3", np.array([[-0.5, 0.0, -2.0], [4.0, 4.0, 0.0]]), rng.random(1)),
    ]
    write_predictions(before, tmp_path / "p.jsonl")
    after = read_predictions(tmp_path / "p.jsonl")
    assert [p.source for p in after] == ["p.jsonl:1", "p.jsonl:2", "p.jsonl:3"]
    for a, b in zip(before, after, strict=True):
        assert (a.qid, a.query, a.vid) == (b.qid, b.query, b.vid)
        np.testing.assert_array_equal(a.windows, b.windows)
        np.testing.assert_array_equal(a.saliency, b.saliency)
    qids = [json.loads(line)["qid"] for line in (tmp_path / "p.jsonl").read_text("utf-8").splitlines()]
    assert qids == [7, "007", "train-3"]  # numbers where the annotations have numbers


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)

    def broken() -> object:
        yield Prediction("1", np.array([[0.0, 1.0, 1.0]]))
        raise RuntimeError("the model died")

    with pytest.raises(RuntimeError):
        write_predictions(broken(), path)
    assert path.read_text("utf-8") == GOOD + "\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"qid": 2, "pred_relevant_windows": [[0, 1, 0.5]', "valid JSON.*column 49; .*line"),
        ('{"qid": 2, "pred_relevant_windows": [[0, 1, -Infinity]]}', "finite numbers.*; .*value"),
        ('{"qid": 2, "pred_saliency_scores": [0.1, NaN]}', "finite numbers, got NaN; "),
        ("[1, 2]", "JSON object"),
        ('{"query": "b", "pred_relevant_windows": []}', "'qid'"),
        ('{"qid": true, "pred_relevant_windows": []}', "qid"),
        ('{"qid": 2}', "windows or saliency scores"),
        ('{"qid": 2, "pred_relevant_windows": null}', "as a list"),
        ('{"qid": 2, "pred_relevant_windows": [[0, 1]]}', "start, end, score"),
        ('{"qid": 2, "pred_relevant_windows": [[0, 1, "0.5"]]}', "'0.5'"),
        ('{"qid": 2, "pred_relevant_windows": [[0, true, 0.5]]}', "True"),
        ('{"qid": 2, "pred_relevant_windows": [[0, NaN, 0.5]]}', "NaN"),
        ('{"qid": 2, "pred_relevant_windows": [[0, 1e999, 0.5]]}', "finite"),
        ('{"qid": 2, "pred_relevant_windows": [[5, 3, 0.5]]}', r"start <= end.*\[5, 3, 0.5\]; .*start comes first"),
        ('{"qid": 2, "pred_relevant_windows": [[-5, -3, 0.5]]}', "end >= 0"),
        ('{"qid": 2, "pred_saliency_scores": [[0.5]]}', "numbers in pred_saliency_scores"),
        ('{"qid": 2, "pred_saliency_scores": [1e999]}', "finite saliency"),
        ('{"qid": 2, "pred_saliency_scores": 0.5}', "as a list"),
        ('{"qid": 2, "vid": 3, "pred_relevant_windows": []}', "vid as text"),
        ('{"qid": 2, "pred_relevant_windows": [], "ranked_predicted_windows": []}', "one list of windows"),
        ('{"qid": "1", "pred_relevant_windows": []}', "after preds.jsonl:1"),
    ],
)
def test_a_bad_record_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_predictions(write(tmp_path, GOOD, "", line))
    assert str(caught.value).startswith("preds.jsonl:3: ")
    assert "\n" not in str(caught.value)


def test_the_submission_form_is_the_official_one(tmp_path: Path) -> None:
    """The keys, types and order that the official evaluator's documentation lists."""
    windows = np.array([[0, 70, 0.9986], [78, 146, 0.4138]])
    write_predictions(
        [Prediction("2579", windows, np.array([-0.2452, 1]), "A girl cooked.", "x_210.0_360.0")], tmp_path / "p"
    )
    (line,) = (tmp_path / "p").read_text("utf-8").splitlines()
    record = json.loads(line)
    assert list(record) == ["qid", "query", "vid", "pred_relevant_windows", "pred_saliency_scores"]
    assert (record["qid"], record["query"], record["vid"]) == (2579, "A girl cooked.", "x_210.0_360.0")
    assert record["pred_relevant_windows"] == [[0, 70, 0.9986], [78, 146, 0.4138]]
    assert record["pred_saliency_scores"] == [-0.2452, 1.0]


@pytest.mark.shared
def test_a_published_file_read_and_written_again_is_the_same_data(shared: Path, tmp_path: Path) -> None:
    source = shared / "predictions" / "qvhighlights_val" / "qd_detr_video_checkpoint_best" / "preds.jsonl"
    write_predictions(read_predictions(source), tmp_path / "again.jsonl")
    lines = zip(source.open(encoding="utf-8"), (tmp_path / "again.jsonl").open(encoding="utf-8"), strict=True)
    for theirs, ours in lines:
        assert json.loads(ours) == json.loads(theirs)


def test_writing_and_reading_again_leaves_every_metric_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    queries, before = [], []
    for i in range(30):
        true = np.sort(rng.uniform(0, 60, 2))
        rated = Saliency((0, 5), tuple((float(a), float(b)) for a, b in rng.integers(0, 5, (2, 2))))
        queries.append(Query(str(i), f"v{i % 7}", "a sentence", "val", (Moment(*map(float, true)),), rated))
        listed = np.sort(rng.uniform(0, 60, (10, 2)), axis=1)
        before.append(Prediction(str(i), np.column_stack([listed, rng.random(10)]), rng.normal(size=30)))
    truth = Manifest("mine", 2.0, {f"v{i}": Video(f"v{i}", 60.0) for i in range(7)}, tuple(queries))
    write_predictions(before, tmp_path / "p.jsonl")
    after = read_predictions(tmp_path / "p.jsonl")
    assert evaluate(before, truth).to_json() == evaluate(after, truth).to_json()


def test_an_empty_or_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        read_predictions(write(tmp_path))
    with pytest.raises(ValueError, match=r"absent\.jsonl"):
        read_predictions(tmp_path / "absent.jsonl")


def test_the_other_name_for_the_windows_is_accepted(tmp_path: Path) -> None:
    line = '{"qid": "a", "predicted_window": [1, 2], "ranked_predicted_windows": [[1, 2, 0.5], [3, 4, 0.4]]}'
    (prediction,) = read_predictions(write(tmp_path, line))
    assert prediction.windows is not None
    assert prediction.windows.tolist() == [[1, 2, 0.5], [3, 4, 0.4]]
    assert prediction.saliency is None


def test_a_prediction_made_in_python_is_checked_too() -> None:
    with pytest.raises(ValueError, match="start <= end"):
        Prediction("q", np.array([[2.0, 1.0, 0.5]]))
    with pytest.raises(ValueError, match=r"windows \[n, 3\]"):
        Prediction("q", np.array([[1.0, 2.0]]))
    with pytest.raises(ValueError, match="finite saliency"):
        Prediction("q", None, np.array([np.nan]))


def test_clamping_and_rounding_change_times_and_nothing_else() -> None:
    prediction = Prediction("q", np.array([[-1.0, 3.0, 0.123], [5.0, 99.0, 0.4]]), np.array([0.3]))
    (clamped,) = clamp_windows([prediction], {"q": 30.0})
    assert clamped.windows is not None
    assert clamped.windows.tolist() == [[0.0, 3.0, 0.123], [5.0, 30.0, 0.4]]
    (rounded,) = round_windows([clamped], 2.0)
    assert rounded.windows is not None
    assert rounded.windows.tolist() == [[0.0, 4.0, 0.123], [4.0, 30.0, 0.4]]  # 1.5 and 2.5 to the even 2
    np.testing.assert_array_equal(rounded.saliency, prediction.saliency)
    with pytest.raises(ValueError, match="more than 0 s"):
        round_windows([prediction], 0.0)


def test_converting_makes_seconds_of_any_unit() -> None:
    predictions = [Prediction("a", np.array([[1.0, 3.0, 0.9]])), Prediction("b", None, np.array([0.3]))]
    found = convert_windows(predictions, {"a": 2.0, "b": 5.0})
    assert found[0].windows is not None
    assert found[0].windows.tolist() == [[2.0, 6.0, 0.9]]
    assert found[1] is predictions[1]


def test_suppression_keeps_the_better_of_two_that_overlap_and_ranks_by_score() -> None:
    windows = np.array([[0, 10, 0.2], [20, 30, 0.9], [21, 30, 0.8], [1, 10, 0.5], [40, 50, 0.1]])
    saliency = np.array([0.1, 0.2])
    none = Prediction("none", np.empty((0, 3)), saliency)
    scores_only = Prediction("scores", None, saliency)
    found = suppress_windows([Prediction("q", windows, saliency), none, scores_only], 0.7)
    assert found[0].windows is not None
    assert found[0].windows.tolist() == [[20, 30, 0.9], [1, 10, 0.5], [40, 50, 0.1]]
    np.testing.assert_array_equal(found[0].saliency, saliency)
    assert found[1].windows is not None
    assert found[1].windows.shape == (0, 3)
    assert found[2] is scores_only
    (all_kept,) = suppress_windows([Prediction("q", windows)], 1.0)
    assert all_kept.windows is not None
    assert sorted(all_kept.windows.tolist()) == sorted(windows.tolist())
    with pytest.raises(ValueError, match=r"threshold from 0 to 1, got 1\.5"):
        suppress_windows([none], 1.5)
