"""`rdmf crossval` as a user meets it."""

from __future__ import annotations

import json

import pytest

PLAN = """
base:
  model: {hidden: 16, fusion: {ffn: 16}, moment: {queries: 5, heads: 2}}
  training: {epochs: 1, batch: 16}
seeds: [0]
folds: 2
models:
  - {name: full}
  - {name: w/o TD, set: {model.diffusion.steps: 0}}
"""


@pytest.fixture
def command(tiny, tmp_path):
    """Arguments for a benchmark in tmp_path/out, trained in this process."""
    (tmp_path / "plan.yaml").write_text(PLAN)
    features = tiny.write(tmp_path / "features", {"train": 8, "test": 4})
    return [
        "crossval", tmp_path / "plan.yaml", "--features", features, "--out", tmp_path / "out", "--workers", "0",
        "--no-cost",
    ]  # fmt: skip


def test_it_trains_prints_its_tables_and_does_nothing_the_second_time(rdmf, command, tmp_path):
    ran = rdmf(*command)
    assert ran.code == 0
    for part in ("w/o TD minus", "mIoU", "all 2 folds", "bootstrap", "trial 1", "fold 1"):
        assert part in ran.out
    lines = ran.err.splitlines()
    assert lines[:2] == ["2 folds of 6, 6 source videos", "4 runs to train (1 at once), 0 are there already"]
    assert lines[2].startswith("1/4  fold 0  tuning, full, trial 1  R1@0.5")
    assert any("nested cross-validation, all 2 folds: 48 queries about 12 source videos" in line for line in lines)
    again = rdmf(*command)
    assert (again.code, again.out) == (0, ran.out)
    assert again.err.splitlines()[1] == "0 runs to train (1 at once), 4 are there already"
    folds = rdmf(*command, "--folds", tmp_path / "out" / "folds.json")
    assert (folds.code, folds.out) == (0, ran.out)


def test_the_runs_and_folders_of_folds_are_what_other_commands_take(rdmf, command, tmp_path):
    rdmf(*command)
    run = tmp_path / "out" / "runs" / "fold-0" / "full" / "trial-1" / "seed-0"
    judged = json.loads(rdmf("evaluate", "--run", run, "--split", "test", "--json", "-").out)
    kept = json.loads((run / "scores.test.json").read_text())
    assert judged["full"] == kept["full"]
    fold = tmp_path / "out" / "folds" / "fold-0"
    assert rdmf("store", "verify", fold).code == 0
    small = ["--set", "model.hidden=16", "--set", "training.epochs=1", "--set", "model.moment.queries=5"]
    assert rdmf("train", "--features", fold, "--out", tmp_path / "run", *small).code == 0
    other = tmp_path / "out" / "runs" / "fold-0" / "w-o-TD" / "trial-1" / "seed-0"
    assert rdmf("compare", run, other, "--split", "test", "--resamples", 100).code == 0


def test_json_on_standard_output_is_alone_there_and_is_the_file(rdmf, command, tmp_path):
    ran = rdmf(*command, "--json", "-")
    assert json.loads(ran.out) == json.loads((tmp_path / "out" / "table.json").read_text())
    assert "w/o TD minus" in ran.err


def test_a_part_now_and_the_rest_later_are_the_whole(rdmf, command, tmp_path):
    whole = rdmf(*command)
    some = [tmp_path / "parts" if each == tmp_path / "out" else each for each in command]
    part = rdmf(*some, "--model", "w/o TD", "--seed", 0)
    assert part.code == 0
    assert "2 runs to train (1 at once), 0 are there already" in part.err
    assert "not asked for now and not there: full (seed 0)" in part.err
    rest = rdmf(*some)
    assert "2 runs to train (1 at once), 2 are there already" in rest.err
    assert _without_seconds(rest.out) == _without_seconds(whole.out)


def _without_seconds(text: str) -> list[str]:
    return [line for line in text.splitlines() if " s " not in line]


def test_what_failed_is_named_and_the_exit_code_is_1(rdmf, command, tmp_path):
    wild = "  - {name: wild, set: {training.lr: 1.0e+30, training.gradient_clip: 1.0e+30}}\n"
    (tmp_path / "plan.yaml").write_text(PLAN + wild)
    ran = rdmf(*command)
    assert ran.code == 1
    assert "diverged" in ran.err.splitlines()[-1]
    assert "w/o TD" in ran.out


def test_costs_are_measured_once_and_shown_with_each_model(rdmf, command, tmp_path):
    first, again = rdmf(*command[:-1]), rdmf(*command[:-1])
    assert first.code == 0
    assert "measuring what 2 models cost, in turn" in first.err
    assert "measuring" not in again.err
    assert again.out == first.out
    full, without = json.loads((tmp_path / "out" / "table.json").read_text())["table"]["rows"]
    assert full["cost"]["flops_per_query"] > without["cost"]["flops_per_query"] > 0
    assert full["cost"]["parameters"] == full["parameters"]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--workers", "many"], 2, "expected a number of workers"),
        (["--device", "cuda:9"], 2, "cuda:9"),
        (["--set", "model.hiden=4"], 2, "model.hiden"),
        (["--set", "training"], 2, "section.key=value"),
        (["--folds", "gone.json"], 1, "no file of folds gone.json"),
        (["--text-store", "gone"], 1, "'gone'"),
        (["--set", "training.epochs=0"], 2, "training.epochs"),
        (["--model", "w/o"], 2, "expected models of full; w/o TD, got 'w/o'"),
        (["--seed", "1"], 2, "expected seeds of 0"),
    ],
)
def test_wrong_options_are_named_and_leave_no_folder(rdmf, command, tmp_path, more, code, said):
    ran = rdmf(*command, *more)
    assert ran.code == code
    assert said in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert not (tmp_path / "out").exists()
