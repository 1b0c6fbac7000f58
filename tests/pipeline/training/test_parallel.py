from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from rdmf.pipeline.config import Config, parse_config
from rdmf.pipeline.loading.batches import Share
from rdmf.pipeline.training.parallel import World, together
from rdmf.pipeline.training.tensor_files import read_file
from rdmf.pipeline.training.train import train


def world(rank: int, size: int) -> World:
    return World(torch.device("cpu"), rank, size)


@pytest.mark.parametrize("queries", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_have_every_query_of_a_batch_once(queries, size):
    batch = torch.randperm(queries)
    shares = [world(rank, size).share(batch) for rank in range(size)]
    counted = torch.cat([share.rows for share in shares if share.weight])
    assert sorted(counted.tolist()) == list(range(queries))
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert all(isinstance(share, Share) and len(share.rows) for share in shares)  # everybody has something to do


def test_one_process_alone_tells_itself():
    alone = world(0, 1)
    tensor = torch.arange(3.0)
    alone.add(tensor)
    assert tensor.tolist() == [0, 1, 2]
    assert alone.gather(tensor).tolist() == [[0, 1, 2]]
    assert alone.told({"a": [1, None]}) == {"a": [1, None]}


def test_several_processes_choose_their_gpus_themselves(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="expected --device cuda or cpu"), together("cuda:1"):
        pass


def start(*arguments: object) -> subprocess.Popen[str]:
    """`rdmf train` in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*command, "-m", "rdmf.cli", "train", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def run(*arguments: object) -> tuple[int, str]:
    process = start(*arguments)
    said, _ = process.communicate()
    return process.returncode, said


def changed(config: Config, **training) -> Config:
    """The last batch of an epoch has one query of 160: a process without any."""
    tree = config.model_dump()
    return parse_config(tree | {"training": tree["training"] | {"batch": 53, **training}}, "test")


def written(config: Config, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config.model_dump()))
    return path


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tiny_features, tiny_config, tmp_path):
    config = changed(tiny_config, epochs=3, ema=0.9)
    train(tiny_features, tmp_path / "one", config)
    code, said = run(
        "--features", tiny_features, "--out", tmp_path / "two", "--config", written(config, tmp_path / "c.yaml")
    )
    assert code == 0, said
    assert said.count("epoch   1") == 1  # one of them talks
    logs = [[json.loads(line) for line in (tmp_path / n / "log.jsonl").open()] for n in ("one", "two")]
    assert len(logs[1]) == 3
    for one, two in zip(*logs, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-5, rel=1e-5)
    weights = [read_file(tmp_path / n / "best.safetensors", "").tensors for n in ("one", "two")]
    assert all(torch.allclose(weights[0][k], weights[1][k], rtol=0, atol=1e-5) for k in weights[0])


@pytest.mark.slow
def test_two_processes_that_diverge_keep_the_batch_of_both(tiny_features, tiny_config, tmp_path):
    config = changed(tiny_config, lr=1e30, gradient_clip=1e30, accumulate=2)
    code, said = run(
        "--features", tiny_features, "--out", tmp_path / "run", "--config", written(config, tmp_path / "c.yaml")
    )
    assert code == 1
    assert "training diverged at epoch" in said
    rows = read_file(tmp_path / "run/diverged.safetensors", "").tensors["rows"]
    assert len(rows) in (2 * 53, 53 + 1)
    assert len(rows) == len(rows.unique())


@pytest.mark.slow
def test_two_killed_processes_resume_to_the_bits_of_two_that_were_not(tiny_features, tiny_config, tmp_path):
    tree = changed(tiny_config, epochs=4, checkpoint_steps=2).model_dump()
    tree["model"] |= {"dropout": 0.2}  # of each process its own
    arguments = ["--features", tiny_features, "--config", written(parse_config(tree, "test"), tmp_path / "c.yaml")]
    code, said = run(*arguments, "--out", tmp_path / "whole")
    assert code == 0, said
    process = start(*arguments, "--out", tmp_path / "killed")
    while process.poll() is None and not (tmp_path / "killed/last.safetensors").exists():
        time.sleep(0.001)
    for started in (*psutil.Process(process.pid).children(recursive=True), process):
        started.kill()
    process.communicate()
    assert not (tmp_path / "killed/result.json").exists()
    code, said = run(*arguments, "--out", tmp_path / "killed", "--resume")
    assert code == 0, said
    assert "going on after epoch" in said
    assert (tmp_path / "whole/best.safetensors").read_bytes() == (tmp_path / "killed/best.safetensors").read_bytes()
