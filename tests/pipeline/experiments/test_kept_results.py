from __future__ import annotations

import numpy as np
import pytest

from rdmf.pipeline.comparison.evaluate_run import evaluate_run
from rdmf.pipeline.experiments.kept_results import find_kept, keep
from rdmf.pipeline.training.train import train


@pytest.fixture(scope="module")
def run(tiny_features, tmp_path_factory):
    from rdmf.pipeline.config import parse_config

    out = tmp_path_factory.mktemp("kept") / "run"
    small = {"hidden": 16, "fusion": {"ffn": 16}, "moment": {"queries": 5, "heads": 2}}
    train(tiny_features, out, parse_config({"model": small, "training": {"epochs": 1}}, "test"))
    judged = evaluate_run(out, "val")
    keep(out, "val", judged.run, judged.to_json())
    return out, judged


def test_what_is_kept_is_what_was_judged(run):
    out, judged = run
    found = find_kept(out, "val")
    assert found.metrics == judged.run.metrics
    assert found.rdmf["intervals"] == judged.run.rdmf["intervals"]
    assert found.table.keys() == judged.run.table.keys()
    for name, column in judged.run.table.items():
        np.testing.assert_array_equal(found.table[name], column)
        assert found.table[name].dtype.kind == column.dtype.kind
    assert find_kept(out, "test") is None


@pytest.mark.parametrize("file", ["scores.val.json", "per_query.val.parquet", "best.safetensors"])
def test_results_that_are_damaged_or_of_other_weights_are_none(run, file):
    path = run[0] / file
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:-9] + bytes(9), b""):
        path.write_bytes(damaged)
        assert find_kept(run[0], "val") is None
    path.write_bytes(data)
    assert find_kept(run[0], "val") is not None
