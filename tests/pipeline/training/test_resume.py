"""A run killed at any moment and resumed ends in the bits of a run that nobody disturbed.

The runs are real processes, forked from a server that has torch imported, so that one costs no more than its training.
Nothing here is timed: kills wait for what they aim at to be seen.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rdmf.pipeline.config import Config, parse_config
from rdmf.pipeline.training.checkpoint import load_standing
from rdmf.pipeline.training.runs import summarise
from rdmf.pipeline.training.tensor_files import write_tensors
from rdmf.pipeline.training.train import train

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["rdmf.pipeline.training.train"])
ON_DISK = ("os.mkdir", "open", "os.rename", "os.remove")
"""Python's audit events."""


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """With everything in it that a checkpoint must not forget."""
    tree = tiny_config.model_dump()
    tree["model"] |= {"dropout": 0.2, "input_dropout": 0.1}
    tree["training"] |= {
        "epochs": 3, "accumulate": 2, "bucket": True, "ema": 0.9, "schedule": "cosine", "warmup_steps": 8,
        "checkpoint_steps": 3, "log_every": 2,
    }  # fmt: skip
    return parse_config(tree, "test")


def start(features: Path, out: Path, config: Config) -> multiprocessing.process.BaseProcess:
    process = SERVER.Process(target=train, args=(features, out, config), kwargs={"resume": True})
    process.start()
    return process


def run_to_its_end(features: Path, out: Path, config: Config) -> None:
    process = start(features, out, config)
    process.join()
    assert process.exitcode == 0


