from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from rdmf.pipeline.config import parse_config
from rdmf.pipeline.training.checkpoint import Standing
from rdmf.pipeline.training.train import train
from rdmf.pipeline.training.training_log import TrainingLog, last_step

HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None


def write(path: Path, lines: list[dict], torn: str = "") -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()]


@pytest.mark.parametrize(
    ("standing", "last"),
    [(Standing(), (0, 10)), (Standing(2), (2, 10)), (Standing(2, 4), (3, 4)), (Standing(0, 4), (1, 4))],
)
def test_the_last_step_of_a_checkpoint(standing, last):
    assert last_step(standing, 10) == last


def test_lines_that_no_checkpoint_holds_are_dropped_and_torn_ones_too(tmp_path):
    write(tmp_path / "log.jsonl", [{"epoch": e} for e in (1, 2, 3)], torn='{"epoch": 4, "lo')
    write(tmp_path / "steps.jsonl", [{"epoch": e, "step": s} for e in (1, 2, 3) for s in (2, 4)], torn='{"ep')
    TrainingLog(tmp_path, Standing(epoch=2, step=3), 5).close()
    assert [line["epoch"] for line in read(tmp_path / "log.jsonl")] == [1, 2]
    kept = [(line["epoch"], line["step"]) for line in read(tmp_path / "steps.jsonl")]
    assert kept == [(1, 2), (1, 4), (2, 2), (2, 4), (3, 2)]


def test_bytes_that_are_no_text_do_no_harm(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"epoch": 1}\n\xff\xfe\n[]\n{"epoch": 2}\n')
    TrainingLog(tmp_path, Standing(epoch=2), 5).close()
    assert [line["epoch"] for line in read(tmp_path / "log.jsonl")] == [1, 2]


@pytest.mark.skipif(HAS_TENSORBOARD, reason="TensorBoard is installed")
def test_without_tensorboard_one_sentence_says_how_to_get_it(rdmf, tiny_features, tmp_path):
    ran = rdmf("train", "--features", tiny_features, "--out", tmp_path / "run", "--tensorboard")
    assert ran.code == 1
    assert "pip install tensorboard" in ran.err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not HAS_TENSORBOARD, reason="TensorBoard is not installed")
def test_tensorboard_gets_steps_and_epochs(tiny_features, tiny_config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tree = tiny_config.model_dump()
    config = parse_config(tree | {"training": tree["training"] | {"epochs": 2}}, "test")
    train(tiny_features, tmp_path / "run", config, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss/total")] == [10, 20, 30, 40]
    assert [e.step for e in events.Scalars("validation/mAP")] == [20, 40]
    logged = [line["validation"]["mAP"] for line in read(tmp_path / "run/log.jsonl")]
    assert [e.value for e in events.Scalars("validation/mAP")] == pytest.approx(logged)
