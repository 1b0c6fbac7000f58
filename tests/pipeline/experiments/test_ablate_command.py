"""`rdmf ablate` as a user meets it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = """
base:
  model: {hidden: 16, fusion: {ffn: 16}, moment: {queries: 5, heads: 2}}
  training: {epochs: 1, batch: 16}
seeds: [0]
variants:
  - {name: full}
  - {name: w/o TD, set: {model.diffusion.steps: 0}}
"""


@pytest.fixture
def command(tiny_features, tmp_path):
    """Arguments for a sweep in tmp_path/out, trained in this process."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return [
        "ablate", tmp_path / "sweep.yaml", "--features", tiny_features, "--out", tmp_path / "out", "--workers", "0",
    ]  # fmt: skip


def test_it_trains_prints_both_tables_and_does_nothing_the_second_time(rdmf, command, tmp_path):
    ran = rdmf(*command)
    assert ran.code == 0
    for part in ("full", "w/o TD", "minus full", "mIoU", "tiny val"):
        assert part in ran.out
    lines = ran.err.splitlines()
    assert lines[0] == "2 runs to train (1 at once, 1 thread each), 0 are there already"
    assert lines[1].startswith("1/2  full, seed 0  R1@0.5")
    assert any("intervals are about other videos, not about other seeds" in line for line in lines)
    assert (tmp_path / "out" / "table.md").is_file()
    again = rdmf(*command)
    assert again.code == 0
    assert again.out == ran.out
    assert again.err.splitlines()[0] == "all 2 runs are there already"


def test_json_on_standard_output_is_alone_there_and_is_the_file(rdmf, command, tmp_path):
    ran = rdmf(*command, "--json", "-")
    assert json.loads(ran.out) == json.loads((tmp_path / "out" / "table.json").read_text())
    assert "minus full" in ran.err


def test_a_refused_variant_is_named_and_the_exit_code_is_1(rdmf, command, tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP + "  - {name: wild, set: {model.fusion.dt: 0.9}}\n")
    ran = rdmf(*command)
    assert ran.code == 1
    assert ran.err.splitlines()[0].startswith("wild is refused: ")
    assert ran.err.splitlines()[-1].startswith("rdmf: not all variants have all their seeds: wild is refused: ")
    assert "w/o TD" in ran.out


def test_a_dry_run_says_what_is_to_do_and_does_nothing(rdmf, command, tmp_path):
    ran = rdmf(*command, "--dry-run")
    assert ran.code == 0
    assert "0 to do" in ran.out
    assert "2 of 2 runs to do" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--workers", "many"], 2, "expected a number of workers"),
        (["--device", "cuda:9"], 2, "cuda:9"),
        (["--set", "model.hiden=4"], 2, "model.hiden"),
        (["--set", "training"], 2, "section.key=value"),
        (["--split", "dev"], 1, "no split 'dev'"),
        (["--config", "gone.yaml"], 1, "gone.yaml"),
    ],
)
def test_wrong_options_are_named_and_leave_no_folder(rdmf, command, tmp_path, more, code, said):
    ran = rdmf(*command, *more)
    assert ran.code == code
    assert said in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert not (tmp_path / "out").exists()


def test_a_name_stands_for_a_sweep_that_comes_with_rdmf(rdmf, tiny_features, tmp_path):
    ran = rdmf("ablate", "components", "--features", tiny_features, "--out", tmp_path / "out", "--dry-run")
    assert ran.code == 0
    assert "12 of 12 runs to do" in ran.err
    ran = rdmf("ablate", "component", "--features", tiny_features, "--out", tmp_path / "out")
    assert ran.code == 1
    assert "components" in ran.err


@pytest.mark.slow
def test_on_a_terminal_the_runs_that_train_are_shown(command, tmp_path):
    command[-1] = "1"
    ours, theirs = pty.openpty()
    env = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "150"}
    # Some seconds of training: what is shown is looked up once a second.
    epochs = ["--set", "training.epochs=40", "--set", "training.patience=40"]
    arguments = [*map(str, command), *epochs]
    process = subprocess.Popen([sys.executable, "-m", "rdmf.cli", *arguments], env=env, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    for part in ("of 2 runs done", "/40", "queries/s", "2/2", "seed 0"):
        assert part in text
    assert Path(tmp_path / "out" / "table.md").is_file()
