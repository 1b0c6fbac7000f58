"""`rdmf train` as a user meets it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

QUICK = ["--set", "model.hidden=32", "--set", "model.moment.queries=10", "--set", "training.lr=1e-3"]


def command(features: Path, out: Path, *more: object) -> list[str]:
    return ["train", "--features", str(features), "--out", str(out), *QUICK, *map(str, more)]


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--set", "model.hiden=4", "model.hiden"),
        ("--set", "training.lr=fast", "training.lr"),
        ("--set", "training", "section.key=value"),
        ("--set", "training.ema=1", "training.ema"),
        ("--set", "training.precision=fp8", "training.precision"),
        ("--set", "training.compile=maybe", "training.compile"),
        ("--set", "training.schedule=linear", "training.schedule"),
        ("--set", "training.step_factor=0", "training.step_factor"),
        ("--set", "training.accumulate=0", "training.accumulate"),
        ("--set", "training.log_every=0", "training.log_every"),
        ("--set", "training.checkpoint_steps=-1", "training.checkpoint_steps"),
        ("--device", "cuda:9", "cuda:9"),
        ("--device", "gpu", "gpu"),
        ("--tensorboardd", "", "No such option"),
    ],
)
def test_a_wrong_option_is_wrong_usage(rdmf, tiny_features, tmp_path, option, value, named):
    ran = rdmf(*command(tiny_features, tmp_path / "run"), *filter(None, (option, value)))
    assert ran.code == 2
    assert named in " ".join(ran.err.split())
    assert not (tmp_path / "run").exists()


def test_a_wrong_file_of_settings_is_a_failure_that_names_it(rdmf, tiny_features, tmp_path):
    (tmp_path / "c.yaml").write_text("model: {hiden: 4}\n")
    ran = rdmf(*command(tiny_features, tmp_path / "run", "--config", tmp_path / "c.yaml"))
    assert ran.code == 1
    assert ran.err.startswith(f"rdmf: {tmp_path}/c.yaml: model.hiden")


def test_features_that_do_not_fit_leave_no_folder(rdmf, tmp_path):
    ran = rdmf(*command(tmp_path, tmp_path / "run"))
    assert ran.code == 1
    assert "holds no features" in ran.err
    assert not (tmp_path / "run").exists()


def test_settings_that_the_model_refuses_leave_no_folder(rdmf, tiny_features, tmp_path):
    twice_as_wide = ["--video-store", "topics", "--video-store", "topics"]
    ran = rdmf(*command(tiny_features, tmp_path / "run", *twice_as_wide, "--set", "model.relevance=4"))
    assert ran.code == 1
    assert "relevance" in ran.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_away_from_a_terminal_there_is_a_line_per_epoch_with_the_best_marked(rdmf, tiny_features, tmp_path):
    ran = rdmf(*command(tiny_features, tmp_path / "run", "--set", "training.epochs=2"))
    assert ran.code == 0
    assert ran.out == ""
    lines = ran.err.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1", "2"]
    assert epochs[0].endswith("*")  # the first is the best so far
    assert all("mAP" in line and "loss" in line for line in epochs)
    assert "best epoch" in lines[-1]


def test_divergence_is_one_sentence_and_exit_code_1(rdmf, tiny_features, tmp_path):
    ran = rdmf(*command(tiny_features, tmp_path / "run", "--set", "training.lr=1e30",
                        "--set", "training.gradient_clip=1e30"))  # fmt: skip
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("rdmf: training diverged at epoch 1, step ")
    assert "diverged.safetensors" in ran.err
    assert "Traceback" not in ran.err


def start(arguments: list[str], **streams) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "150"}
    return subprocess.Popen(
        [sys.executable, "-m", "rdmf.cli", *arguments], text=True, env=env, preexec_fn=hear_interrupts, **streams
    )


def hear_interrupts() -> None:
    """A job in the background of a shell is started with interrupts ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wait", "said"),
    [("last.safetensors", "; go on with --resume"), ("steps.jsonl", "stopped before the first checkpoint")],
)
def test_ctrl_c_says_where_it_stopped_and_how_to_go_on(tiny_features, tmp_path, wait, said):
    out = tmp_path / "run"
    more = ["--set", "training.epochs=10000", "--set", "training.log_every=1"]
    if wait == "steps.jsonl":
        more += ["--set", "training.batch=1"]  # the first of many steps before the first checkpoint
    process = start(command(tiny_features, out, *more), stderr=subprocess.PIPE)
    wait_for(out / wait, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    last = err.splitlines()[-1]
    assert last.startswith("stopped ")
    assert last.endswith(said)
    assert "Traceback" not in err


@pytest.mark.slow
def test_on_a_terminal_there_is_a_live_panel(tiny_features, tmp_path):
    ours, theirs = pty.openpty()
    process = start(command(tiny_features, tmp_path / "run", "--set", "training.epochs=3"), stderr=theirs)
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
    for part in ("epoch 2/3", "queries/s", "gradient", "left", "best so far: epoch", "best epoch"):
        assert part in text
    assert text.count("\x1b[") > 10  # it is drawn over, not printed again and again