def looked_at(out: Path) -> int:
    """Lines of steps.jsonl."""
    try:
        return (out / "steps.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def assert_same_run(a: Path, b: Path) -> None:
    assert (a / "best.safetensors").read_bytes() == (b / "best.safetensors").read_bytes()
    for name, varies in (("log.jsonl", {"seconds"}), ("steps.jsonl", {"queries_per_s", "data_share"})):
        logs = [[json.loads(line) for line in (run / name).open()] for run in (a, b)]
        stripped = [[{k: v for k, v in line.items() if k not in varies} for line in log] for log in logs]
        assert stripped[0] == stripped[1]
    results = [json.loads((run / "result.json").read_text()) | {"seconds": 0} for run in (a, b)]
    assert results[0] == results[1]
    assert not list(b.glob(".*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_killed_at_random_moments_ends_in_the_bits_of_an_undisturbed_one(
    tiny_features, config, tmp_path, precision
):
    tree = config.model_dump()
    config = parse_config(tree | {"training": tree["training"] | {"precision": precision}}, "test")
    run_to_its_end(tiny_features, tmp_path / "whole", config)
    killed, rng, kills = tmp_path / "killed", random.Random(precision), 0
    for _ in range(6):
        process, goal = start(tiny_features, killed, config), looked_at(killed) + rng.randint(0, 4)
        while process.is_alive() and looked_at(killed) < goal:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    run_to_its_end(tiny_features, killed, config)
    assert kills > 0
    assert_same_run(tmp_path / "whole", killed)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["last", "best"])
def test_a_run_killed_while_it_writes_a_checkpoint_loses_nothing(tiny_features, config, tmp_path, file):
    run_to_its_end(tiny_features, tmp_path / "whole", config)
    killed, half_written = tmp_path / "killed", 0
    for _ in range(40):  # a stop may come too late: then the process goes on, to be stopped at its next writing
        process = start(tiny_features, killed, config)
        while process.is_alive() and half_written < 3:
            if not any(killed.glob(f".{file}.safetensors.*.part")):
                continue
            os.kill(process.pid, signal.SIGSTOP)
            if any(killed.glob(f".{file}.safetensors.*.part")):  # frozen in the middle of it
                half_written += 1
                process.kill()
                break
            os.kill(process.pid, signal.SIGCONT)
        process.join()
        if (killed / "result.json").exists():
            break
    assert half_written > 0
    run_to_its_end(tiny_features, killed, config)
    assert_same_run(tmp_path / "whole", killed)


def killed_before(step: int, features: Path, out: Path, config: Config) -> None:
    """Train, but die where the run is about to make, open, rename or remove its file for the step-th time."""
    steps = itertools.count(1)

    def watch(event: str, about: tuple[object, ...]) -> None:
        if event in ON_DISK and str(out) in str(about[0]) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    train(features, out, config, resume=True)


@pytest.mark.slow
def test_a_run_killed_at_any_step_on_the_disk_is_gone_on_with(tiny_features, tiny_config, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # its process imports this file
    tree = tiny_config.model_dump()
    config = parse_config(tree | {"training": tree["training"] | {"epochs": 1, "checkpoint_steps": 10}}, "test")
    run_to_its_end(tiny_features, tmp_path / "whole", config)
    for step in itertools.count(1):
        out = tmp_path / f"killed-{step}"
        process = SERVER.Process(target=killed_before, args=(step, tiny_features, out, config))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        run_to_its_end(tiny_features, out, config)
        assert_same_run(tmp_path / "whole", out)
    assert step > 20


class Stopped(Exception):
    """Raised to end a run where a test wants it to."""


def stopped_after(epoch: int, features: Path, out: Path, config: Config) -> None:
    def stop(record):
        if record["epoch"] == epoch:
            raise Stopped

    with pytest.raises(Stopped):
        train(features, out, config, resume=True, on_epoch=stop)


def test_a_run_killed_between_its_two_files_takes_up_the_weights_that_are_there(tiny_features, tiny_config, tmp_path):
    out, whole = tmp_path / "run", tmp_path / "whole"
    train(tiny_features, whole, tiny_config)
    stopped_after(1, tiny_features, out, tiny_config)
    last = (out / "last.safetensors").read_bytes()
    stopped_after(2, tiny_features, out, tiny_config)
    (out / "last.safetensors").write_bytes(last)  # beside the best weights of epoch 2
    train(tiny_features, out, tiny_config, resume=True)
    assert_same_run(whole, out)


def test_a_damaged_checkpoint_is_refused_and_what_is_whole_is_named(tiny_features, tiny_config, tmp_path, tiny):
    out = tmp_path / "run"
    stopped_after(1, tiny_features, out, tiny_config)
    best = (out / "best.safetensors").read_bytes()
    last = bytearray((out / "last.safetensors").read_bytes())
    last[len(last) // 2] ^= 1
    (out / "last.safetensors").write_bytes(last)
    with pytest.raises(ValueError, match=r"last\.safetensors is damaged .*best\.safetensors \(epoch 1\) is whole"):
        train(tiny_features, out, tiny_config, resume=True)
    assert (out / "best.safetensors").read_bytes() == best


@pytest.mark.parametrize("harm", ["damage", "remove"])
def test_a_run_whose_best_weights_are_lost_does_not_go_on_as_if_it_had_none(tiny_features, tiny_config, tmp_path, harm):
    out = tmp_path / "run"
    stopped_after(1, tiny_features, out, tiny_config)
    path = out / "best.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink() if harm == "remove" else path.write_bytes(data)
    with pytest.raises(ValueError, match=r"best\.safetensors is (damaged|missing)"):
        train(tiny_features, out, tiny_config, resume=True)


def test_a_checkpoint_of_another_version_is_refused_in_a_sentence(tiny_features, tiny_config, tmp_path):
    out = tmp_path / "run"
    stopped_after(1, tiny_features, out, tiny_config)
    tensors, _ = load_standing(out)
    save_file(tensors, out / "last.safetensors")
    with pytest.raises(ValueError, match="no checksum"):
        train(tiny_features, out, tiny_config, resume=True)
    write_tensors(out / "last.safetensors", tensors, {"epoch": "three"})
    with pytest.raises(ValueError, match="another version"):
        train(tiny_features, out, tiny_config, resume=True)


def test_what_rounds_otherwise_is_said_when_a_run_goes_on(tiny_features, tiny_config, tmp_path):
    out, notes = tmp_path / "run", []
    stopped_after(1, tiny_features, out, tiny_config)
    info = json.loads((out / "run.json").read_text())
    info["machine"]["threads"] = info["machine"]["threads"] + 3
    (out / "run.json").write_text(json.dumps(info))
    train(tiny_features, out, tiny_config, resume=True, on_note=notes.append)
    assert any("other threads" in note for note in notes)
    assert summarise(out).state == "finished"


def test_other_annotations_are_another_run(tiny_features, tiny_config, tmp_path):
    out = tmp_path / "run"
    stopped_after(1, tiny_features, out, tiny_config)
    info = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(info | {"manifest_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="another manifest_sha256"):
        train(tiny_features, out, tiny_config, resume=True)


def test_the_draws_of_a_resumed_run_are_those_of_the_run(tiny_features, config, tmp_path):
    """In one process, so that its generators were used by others in between."""
    train(tiny_features, tmp_path / "whole", config)
    stopped_after(1, tiny_features, tmp_path / "run", config)
    torch.randn(1000)
    train(tiny_features, tmp_path / "run", config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
