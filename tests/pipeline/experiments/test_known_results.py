"""Results that travel: what fits is not trained again and gives the very same table, what does not fit is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rdmf.manifests.files import annotations_sha256, read_manifest, write_manifest
from rdmf.manifests.schema import Moment
from rdmf.manifests.sealed import sealed
from rdmf.pipeline.experiments.cross_validation import cross_validate
from rdmf.pipeline.experiments.crossval_plan import read_plan
from rdmf.pipeline.experiments.known_results import read_known

BASE = {
    "model": {"hidden": 16, "fusion": {"ffn": 16}, "moment": {"queries": 5, "heads": 2}},
    "training": {"batch": 16, "epochs": 1},
}
TRIALS = [{"training.lr": 1e-3}, {"training.lr": 1e-2}]
CA = {"name": "ca", "set": {"model.fusion.kind": "cross_attention", "model.fusion.heads": 2}, "trials": TRIALS}
RD = {"name": "r/d", "trials": TRIALS}


def write(folder: Path, models=(CA, RD), **sections) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"base": BASE, "models": list(models), "seeds": [3, 1], "folds": 2} | sections))
    return path


def trained(path: Path, features: Path, out: Path, known: Path | None = None):
    """The table, and what was trained for it: (model, seed, fold)."""
    plan, ended = read_plan(path), []
    table = cross_validate(plan, features, out, "0", known=known, on_end=ended.append)
    return table, [(plan.models[each.task.model].name, each.run.seed, each.task.fold) for each in ended]


@pytest.fixture(scope="module")
def features(tiny, tmp_path_factory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("features"), {"train": 12, "val": 2, "test": 2})


@pytest.fixture(scope="module")
def bench(features, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    table, _ = trained(write(folder), features, folder / "out")
    return folder / "out", table


def rewritten(path: Path, table: pa.Table, **said) -> None:
    """The file again, sealed, with another table or other contents."""
    header = json.loads(pq.read_schema(path).metadata[b"rdmf"]) | said
    path.write_bytes(sealed(table.replace_schema_metadata({b"rdmf": json.dumps(header).encode()})))


def test_who_has_the_results_has_the_table_without_training_anything(bench, features, tmp_path):
    out, table = bench
    assert {path.name for path in (out / "results").iterdir()} == {"ca.parquet", "r-d.parquet"}
    again, ended = trained(write(tmp_path), features, tmp_path / "out", out / "results")
    assert ended == []
    assert not list((tmp_path / "out" / "runs").rglob("best.safetensors"))
    assert again.numbers.rows == table.numbers.rows  # seconds and parameters, too
    for part in ("differences", "tests", "tuned", "trials", "runs", "lacking", "select_by"):
        assert getattr(again, part) == getattr(table, part)
    assert set(again.numbers.notes) - set(table.numbers.notes) == {"not trained here as far as known before: ca; r/d"}
    for name in ("ca.parquet", "r-d.parquet"):  # and they go on to whoever is next
        assert (tmp_path / "out" / "results" / name).read_bytes() == (out / "results" / name).read_bytes()


def test_only_a_new_model_is_trained_and_stands_beside_the_known_under_whatever_name(bench, features, tmp_path):
    out, table = bench
    theirs, mine = CA | {"name": "attention"}, {"name": "mine", "set": {"model.hidden": 8}, "trials": TRIALS}
    plan = write(tmp_path, (mine, theirs), comparisons=[["mine", "attention"]])
    found, ended = trained(plan, features, tmp_path / "out", out / "results")
    assert {name for name, _, _ in ended} == {"mine"}
    assert len(ended) == 2 * (2 + 2)
    assert found.numbers.rows[1].numbers == table.numbers.rows[0].numbers
    assert list(found.differences) == [("mine", "attention")]
    assert found.lacking == []


def test_seeds_and_folds_that_a_file_lacks_are_trained(bench, features, tmp_path):
    out, table = bench
    shutil.copytree(out / "results", tmp_path / "known")
    path = tmp_path / "known" / "ca.parquet"
    rows = pq.read_table(path)
    tests = json.loads(rows.schema.metadata[b"rdmf"])["tests"]
    of_fold_0_seed_3 = (np.array(rows["fold"]) == 0) & (np.array(rows["seed"]) == 3)
    rewritten(
        path, rows.filter(pa.array(~of_fold_0_seed_3)), tests=[t for t in tests if (t["fold"], t["seed"]) != (0, 3)]
    )
    found, ended = trained(write(tmp_path), features, tmp_path / "out", tmp_path / "known")
    assert ended == [("ca", 3, 0)]
    assert found.numbers.rows[0].numbers == table.numbers.rows[0].numbers


def test_files_of_one_model_add_up_where_they_were_tuned_alike(bench, features, tmp_path):
    out, table = bench
    known = tmp_path / "known"
    shutil.copytree(out / "results", known)
    rows = pq.read_table(known / "ca.parquet")
    tests = json.loads(rows.schema.metadata[b"rdmf"])["tests"]
    for seed in (3, 1):  # a file of each; together they are the whole
        path = known / f"ca-{seed}.parquet"
        shutil.copy(known / "ca.parquet", path)
        of_seed = pa.array(np.array(rows["seed"]) == seed)
        rewritten(path, rows.filter(of_seed), tests=[test for test in tests if test["seed"] == seed])
    (known / "ca.parquet").unlink()
    found, ended = trained(write(tmp_path), features, tmp_path / "out", known)
    assert ended == []
    assert found.numbers.rows == table.numbers.rows

    path = known / "ca-3.parquet"  # the later one
    scores = json.loads(pq.read_schema(path).metadata[b"rdmf"])["scores"]
    scores["0"] = scores["0"][::-1]
    rewritten(path, pq.read_table(path), scores=scores)
    _, ended = trained(write(tmp_path), features, tmp_path / "again", known)
    assert ended == [("ca", 3, 0)]


def test_one_fold_can_be_told_alone_beside_the_table_of_all(bench, features, tmp_path):
    out, table = bench
    plan = read_plan(write(tmp_path))
    alone = cross_validate(plan, features, out, "0", part=plan.part(folds=[1]), on_end=lambda progress: 1 / 0)
    assert (alone.folds_in, alone.lacking) == ((1,), [])
    assert alone.numbers.queries < table.numbers.queries
    assert "ONLY fold 1 of 2" in (out / "table-of-fold-1.md").read_text()
    assert "All 2 folds" in (out / "table.md").read_text()
    fresh, ended = tmp_path / "fresh", []
    first = cross_validate(plan, features, fresh, "0", part=plan.part(folds=[0]), on_end=ended.append)
    assert {each.task.fold for each in ended} == {0}
    assert (first.lacking, ended[-1].left) == ([], 0)
    assert not (fresh / "table.md").exists()
    with pytest.raises(ValueError, match="expected folds of 0 to 1, got 2"):
        plan.part(folds=[2])


def test_results_of_other_settings_seeds_or_annotations_are_not_used_and_the_tables_say_so(bench, features, tmp_path):
    out, _ = bench

    def notes_of(plan, features=features):
        found, ended = trained(plan, features, tmp_path / "out", out / "results")
        shutil.rmtree(tmp_path / "out")
        assert {name for name, _, _ in ended} == {"ca"}
        return " ".join(found.numbers.notes)

    wider = CA | {"set": CA["set"] | {"model.hidden": 8}}
    assert "ca.parquet are not used: they are of other settings" in notes_of(write(tmp_path, [wider]))
    assert "tuned with seed 3, these are with 1" in notes_of(write(tmp_path, [CA], seeds=[1, 3]))
    assert "on other folds or annotations" in notes_of(write(tmp_path, [CA], folds=4))
    shutil.copytree(features, tmp_path / "features", symlinks=True)
    manifest = read_manifest(features / "manifest.parquet")
    moved = (replace(manifest.queries[0], windows=(Moment(0.0, 2.0),)), *manifest.queries[1:])
    write_manifest(replace(manifest, queries=moved), tmp_path / "features" / "manifest.parquet")
    assert "on other folds or annotations" in notes_of(write(tmp_path, [CA]), tmp_path / "features")


def test_annotations_are_the_same_whatever_file_they_came_in_and_others_are_not(features):
    manifest = read_manifest(features / "manifest.parquet")
    first, *rest = manifest.queries
    same = replace(manifest, queries=(first, *rest), findings=())
    assert annotations_sha256(same) == annotations_sha256(manifest)
    whole = replace(first, windows=tuple(Moment(int(w.start_s), int(w.end_s) + 1) for w in first.windows))
    fractions = replace(first, windows=tuple(Moment(float(w.start_s), float(w.end_s)) for w in whole.windows))
    assert annotations_sha256(replace(manifest, queries=(whole, *rest))) == annotations_sha256(
        replace(manifest, queries=(fractions, *rest))
    )
    for other in (replace(first, text="another"), replace(first, split="elsewhere"), replace(first, windows=())):
        assert annotations_sha256(replace(manifest, queries=(other, *rest))) != annotations_sha256(manifest)


def test_files_that_are_damaged_or_something_else_are_refused_by_name_before_anything_is_made(
    bench, features, tmp_path
):
    out, _ = bench
    known, good = tmp_path / "known", out / "results" / "ca.parquet"
    plan, path = write(tmp_path), known / "ca.parquet"

    def refused(match: str) -> None:
        with pytest.raises(ValueError, match=match):
            trained(plan, features, tmp_path / "out", known)
        assert not (tmp_path / "out").exists()

    refused("expected a folder of results")
    known.mkdir()
    refused("expected files of results in")
    path.write_bytes(b"PAR1 nonsense")
    refused(r"ca\.parquet, got no Parquet file")
    pq.write_table(pa.table({"a": [1]}), path)
    refused(r"ca\.parquet, got another Parquet file")
    data = bytearray(good.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    refused(r"ca\.parquet is damaged")
    rows = pq.read_table(good)
    shutil.copyfile(good, path)
    rewritten(path, rows, format=99)
    refused("expected results of format 1 in .* got 99")
    shutil.copyfile(good, path)
    rewritten(path, rows, protocol="guesswork")
    refused("expected a protocol of")
    shutil.copyfile(good, path)
    rewritten(path, rows.set_column(rows.schema.get_field_index("iou"), "iou", pa.array(np.full(len(rows), 7.0))))
    refused("expected shares of 1 in column iou")
    for lacks in ("iou_at_5", "fold"):
        shutil.copyfile(good, path)
        rewritten(path, rows.drop_columns([lacks]))
        refused(rf"ca\.parquet holds no results that can be read: '{lacks}'")
    shutil.copyfile(good, path)
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * len(rows))), 2)
    at = rows.schema.get_field_index("ap_by_threshold")
    rewritten(path, rows.set_column(at, "ap_by_threshold", narrow))
    refused(r"ca\.parquet holds no results that can be read: index")
    shutil.copyfile(good, path)
    rewritten(path, rows.slice(0, 5))
    refused("expected rows of just the folds and seeds")
    shutil.copyfile(good, path)
    rewritten(path, rows.slice(1))
    with pytest.raises(ValueError, match="queries of fold 0, got others"):
        trained(plan, features, tmp_path / "out", known)
    assert len(read_known(out / "results")) == 2
