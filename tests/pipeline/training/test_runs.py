from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdmf.pipeline.config import Config, parse_config
from rdmf.pipeline.training.checkpoint import load_run_info
from rdmf.pipeline.training.epoch import Diverged
from rdmf.pipeline.training.runs import list_runs, summarise
from rdmf.pipeline.training.train import train


def changed(config: Config, **training) -> Config:
    return parse_config(config.model_dump() | {"training": config.training.model_dump() | training}, "test")


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def made(tiny_features, tmp_path_factory) -> Path:
    """A finished run, one that was stopped after an epoch, one stopped within one, and one that diverged."""
    tree = {"model": {"hidden": 32, "fusion": {"kind": "reaction_diffusion", "ffn": 64},
                      "moment": {"queries": 10, "heads": 4}},
            "training": {"batch": 8, "epochs": 3, "lr": 1e-3, "checkpoint_steps": 5, "log_every": 5}}  # fmt: skip
    config, folder = parse_config(tree, "test"), tmp_path_factory.mktemp("runs")

    def stop(when):
        def stopped(at):
            if when(at):
                raise Stopped

        return stopped

    train(tiny_features, folder / "a", changed(config, epochs=1))
    with pytest.raises(Stopped):
        train(tiny_features, folder / "deep/b", config, on_epoch=stop(lambda record: record["epoch"] == 2))
    with pytest.raises(Stopped):
        train(tiny_features, folder / "c", changed(config, seed=5), on_step=stop(lambda at: at.step == 15))
    with pytest.raises(Diverged):
        train(tiny_features, folder / "d", changed(config, lr=1e30, gradient_clip=1e30))
    return folder


def test_every_run_is_listed_with_its_state_and_its_best_numbers(made):
    runs = {run.folder.relative_to(made).as_posix(): run for run in list_runs(made)}
    assert list(runs) == ["a", "c", "d", "deep/b"]
    result = json.loads((made / "a/result.json").read_text())
    assert (runs["a"].state, runs["a"].epochs, runs["a"].best) == ("finished", 1, result["best"])
    assert runs["deep/b"].state == "interrupted after epoch 2"
    assert runs["deep/b"].best_epoch in (1, 2)
    logged = [json.loads(line)["validation"] for line in (made / "deep/b/log.jsonl").open()]
    assert runs["deep/b"].best == logged[runs["deep/b"].best_epoch - 1]
    assert runs["c"].state == "interrupted after epoch 0, 10 steps into the next"
    assert (runs["c"].seed, runs["c"].best) == (5, {})
    assert runs["d"].state.startswith("diverged at epoch 1, step ")
    assert {(run.dataset, run.fusion, run.problem) for run in runs.values()} == {("tiny", "reaction_diffusion", None)}


def test_the_command_prints_a_table_or_json(rdmf, made):
    ran = rdmf("runs", made)
    assert ran.code == 0
    for shown in ("deep/b", "interrupted after", "diverged at epoch 1", "mAP", "2/2", "-/0"):
        assert shown in " ".join(ran.out.split())
    tree = json.loads(rdmf("runs", made, "--json", "-").out)
    assert [Path(run["folder"]).name for run in tree] == ["a", "c", "d", "b"]
    assert tree[0]["best"] == list_runs(made)[0].best


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[" * 100_000),
        ("run.json", '{"format": 3}'),
        ("result.json", "{}"),
        ("result.json", '{"epochs": "many", "best_epoch": 1, "best": {}}'),
        ("result.json", '{"epochs": 1, "best_epoch": 1, "best": {"mAP": "high"}}'),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_listed(rdmf, made, tmp_path, file, content):
    for name in ("whole", "damaged"):
        (tmp_path / name).mkdir()
        for path in (made / "a").iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "damaged" / file).write_text(content)
    ran = rdmf("runs", tmp_path)
    assert ran.code == 1
    assert "whole" in ran.out
    assert "damaged" in ran.err
    assert "1 of 2 runs cannot be read" in ran.err
    assert "Traceback" not in ran.err


def test_where_there_are_no_runs_it_says_so(rdmf, tmp_path):
    assert "holds no runs" in rdmf("runs", tmp_path).err
    ran = rdmf("runs", tmp_path / "absent")
    assert ran.code == 1
    assert "no folder" in ran.err


def test_a_run_of_the_former_format_is_still_listed_and_read(made, tmp_path):
    for path in (made / "a").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    info = json.loads((tmp_path / "run.json").read_text())
    former = {k: v for k, v in info.items() if k not in ("manifest_sha256", "machine")} | {"format": 1}
    (tmp_path / "run.json").write_text(json.dumps(former))
    assert load_run_info(tmp_path).format == 1
    assert summarise(tmp_path).state == "finished"
