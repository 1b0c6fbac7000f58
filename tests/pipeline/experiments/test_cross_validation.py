"""Cross-validations that are really trained: the test part is only tested on, and nothing is done twice or lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Item
from rdmf.extract.schedule import extract_store
from rdmf.manifests.files import read_manifest, write_manifest
from rdmf.manifests.folds import make_folds, read_folds, write_folds
from rdmf.manifests.schema import Manifest, Moment, Query, Video
from rdmf.pipeline.comparison.evaluate_run import predict_run
from rdmf.pipeline.evaluation.evaluate import evaluate
from rdmf.pipeline.evaluation.predictions import Prediction
from rdmf.pipeline.experiments.cross_validation import cross_validate
from rdmf.pipeline.experiments.crossval_plan import read_plan
from rdmf.pipeline.experiments.crossval_tables import markdown, pooled
from rdmf.pipeline.experiments.crossval_work import choose
from rdmf.pipeline.experiments.kept_results import find_kept
from rdmf.pipeline.loading.dataset import open_features
from rdmf.pipeline.training.checkpoint import load_result, load_run_info

BASE = {
    "model": {"hidden": 16, "fusion": {"ffn": 16}, "moment": {"queries": 5, "heads": 2}},
    "training": {"batch": 16, "epochs": 2},
}
TRIALS = [{"training.lr": 1e-3}, {"training.lr": 1e-2}]
CA = {"name": "ca", "set": {"model.fusion.kind": "cross_attention", "model.fusion.heads": 2}, "trials": TRIALS}
RD = {"name": "r/d", "trials": TRIALS}
WILD = {"training.lr": 1e30, "training.gradient_clip": 1e30}


def write(folder: Path, models=(CA, RD), **sections) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"base": BASE, "models": list(models), "seeds": [3, 1], "folds": 2} | sections))
    return path


def weights(out: Path, below: str = "runs") -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted((out / below).rglob("best.safetensors"))}


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def numbers(table) -> dict:
    tree = table.to_json()
    for row in tree["table"]["rows"]:
        row["train_seconds"] = None
    return tree


@pytest.fixture(scope="module")
def features(tiny, tmp_path_factory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("features"), {"train": 12, "val": 2, "test": 2})


@pytest.fixture(scope="module")
def bench(features, tmp_path_factory):
    """2 models, 2 folds, 2 trials, 2 seeds, in this process; how it went, and the table after the first fold."""
    folder = tmp_path_factory.mktemp("bench")
    ended, after_fold_0 = [], []
    before = stamps(features)

    def end(progress) -> None:
        ended.append(progress)
        if progress.task.fold == 1 and not after_fold_0:
            after_fold_0.append((folder / "out" / "table.md").read_text())

    table = cross_validate(read_plan(write(folder)), features, folder / "out", "0", on_end=end)
    assert stamps(features) == before
    return folder / "out", table, ended, after_fold_0[0]


def test_pooled_numbers_are_those_of_all_test_predictions_judged_at_once(bench, features):
    out, table, _, _ = bench
    rows = {row.name: row for row in table.numbers.rows}
    manifest = read_manifest(features / "manifest.parquet")
    truth = replace(manifest, queries=tuple(replace(query, split="all") for query in manifest.queries))
    for name, folder in (("ca", "ca"), ("r/d", "r-d")):
        judged = []
        for seed in (3, 1):
            predictions = []
            for fold, found in table.tuned[name].items():
                run = out / "runs" / f"fold-{fold}" / folder / f"trial-{found.chosen + 1}" / f"seed-{seed}"
                predictions += predict_run(run, "test").predictions
            judged.append(evaluate(predictions, truth, "qvhighlights", "all").numbers)
        assert rows[name].seeds == (1, 3)
        for metric, number in rows[name].numbers.items():
            assert number.value == pytest.approx(np.mean([each[metric] for each in judged]), abs=1e-6)
    assert (table.numbers.queries, table.numbers.videos) == (64, 16)
    (pair,) = table.differences
    assert pair == ("r/d", "ca")
    gap = rows["r/d"].numbers["mIoU"].value - rows["ca"].numbers["mIoU"].value
    assert table.differences[pair]["mIoU"].value == pytest.approx(gap)
    (tested,) = [test for test in table.tests[0].tests if test.metric == "mIoU"]
    assert tested.difference == pytest.approx(gap)


def test_the_trial_with_the_best_validation_score_is_the_only_one_that_is_tested(bench):
    out, table, _, _ = bench
    for name, folder in (("ca", "ca"), ("r/d", "r-d")):
        for fold, found in table.tuned[name].items():
            of_model = out / "runs" / f"fold-{fold}" / folder
            best = [load_result(of_model / f"trial-{trial}" / "seed-3").best["mAP"] for trial in (1, 2)]
            assert found.scores == tuple(best)
            assert found.chosen == int(np.argmax(best))
            winner, loser = f"trial-{found.chosen + 1}", f"trial-{2 - found.chosen}"
            assert {path.name for path in (of_model / loser).iterdir()} == {"seed-3"}
            assert find_kept(of_model / loser / "seed-3", "test") is None
            for seed in (3, 1):
                assert find_kept(of_model / winner / f"seed-{seed}", "test") is not None
                assert load_run_info(of_model / winner / f"seed-{seed}").config.training.seed == seed
    assert (table.runs, table.planned_runs) == (12, 12) == (len(weights(out)), 12)
    assert table.lacking == []


def test_a_fold_is_finished_before_the_next_begins_and_told_then(bench):
    out, table, ended, after_fold_0 = bench
    tasks = [progress.task for progress in ended]
    assert tasks == sorted(tasks)
    assert len(tasks) == 2 * 2 * (2 + 2)
    assert "ONLY fold 0 of 2" in after_fold_0
    assert "- folds 1 are not finished" in after_fold_0
    final = (out / "table.md").read_text()
    assert final == markdown(table)
    assert "All 2 folds" in final
    assert "ONLY" not in final
    assert json.loads((out / "table.json").read_text()) == json.loads(json.dumps(table.to_json(), allow_nan=False))


def test_every_query_is_tested_once_and_folds_are_written_beside(bench, features):
    out, _, _, _ = bench
    folds = read_folds(out / "folds.json")
    tested = []
    for k in range(2):
        split = open_features(out / "folds" / f"fold-{k}").manifest.split("test")
        assert {query.vid for query in split} == set(folds.groups[k])
        tested += [query.qid for query in split]
    assert sorted(tested) == sorted(query.qid for query in read_manifest(features / "manifest.parquet").queries)


def test_the_same_command_again_does_nothing_and_another_model_or_seed_only_itself(bench, features, tmp_path):
    out, table, _, _ = bench
    before = stamps(out / "runs")
    ended = []
    again = cross_validate(read_plan(write(tmp_path)), features, out, "0", on_end=ended.append)
    assert ended == []
    assert numbers(again) == numbers(table)
    assert {path: at for path, at in stamps(out / "runs").items() if "sweep.json" not in path} == {
        path: at for path, at in before.items() if "sweep.json" not in path
    }
    wider = {"name": "wide", "set": {"model.hidden": 32}, "trials": TRIALS}
    comparisons = [["wide", "r/d"], ["r/d", "ca"]]
    plan = read_plan(write(tmp_path, (CA, RD, wider), comparisons=comparisons))
    more = cross_validate(plan, features, out, "0", on_end=ended.append)
    assert {progress.task.model for progress in ended} == {2}
    assert list(more.differences) == [("wide", "r/d"), ("r/d", "ca")]
    assert [row.numbers for row in more.numbers.rows[:2]] == [row.numbers for row in table.numbers.rows]
    old, new = table.differences["r/d", "ca"]["mAP"], more.differences["r/d", "ca"]["mAP"]
    assert replace(new, p_holm=0) == replace(old, p_holm=0)
    family = sorted([new, more.differences["wide", "r/d"]["mAP"]], key=lambda number: number.p)
    assert family[0].p_holm == pytest.approx(min(1, 2 * family[0].p))
    assert family[1].p_holm == pytest.approx(max(family[0].p_holm, family[1].p))
    t_p = [test for each in more.tests for test in each.tests if test.metric == "mAP"]
    assert min(test.t_p_holm for test in t_p) == pytest.approx(min(1, 2 * min(test.t_p for test in t_p)))


def test_a_part_is_trained_alone_and_told_beside_what_is_there(bench, features, tmp_path):
    out, table, _, _ = bench
    lone = {"name": "lone", "set": {"model.hidden": 8, "model.moment.heads": 2}, "trials": TRIALS}
    plan = read_plan(write(tmp_path, (CA, lone, RD), comparisons=[["lone", "ca"], ["r/d", "ca"]]))
    shutil.copytree(out, tmp_path / "out", symlinks=True)
    ended, told = [], set()

    def end(progress) -> None:
        ended.append(progress)
        told.add((tmp_path / "out" / "table.md").read_text())

    part = cross_validate(plan, features, tmp_path / "out", "0", part=plan.part(["lone"], [3]), on_end=end)
    assert told == {(out / "table.md").read_text()}  # all folds of before, until there are as many again
    assert [(p.task.model, p.run.seed) for p in ended] == [(1, 3)] * 6  # two trials and a test on each fold
    assert [(p.done, p.left) for p in ended] == [(1, 3), (2, 2), (2, 2), (3, 1), (4, 0), (4, 0)]
    rows = {row.name: row for row in part.numbers.rows}
    assert [rows[name].seeds for name in ("ca", "lone", "r/d")] == [(1, 3), (3,), (1, 3)]
    assert rows["ca"].numbers == table.numbers.rows[0].numbers
    assert list(part.differences) == [("lone", "ca"), ("r/d", "ca")]
    assert part.seeds_of("lone", "ca") == [3]
    assert "lone minus ca (seed 3)" in markdown(part)
    assert "r/d minus ca |" in markdown(part)
    of_lone, of_rd = (test for each in part.tests for test in each.tests if test.metric == "mIoU")
    assert of_lone.difference == pytest.approx(part.differences["lone", "ca"]["mIoU"].value)  # over the seed of both
    assert of_rd.difference == pytest.approx(part.differences["r/d", "ca"]["mIoU"].value)
    assert part.lacking == []
    assert any("not asked for now and not there: lone (seed 1)" in note for note in part.numbers.notes)
    assert any(note.startswith("one seed of lone: ") for note in part.numbers.notes)
    assert (part.runs, part.planned_runs) == (16, 18)
    before = weights(tmp_path / "out")
    whole = cross_validate(plan, features, tmp_path / "out", "0")
    assert [row.seeds for row in whole.numbers.rows] == [(1, 3)] * 3
    assert (whole.runs, whole.lacking) == (18, [])
    assert before.items() <= weights(tmp_path / "out").items()


def test_nothing_of_the_test_part_reaches_a_weight_or_a_choice(bench, features, tiny, tmp_path):
    out, table, _, _ = bench
    hidden = set(read_folds(out / "folds.json").groups[0])
    manifest = read_manifest(features / "manifest.parquet")
    queries = tuple(
        replace(query, windows=(Moment(0.0, 2.0),), saliency=None, text="nonsense") if query.vid in hidden else query
        for query in manifest.queries
    )
    asked = {query.qid: query.vid for query in queries}

    def poisoned(source) -> Item:
        """Great random features of whatever is about the test part of fold 0."""
        item = tiny.item(source)
        if asked.get(source.id, source.id) in hidden:
            item = replace(item, values=np.random.default_rng(5).normal(0, 50, item.values.shape))
        return item

    opened = open_features(features)
    contents = {"video": {vid: vid for vid in manifest.videos}, "text": {q.qid: q.text for q in manifest.queries}}
    for store in (opened.video[0], opened.text):
        sources = [source_of(id, content) for id, content in contents[store.spec.kind].items()]
        folder = tmp_path / "features" / store.spec.kind / store.spec.folder_name
        extract_store(folder, store.spec, sources, lambda: one_by_one(poisoned))
    write_manifest(replace(manifest, queries=queries), tmp_path / "features" / "manifest.parquet")
    other = cross_validate(read_plan(write(tmp_path)), tmp_path / "features", tmp_path / "out", "0")
    there, here = weights(out, "runs/fold-0"), weights(tmp_path / "out", "runs/fold-0")
    here_models = {name: data for name, data in there.items() if "/wide/" not in name}
    assert here == here_models
    assert len(here) == 6
    assert weights(tmp_path / "out", "runs/fold-1") != weights(out, "runs/fold-1")  # where it is trained on
    for row, name in enumerate(("ca", "r/d")):
        assert other.tuned[name][0] == table.tuned[name][0]
        assert other.numbers.rows[row].numbers != table.numbers.rows[row].numbers


def source_of(id: str, content: str):
    from rdmf.extract.layout import Source

    return Source(id, content)


def test_a_trial_that_fails_is_never_chosen_and_named(features, tmp_path):
    bad = CA | {"trials": [WILD, TRIALS[0]]}
    table = cross_validate(read_plan(write(tmp_path, (bad, RD), seeds=[0])), features, tmp_path / "out", "0")
    assert {found.chosen for found in table.tuned["ca"].values()} == {1}
    assert all(found.scores[0] is None for found in table.tuned["ca"].values())
    assert len(table.lacking) == 2
    assert all("ca, trial 1, seed 0, fold" in said and "diverged" in said for said in table.lacking)
    assert table.numbers.rows[0].numbers is not None


def test_a_model_that_always_fails_is_a_row_without_numbers_and_the_others_are_told(features, tmp_path):
    hopeless = {"name": "hopeless", "set": WILD, "trials": [{}]}
    fine = {"name": "fine", "trials": [{}]}
    table = cross_validate(read_plan(write(tmp_path, (hopeless, fine), seeds=[0])), features, tmp_path / "out", "0")
    assert table.numbers.rows[0].numbers is None
    assert table.numbers.rows[1].numbers is not None
    assert table.differences == {}
    assert "no trial was trained" in table.lacking[0]
    with pytest.raises(ValueError, match=r"no model is finished .*diverged"):
        cross_validate(read_plan(write(tmp_path, (hopeless,), seeds=[0])), features, tmp_path / "other", "0")


def test_folders_of_others_and_folds_that_do_not_fit_are_refused_and_left_alone(bench, features, tmp_path, tiny):
    out, _, _, _ = bench
    before = stamps(out)
    other = {"base": BASE | {"training": BASE["training"] | {"batch": 8}}}
    with pytest.raises(ValueError, match=r"another base: training\.batch is 16 there, 8 here; give --out"):
        cross_validate(read_plan(write(tmp_path, **other)), features, out, "0")
    with pytest.raises(ValueError, match="holds a fold of other features"):
        cross_validate(read_plan(write(tmp_path, folds=4)), features, out, "0")
    fewer = tiny.manifest({"train": 12, "val": 2})
    write_folds(make_folds(fewer, 2), tmp_path / "folds.json")
    with pytest.raises(ValueError, match=r"2 that are in none \(test000, test001\)"):
        cross_validate(read_plan(write(tmp_path), folds=tmp_path / "folds.json"), features, tmp_path / "new", "0")
    assert not (tmp_path / "new").exists()
    changed = {path: at for path, at in stamps(out).items() if before[path] != at}
    assert changed == {}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no cross-validation"):
        cross_validate(read_plan(write(tmp_path)), features, tmp_path / "mine", "0")
    unbuilt = {"name": "wild", "set": {"model.fusion.dt": 0.9}, "trials": TRIALS}
    with pytest.raises(ValueError, match=r"wild, trial 1: .*smaller dt"):
        cross_validate(read_plan(write(tmp_path, (unbuilt,))), features, tmp_path / "new", "0")


def test_the_first_of_equal_trials_is_chosen_and_none_where_all_failed():
    assert choose([0.2, 0.3, 0.3]).chosen == 1
    assert choose([None, 0.0]).chosen == 1
    assert choose([None, None]).chosen is None


def test_segments_of_one_source_video_are_one_unit_of_the_pooled_table():
    def fold(vids):
        queries = tuple(Query(vid, vid, "a", "test", (Moment(0, 10.0),)) for vid in vids)
        manifest = Manifest("qvhighlights", 2.0, {vid: Video(vid, 150.0) for vid in vids}, queries)
        return evaluate([Prediction(vid, np.array([[0, 8, 0.9]])) for vid in vids], manifest, resamples=0)

    whole = pooled([fold(["a_0.0_150.0", "a_150.0_300.0"]), fold(["b_0.0_150.0"])])
    assert whole.table["source"].tolist() == ["a", "a", "b"]
    assert whole.table["qid"].tolist() == ["a_0.0_150.0", "a_150.0_300.0", "b_0.0_150.0"]
    assert whole.rdmf["counts"] | {"queries": 3, "videos": 3} == whole.rdmf["counts"]
    assert whole.metrics["brief"]["MR-full-mIoU"] == 80


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["scores.val.json", "scores.test.json"])
def test_a_benchmark_that_is_killed_goes_on_with_what_it_has(bench, features, tmp_path, moment):
    done, table, _, _ = bench
    path, out = write(tmp_path), tmp_path / "out"
    command = [sys.executable, "-m", "rdmf.cli", "crossval", path, "--features", features, "--out", out]
    process = subprocess.Popen([*map(str, command), "--workers", "2"], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob(f"runs/*/*/*/*/{moment}")):
        time.sleep(0.005)
    process.kill()
    process.wait()
    finished = {run.parent: stamps(run.parent) for run in out.glob(f"runs/*/*/*/*/{moment}")}
    assert finished
    again = cross_validate(read_plan(path), features, out, "2")
    assert numbers(again) == numbers(table)
    kept = {name: data for name, data in weights(done).items() if "/wide/" not in name}
    assert weights(out) == kept
    for run, before in finished.items():
        assert {path: at for path, at in stamps(run).items() if path in before} == before
