"""Several runs of one config: mean and deviation, and what is no deviation over seeds."""

from __future__ import annotations

import numpy as np
import pytest

from rdmf.manifests.schema import Manifest, Moment, Query, Video
from rdmf.pipeline.comparison.seeds import differences, over_runs
from rdmf.pipeline.config import Config, parse_config
from rdmf.pipeline.evaluation.evaluate import evaluate
from rdmf.pipeline.evaluation.predictions import Prediction


def many() -> tuple[Manifest, list[Prediction]]:
    """A window of 10 s in each of twelve videos; a good, a poor and a bad prediction of it."""
    queries = tuple(Query(str(i), f"v{i}", "a sentence", "val", (Moment(i, i + 10.0),)) for i in range(12))
    windows = [np.array([[i + 1, i + 11, 0.9], [i + 4, i + 11, 0.5], [i, 60.0, 0.1]]) for i in range(12)]
    predictions = [Prediction(str(i), w) for i, w in enumerate(windows)]
    return Manifest("mine", 2.0, {q.vid: Video(q.vid, 60.0) for q in queries}, queries), predictions


def test_several_results_give_their_mean_and_sample_deviation() -> None:
    manifest, predictions = many()
    worse = [Prediction(p.qid, p.windows[1:]) for p in predictions if p.windows is not None]
    worst = [Prediction(p.qid, p.windows[2:]) for p in predictions if p.windows is not None]
    results = [evaluate(p, manifest, resamples=0) for p in (predictions, worse, worst)]
    spread = over_runs(results)
    values = [r.numbers["mIoU"] or 0.0 for r in results]
    assert spread["mIoU"].mean == pytest.approx(sum(values) / 3)
    squares = sum((v - sum(values) / 3) ** 2 for v in values)
    assert spread["mIoU"].deviation == pytest.approx((squares / 2) ** 0.5)
    assert "HL-Good-mAP" not in spread
    with pytest.raises(ValueError, match="at least two runs"):
        over_runs(results[:1])
    fewer = Manifest("mine", 2.0, manifest.videos, manifest.queries[:5])
    with pytest.raises(ValueError, match=r"the same queries .*got 12 queries .* and 5 queries"):
        over_runs([results[0], evaluate(predictions[:5], fewer, resamples=0)])


def test_runs_that_are_not_seeds_of_one_config_are_named(tiny_config: Config) -> None:
    def config(**training: float) -> Config:
        return parse_config(tiny_config.model_dump() | {"training": tiny_config.training.model_dump() | training}, "t")

    assert differences({"a": config(seed=0), "b": config(seed=1), "c": config(seed=2)}) == []
    (same,) = differences({"a": config(seed=1), "b": config(seed=1)})
    assert "same seed" in same
    (other,) = differences({"a": config(seed=0), "b": config(seed=1, lr=0.5)})
    assert "differ in training.lr" in other
