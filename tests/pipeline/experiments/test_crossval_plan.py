"""What the plan of a benchmark says, and what it must not say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rdmf.manifests.folds import Folds, write_folds
from rdmf.pipeline.experiments.crossval_plan import READY, read_plan
from rdmf.pipeline.model import RDMF

CA = {"name": "cross attention", "set": {"model.fusion.kind": "cross_attention"}}
RD = {"name": "rd"}
TWO = [{"training.lr": 1e-3}, {"training.lr": "5e-4", "model.dropout": 0.2}]


def write(folder: Path, models, **sections) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"models": models} | sections, sort_keys=False))
    return path


def test_models_trials_and_what_everybody_shares(tmp_path):
    (tmp_path / "base.yaml").write_text("training: {epochs: 3}\n")
    models = [CA | {"trials": TWO}, RD | {"trials": TWO}]
    path = write(tmp_path, models, base="base.yaml", set={"training.batch": 4}, seeds=[5, 2], folds="f.json")
    theirs, mine = (Folds("d", seed, (("a",), ("b",))) for seed in (0, 1))
    write_folds(theirs, tmp_path / "f.json")
    write_folds(mine, tmp_path / "mine.json")
    plan = read_plan(path, overrides=["training.patience=7"])
    assert [(m.name, m.folder) for m in plan.models] == [("cross attention", "cross-attention"), ("rd", "rd")]
    assert {t.config.training.epochs for m in plan.models for t in m.trials} == {3}
    assert {t.config.training.batch for m in plan.models for t in m.trials} == {4}
    assert {t.config.training.patience for m in plan.models for t in m.trials} == {7}
    assert [[t.config.training.lr for t in m.trials] for m in plan.models] == [[1e-3, 5e-4]] * 2
    assert plan.models[0].trials[1].config.model.fusion.kind == "cross_attention"
    assert plan.models[0].trials[1].folder == "cross-attention/trial-2"
    assert plan.models[0].said == ("training.lr = 0.001", "training.lr = 0.0005, model.dropout = 0.2")
    assert plan.models[1].settings == {}
    assert (plan.trials, plan.seeds, plan.folds) == (2, (5, 2), theirs)
    assert read_plan(path, folds=tmp_path / "mine.json").folds == mine


def test_everything_is_compared_with_the_baseline_unless_comparisons_are_named(tmp_path):
    third = {"name": "third", "set": {"model.hidden": 64}}
    plan = read_plan(write(tmp_path, [CA, RD, third], baseline="rd"))
    assert plan.comparisons == (("cross attention", "rd"), ("third", "rd"))
    plan = read_plan(write(tmp_path, [CA, RD, third], comparisons=[["third", "rd"]]))
    assert plan.comparisons == (("third", "rd"),)


def test_a_models_config_file_is_laid_over_the_base_and_what_is_set_goes_over_it(tmp_path):
    (tmp_path / "theirs.yaml").write_text("model: {hidden: 64, dropout: 0.5}\ntraining: {epochs: 9}\n")
    theirs = {"name": "theirs", "config": "theirs.yaml", "set": {"model.input_dropout": 0.4}}
    base = {"model": {"hidden": 32, "moment": {"queries": 7}}}
    plan = read_plan(write(tmp_path, [RD, theirs], base=base, set={"training.epochs": 2}))
    (ours,), (other,) = (model.trials for model in plan.models)
    assert (ours.config.model.hidden, ours.config.training.epochs) == (32, 2)
    got = other.config.model
    assert (got.hidden, got.dropout, got.input_dropout, got.moment.queries) == (64, 0.5, 0.4, 7)
    assert other.config.training.epochs == 2
    assert plan.models[1].settings == {"model.hidden": 64, "model.dropout": 0.5, "model.input_dropout": 0.4}
    with pytest.raises(ValueError, match=r"gone\.yaml"):
        read_plan(write(tmp_path, [theirs | {"config": "gone.yaml"}]))


@pytest.mark.parametrize(
    ("models", "sections", "said"),
    [
        ([CA | {"trials": TWO}, RD], {}, "as many trials for every model, .*, got cross attention 2, rd 1"),
        ([RD | {"trials": []}], {}, "as many trials for every model, .*, got rd 0"),
        ([RD | {"trials": [{}, {"model.dropout": 0.1}]}], {}, "two of rd have the same settings"),
        ([RD | {"trials": [{"training.lrr": 1}]}], {}, "rd, trial 1: training.lrr is no setting"),
        ([RD | {"trials": [{"training.seed": 1}]}], {}, "expected seeds under `seeds`"),
        ([CA, RD | {"trials": [{"training.select_by": "mIoU"}]}], {}, "one training.select_by for .*got mAP and mIoU"),
        ([CA, RD | {"trials": [{"training": {"select_by": "mIoU"}}]}], {}, "one training.select_by for"),
        ([{"name": "sweep.json"}], {}, "a different name for each model"),
        ([RD | {"set": {"model.fusion.kind": [1]}}], {}, "model.fusion"),
        ([CA, RD], {"baseline": "ours"}, "models of cross attention; rd to compare, got 'ours'"),
        ([CA, RD], {"comparisons": [["rd", "ours"]]}, "to compare, got 'ours'"),
        ([CA, RD], {"comparisons": [["rd", "rd"]]}, "to be of two models"),
        ([CA, RD], {"comparisons": [["rd", "cross attention"], ["cross attention", "rd"]]}, "come once"),
        ([CA, RD, {"name": "RD"}], {}, "a different name for each model"),
        ([{"name": ".."}], {}, "in letters or digits"),
        ([], {}, "at least one model"),
        ([RD], {"seeds": [1, 1]}, "different seeds"),
        ([RD], {"split": "test"}, "split: Extra inputs"),
        ([RD], {"base": "gone.yaml"}, "no config file .*gone.yaml"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(tmp_path, models, sections, said):
    with pytest.raises(ValueError, match=said):
        read_plan(write(tmp_path, models, **sections))


@pytest.mark.parametrize("text", ["- 1", "a: [", "\x00", "5", ""])
def test_a_file_that_is_no_plan_is_refused(tmp_path, text):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"plan\.yaml"):
        read_plan(tmp_path / "plan.yaml")


def test_a_name_that_is_nowhere_is_refused_with_the_names_that_are():
    with pytest.raises(ValueError, match=r"captions, captions-longer, .*, demo; got 'caption'"):
        read_plan(Path("caption"))


@pytest.mark.parametrize("name", sorted(path.stem for path in READY.glob("*.yaml")))
def test_every_plan_that_comes_with_rdmf_is_taken_by_the_model(name):
    plan = read_plan(Path(name))
    for model in plan.models:
        for trial in model.trials:
            RDMF(trial.config.model, 16, 16)
    assert len(plan.seeds) >= 3
    assert (plan.folds if isinstance(plan.folds, int) else len(plan.folds)) >= 3
    assert f"\n# rdmf crossval {name} --features" in (READY / f"{name}.yaml").read_text()


def test_a_seed_for_all_is_refused_where_plans_have_their_own(tmp_path):
    with pytest.raises(ValueError, match=r"expected seeds under `seeds`, got --set training\.seed"):
        read_plan(write(tmp_path, [RD]), overrides=["training.seed=3"])


def test_a_part_of_a_plan_is_of_its_models_seeds_and_folds(tmp_path):
    plan = read_plan(write(tmp_path, [RD, {"name": "a"}, {"name": "b"}], seeds=[4, 1, 2]))
    assert plan.part() == ({"rd", "a", "b"}, {4, 1, 2}, {0, 1, 2, 3, 4})
    assert plan.part(["b", "a"], [2, 4], [3]) == ({"a", "b"}, {4, 2}, {3})
    for names, seeds, folds, said in (
        (["c"], [], [], "models of rd; a; b, got 'c'"),
        ([], [1], [], "4 among them"),
        ([], [4, 9], [], "of 4, 1, 2"),
        ([], [], [0, 5], "folds of 0 to 4, got 5"),
        ([], [], [-1], "folds of 0 to 4, got -1"),
    ):
        with pytest.raises(ValueError, match=said):
            plan.part(names, seeds, folds)
