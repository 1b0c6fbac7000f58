"""`rdmf evaluate` as a user meets it: several files or runs, groups, changes before scoring, what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdmf import cli
from rdmf.pipeline.config import Config, parse_config
from rdmf.pipeline.evaluation.predictions import Prediction, write_predictions
from rdmf.pipeline.training.train import train


@pytest.fixture
def rdmf(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rdmf", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with val.jsonl and two files of predictions for it."""
    lines, predictions = [], []
    for i in range(12):
        window = [3.0 * i + 0.5, 3.0 * i + 15.5]
        lines.append({"qid": i, "vid": f"v{i}", "query": "a", "duration": 60 + 3 * i, "relevant_windows": [window]})
        start, end = window
        near = np.array([[start + 1, end + 1, 0.9], [max(0, start - 9), end, 0.5], [start + 1, 99.0, 0.1]])
        predictions.append(Prediction(str(i), near))
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    write_predictions(predictions, tmp_path / "a.jsonl")
    write_predictions([Prediction(p.qid, p.windows[1:]) for p in predictions], tmp_path / "b.jsonl")
    return tmp_path


def test_several_files_are_rows_with_their_mean_and_deviation(rdmf: Callable, files: Path) -> None:
    two = ["--predictions", files / "a.jsonl", "--predictions", files / "b.jsonl", "--annotations", files / "val.jsonl"]
    code, out, err = rdmf(*two)
    assert code == 0
    for text in ("a.jsonl", "b.jsonl", "mean ± deviation of 2", "R1@0.5", "mIoU"):
        assert text in out
    assert "do not say their config" in err
    tree = json.loads(rdmf(*two, "--json", "-")[1])
    assert set(tree["evaluations"]) == {"a.jsonl", "b.jsonl"}
    values = [e["rdmf"]["intervals"]["mIoU"]["value"] for e in tree["evaluations"].values()]
    assert tree["over_runs"]["numbers"]["mIoU"]["mean"] == pytest.approx(np.mean(values))
    assert tree["over_runs"]["numbers"]["mIoU"]["deviation"] == pytest.approx(np.std(values, ddof=1))


def test_groups_are_printed_and_in_the_json(rdmf: Callable, files: Path) -> None:
    one = ["--predictions", files / "a.jsonl", "--annotations", files / "val.jsonl"]
    code, out, _ = rdmf(*one, "--by", "length", "--by", "duration")
    assert code == 0
    for text in ("by length", "middle", "by duration", "30 to 60 s", "1 to 2 min", "(11 queries)"):
        assert text in out
    groups = json.loads(rdmf(*one, "--by", "windows", "--json", "-")[1])["rdmf"]["groups"]
    assert groups["windows"]["1 window"]["queries"] == 12
    code, _, err = rdmf(*one, "--by", "colour")
    assert code == 2
    assert "expected one of length, windows, duration, kind, got 'colour'" in err


def test_predictions_are_saved_as_they_were_judged(rdmf: Callable, files: Path) -> None:
    one = ["--predictions", files / "a.jsonl", "--annotations", files / "val.jsonl"]
    change = ["--nms-threshold", "0.3", "--clamp", "--round-to", "2"]
    first = json.loads(rdmf(*one, *change, "--save-predictions", files / "c.jsonl", "--json", "-")[1])
    saved = ["--predictions", files / "c.jsonl", "--annotations", files / "val.jsonl"]
    again = json.loads(rdmf(*saved, "--json", "-")[1])
    assert again["full"] == first["full"]
    changes = [note for note in first["rdmf"]["notes"] if "before scoring" in note]
    assert [note.split()[3] for note in changes] == ["clamped", "rounded", "thinned"]
    assert json.loads(rdmf(*one, "--json", "-")[1])["full"] != first["full"]


def test_a_missing_query_is_one_sentence_and_counts_as_wrong_on_request(rdmf: Callable, files: Path) -> None:
    lines = (files / "a.jsonl").read_text("utf-8").splitlines()
    (files / "a.jsonl").write_text("\n".join(lines[1:]), encoding="utf-8")
    one = ["--predictions", files / "a.jsonl", "--annotations", files / "val.jsonl"]
    code, _, err = rdmf(*one)
    assert (code, err.count("\n")) == (1, 1)
    assert "a.jsonl: expected a prediction for each of the 12 queries" in err
    assert "--allow-missing" in err
    code, _, err = rdmf(*one, "--allow-missing")
    assert code == 0
    assert "1 of 12 queries have no prediction and count as wrong" in err


def test_options_that_do_not_go_together_are_wrong_usage(rdmf: Callable, files: Path) -> None:
    one = ["--predictions", files / "a.jsonl", "--annotations", files / "val.jsonl"]
    for wrong in (
        ["--predictions", files / "a.jsonl"], [*one, "--controls"], [*one, *one[:2]],
        ["--run", "r", "--times-in", "clips"], ["--run", "r", *one],
        ["--features", "f"], ["--controls"], ["--features", "f", "--controls", "--save-predictions", "p"],
        [*one, "--predictions", files / "b.jsonl", "--save-predictions", files / "c.jsonl"],
    ):  # fmt: skip
        assert rdmf(*wrong)[0] == 2


def test_guesses_need_features_alone(rdmf: Callable, tiny: type, tmp_path: Path) -> None:
    features = tiny.write(tmp_path / "features", {"train": 3, "val": 2})
    code, out, _ = rdmf("--features", features, "--controls", "--json", tmp_path / "guesses.json")
    assert code == 0
    tree = json.loads((tmp_path / "guesses.json").read_text("utf-8"))
    assert set(tree) == {"random", "centre prior", "any moment", "cosine"}
    assert all(name in out for name in tree)


def test_seeds_of_a_run_are_evaluated_together(rdmf: Callable, tiny: type, tiny_config: Config, tmp_path: Path) -> None:
    features = tiny.write(tmp_path / "features", {"train": 3, "val": 2})
    for seed in (0, 1):
        training = tiny_config.training.model_dump() | {"epochs": 1, "seed": seed}
        train(features, tmp_path / f"seed{seed}", parse_config(tiny_config.model_dump() | {"training": training}, "t"))
    runs = ["--run", tmp_path / "seed0", "--run", tmp_path / "seed1"]
    code, out, err = rdmf(*runs, "--json", tmp_path / "both.json", "--by", "windows")
    assert code == 0
    for text in ("seed0", "seed1", "mean ± deviation of 2", "by windows"):
        assert text in out
    assert "config" not in err
    tree = json.loads((tmp_path / "both.json").read_text("utf-8"))
    assert tree["over_runs"]["notes"] == []
    numbers = [e["rdmf"]["intervals"]["HL-Good-mAP"]["value"] for e in tree["evaluations"].values()]
    assert tree["over_runs"]["numbers"]["HL-Good-mAP"]["mean"] == pytest.approx(np.mean(numbers))
