"""Sweeps that are really trained: what is told is what the runs give, and nothing is done twice or lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from rdmf.pipeline.comparison.evaluate_run import evaluate_run
from rdmf.pipeline.evaluation.columns import columns
from rdmf.pipeline.experiments.ablate import ablate
from rdmf.pipeline.experiments.ablation_plan import prepare
from rdmf.pipeline.experiments.kept_results import find_kept
from rdmf.pipeline.experiments.sweep import read_sweep
from rdmf.pipeline.experiments.training_jobs import train_seconds
from rdmf.pipeline.training.checkpoint import load_run_info
from rdmf.pipeline.training.run_folder import is_locked

BASE = {
    "model": {
        "hidden": 16, "dropout": 0.1, "fusion": {"kind": "reaction_diffusion", "ffn": 16},
        "moment": {"queries": 5, "heads": 2},
    },
    "training": {"batch": 16, "epochs": 2, "lr": 1e-3},
}  # fmt: skip
FULL, NO_TD = {"name": "full"}, {"name": "w/o TD", "set": {"model.diffusion.steps": 0}}
UNBOUNDED = {"name": "wild", "set": {"model.fusion.dt": 0.9}}
ENDLESS = {"name": "endless", "set": {"training.epochs": 100_000, "training.patience": 100_000}}


def write(folder: Path, variants, **sections) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"base": BASE, "variants": variants, "seeds": [0, 1]} | sections))
    return path


def swept(path: Path, features: Path, out: Path, workers: str = "0", **options):
    """The table, and the runs that ended: name -> why it failed, or nothing."""
    ended: dict[str, str] = {}
    plan = prepare(read_sweep(path), features, out, **options)

    def end(run, results):
        ended[run.name] = results if isinstance(results, str) else ""

    return ablate(plan, workers, on_end=end), ended


def weights(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("best.safetensors"))}


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def without_times(table) -> list[dict]:
    return [row.to_json() | {"train_seconds": 0} for row in table.rows]


@pytest.fixture(scope="module")
def sweep(tiny_features, tmp_path_factory):
    """Two variants, one that the model refuses, two seeds; trained in this process."""
    folder = tmp_path_factory.mktemp("sweep")
    before = stamps(tiny_features)
    table, ended = swept(write(folder, [FULL, NO_TD, UNBOUNDED]), tiny_features, folder / "out")
    assert stamps(tiny_features) == before  # features are read only
    return folder, table, ended


def test_numbers_are_those_that_evaluate_gives_for_the_run_folders(sweep):
    folder, table, ended = sweep
    assert ended == {f"{variant}, seed {seed}": "" for variant in ("full", "w/o TD") for seed in (0, 1)}
    rows = {row.name: row for row in table.rows}
    judged = {
        row.name: [evaluate_run(folder / "out" / row.folder / f"seed-{seed}", "val").run for seed in row.seeds]
        for row in (rows["full"], rows["w/o TD"])
    }
    for name, runs in judged.items():
        assert len(runs) == 2
        for metric, number in rows[name].numbers.items():
            assert number.value == pytest.approx(np.mean([run.numbers[metric] for run in runs]))
    pairs = zip(judged["w/o TD"], judged["full"], strict=True)
    gaps = [np.mean(columns(a.table)["mIoU"] - columns(b.table)["mIoU"]) for a, b in pairs]
    assert rows["w/o TD"].differences["mIoU"].value == pytest.approx(np.mean(gaps))
    assert rows["full"].differences is None
    assert table.split == "val"
    assert any("epoch was chosen on this very split" in note for note in table.notes)


def test_each_run_is_a_run_like_any_other_with_the_settings_of_its_variant(sweep):
    folder, _, _ = sweep
    for name, steps in (("full", 10), ("w-o-TD", 0)):
        for seed in (0, 1):
            info = load_run_info(folder / "out" / name / f"seed-{seed}")
            assert (info.config.model.diffusion.steps, info.config.training.seed) == (steps, seed)
            assert info.machine["threads"] == 1
    said = json.loads((folder / "out" / "table.json").read_text())
    assert [row["name"] for row in said["rows"]] == ["full", "w/o TD", "wild"]
    assert said["rows"][1]["settings"] == {"model.diffusion.steps": 0}
    assert said["rows"][0]["parameters"] - said["rows"][1]["parameters"] == 1  # d
    assert "| full |" in (folder / "out" / "table.md").read_text()


def test_what_the_model_refuses_is_a_row_with_its_sentence_and_no_folder(sweep):
    folder, table, _ = sweep
    row = table.rows[2]
    assert row.numbers is None
    assert "smaller dt" in row.refused
    assert not (folder / "out" / "wild").exists()


def test_the_same_command_again_does_nothing_and_a_new_seed_or_variant_only_itself(sweep, tiny_features):
    folder, table, _ = sweep
    before = stamps(folder / "out" / "full")
    again, ended = swept(write(folder, [FULL, NO_TD, UNBOUNDED]), tiny_features, folder / "out")
    assert (ended, without_times(again)) == ({}, without_times(table))
    assert stamps(folder / "out" / "full") == before
    no_ih = {"name": "w/o IH", "set": {"model.moment.iou": False}}
    more, ended = swept(write(folder, [FULL, no_ih], seeds=[0, 1]), tiny_features, folder / "out")
    assert ended == {"w/o IH, seed 0": "", "w/o IH, seed 1": ""}
    more, ended = swept(write(folder, [FULL, NO_TD], seeds=[0, 1, 7]), tiny_features, folder / "out")
    assert list(ended) == ["full, seed 7", "w/o TD, seed 7"]
    assert more.rows[0].seeds == (0, 1, 7)
    assert {k: v for k, v in stamps(folder / "out" / "full").items() if "seed-7" not in k and k in before} == before


def test_another_split_is_judged_without_training(sweep, tiny_features):
    folder, _, _ = sweep
    before = weights(folder / "out")
    plan = prepare(read_sweep(write(folder, [FULL, NO_TD]), split="test"), tiny_features, folder / "out")
    table = ablate(plan, "0")
    assert table.split == "test"
    assert not any("very split" in note for note in table.notes)
    assert weights(folder / "out") == before
    assert find_kept(folder / "out" / "full" / "seed-0", "val") is not None


def test_variants_with_equal_settings_share_their_runs(tiny_features, tmp_path):
    path = write(tmp_path, [], seeds=[3], factors={"model.fusion.steps": [2, 5]})
    table, ended = swept(path, tiny_features, tmp_path / "out")
    assert list(ended) == ["base, seed 3", "M=2, seed 3"]
    rows = {row.name: row for row in table.rows}
    assert rows["M=5"].numbers == rows["base"].numbers
    assert rows["M=5"].differences is None
    assert rows["M=2"].differences is not None


def test_folders_of_others_are_refused_in_a_sentence(sweep, tiny_features, tmp_path, tiny):
    folder, _, _ = sweep
    before = stamps(folder / "out")
    other = write(tmp_path, [FULL], base=BASE | {"training": BASE["training"] | {"lr": 0.5}})
    with pytest.raises(ValueError, match=r"another base: training\.lr is 0\.001 there, 0\.5 here; give --out"):
        swept(other, tiny_features, folder / "out")
    changed = write(tmp_path, [{"name": "w/o TD", "set": {"model.diffusion.steps": 1}}])
    with pytest.raises(ValueError, match=r"w-o-TD/seed-0 holds .*: model\.diffusion\.steps is 0 there, 1 here"):
        swept(changed, tiny_features, folder / "out")
    fewer = tiny.write(tmp_path / "features", {"train": 4, "val": 2})
    with pytest.raises(ValueError, match="another manifest_sha256"):
        swept(write(tmp_path, [FULL]), fewer, folder / "out")
    assert stamps(folder / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and holds no sweep"):
        swept(write(tmp_path, [FULL]), tiny_features, tmp_path / "mine")


def test_a_split_that_nobody_can_judge_is_refused_before_anything_is_trained(tiny_features, tmp_path):
    with pytest.raises(ValueError, match="no split 'dev'"):
        swept(write(tmp_path, [FULL], split="dev"), tiny_features, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_variant_that_diverges_is_named_and_the_others_are_told(tiny_features, tmp_path):
    bad = {"name": "bad", "set": {"training.lr": 1e30, "training.gradient_clip": 1e30}}
    table, ended = swept(write(tmp_path, [bad, FULL], seeds=[0]), tiny_features, tmp_path / "out")
    assert "diverged at epoch 1" in ended["bad, seed 0"]
    assert table.rows[0].missing == {0: ended["bad, seed 0"]}
    assert table.rows[1].numbers is not None
    assert table.rows[1].differences is None  # there is no baseline to compare with
    with pytest.raises(ValueError, match="no run is finished"):
        swept(write(tmp_path, [bad], seeds=[0]), tiny_features, tmp_path / "other")


def test_memory_and_cores_bound_how_many_train_at_once(tiny_features, tmp_path, monkeypatch):
    monkeypatch.setattr("dask.system.CPU_COUNT", 64)
    plan = prepare(read_sweep(write(tmp_path, [FULL])), tiny_features, tmp_path / "out", threads=4)
    assert plan.feature_bytes > 0
    free = {"bytes": 1e15}
    monkeypatch.setattr("rdmf.pipeline.experiments.ablation_plan.free_memory", lambda device: free["bytes"])
    assert (plan.at_once(100), plan.at_once(3)) == (16, 3)
    free["bytes"] = 10e9
    assert plan.at_once(100) == 5
    free["bytes"] = 0
    assert plan.at_once(100) == 1


def test_the_seconds_of_a_run_count_a_resumed_one_like_any_other(tmp_path):
    def log(*seconds):
        (tmp_path / "log.jsonl").write_text("".join(f'{{"seconds": {s}}}\n' for s in seconds))
        return train_seconds(tmp_path)

    assert log(10, 20, 30, 40) == 40
    assert log(10, 20, 10, 20) == 40  # killed in the third epoch, and gone on with
    (tmp_path / "log.jsonl").unlink()
    assert train_seconds(tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2", "those of a scheduler"])
def test_weights_are_the_same_bits_however_many_train_at_once(sweep, tiny_features, tmp_path, workers):
    from distributed import LocalCluster

    folder, table, _ = sweep
    plan = prepare(read_sweep(write(tmp_path, [FULL, NO_TD])), tiny_features, tmp_path / "out")
    if workers.isdigit():
        again = ablate(plan, workers)
    else:  # with two threads each, of which one trains
        with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
            again = ablate(plan, scheduler=cluster.scheduler_address)
    alone, found = weights(folder / "out"), weights(tmp_path / "out")
    assert len(found) == 4
    assert all(alone[name] == data for name, data in found.items())
    assert without_times(again) == without_times(table)[:2]


def children(pid: int) -> list[int]:
    told = [Path(task / "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for pids in told for child in pids]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_a_worker_that_dies_has_its_run_tried_again_and_then_named(tiny_features, tmp_path):
    doomed, over, kills = tmp_path / "out" / "endless" / "seed-0", threading.Event(), []

    def kill_whoever_trains_it() -> None:
        while not over.is_set():
            if is_locked(doomed):
                for pid in children(os.getpid()):
                    program = Path(f"/proc/{pid}/cmdline").read_bytes()
                    if b"spawn_main" in program or b"forkserver" in program:
                        os.kill(pid, signal.SIGKILL)
                        kills.append(pid)
                while is_locked(doomed):
                    time.sleep(0.01)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_whoever_trains_it)
    killer.start()
    try:
        table, ended = swept(write(tmp_path, [FULL, ENDLESS], seeds=[0]), tiny_features, tmp_path / "out", "1")
    finally:
        over.set()
        killer.join()
    assert ended["full, seed 0"] == ""
    assert "worker process died" in ended["endless, seed 0"]
    assert len(set(kills)) >= 2
    assert table.rows[1].missing == {0: ended["endless, seed 0"]}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["scores.val.json", "last.safetensors"])
def test_a_sweep_that_is_killed_goes_on_with_what_it_has(sweep, tiny_features, tmp_path, moment):
    folder, table, _ = sweep
    path, out = write(tmp_path, [FULL, NO_TD]), tmp_path / "out"
    command = [sys.executable, "-m", "rdmf.cli", "ablate", path, "--features", tiny_features, "--out", out]
    process = subprocess.Popen([*map(str, command), "--workers", "1"], stderr=subprocess.DEVNULL)
    first = out / ("full/seed-0" if moment == "scores.val.json" else "w-o-TD/seed-0")
    while process.poll() is None and not (first / moment).is_file():
        time.sleep(0.005)
    process.kill()
    process.wait()
    finished = {run: stamps(run) for run in out.glob("*/seed-*") if find_kept(run, "val") is not None}
    assert finished
    again, ended = swept(path, tiny_features, out)
    assert len(ended) == 4 - len(finished)
    assert all(stamps(run) == before for run, before in finished.items())
    assert without_times(again) == without_times(table)[:2]
    assert all(weights(folder / "out")[name] == data for name, data in weights(out).items())
