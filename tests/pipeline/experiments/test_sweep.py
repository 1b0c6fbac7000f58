"""What a sweep's file says, and what it must not say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rdmf.pipeline.config import Config, load_config
from rdmf.pipeline.experiments.sweep import CONFIGS, changed, read_sweep, ready_sweeps, slug
from rdmf.pipeline.model import RDMF


def write(folder: Path, **sections) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
    return path


def points(sweep) -> dict[str, tuple]:
    return {v.name: (v.config.model.fusion.feed, v.config.model.fusion.kill) for v in sweep.variants}


def test_a_grid_is_every_combination_named_in_the_papers_letters(tmp_path):
    sweep = read_sweep(write(tmp_path, grid={"model.fusion.feed": [0.02, 0.04], "model.fusion.kill": [0.05, 0.06]}))
    assert points(sweep) == {
        "F=0.02, k=0.05": (0.02, 0.05), "F=0.02, k=0.06": (0.02, 0.06),
        "F=0.04, k=0.05": (0.04, 0.05), "F=0.04, k=0.06": (0.04, 0.06),
    }  # fmt: skip
    assert len({v.folder for v in sweep.variants}) == 4
    assert sweep.baseline.name == "F=0.02, k=0.05"


def test_factors_vary_one_by_one_around_the_base_and_the_bases_own_value_shares_its_runs(tmp_path):
    factors = {"model.fusion.feed": [0.02, 0.04], "training.lr": ["1e-3"]}
    sweep = read_sweep(write(tmp_path, factors=factors, set={"training.epochs": 7}))
    assert points(sweep) == {n: (f, 0.06) for n, f in [("base", 0.04), ("F=0.02", 0.02), ("F=0.04", 0.04)]} | {
        "training.lr=0.001": (0.04, 0.06)
    }
    folders = {v.name: v.folder for v in sweep.variants}
    assert folders["F=0.04"] == folders["base"] != folders["F=0.02"]
    assert {v.config.training.epochs for v in sweep.variants} == {7}


def test_variants_baseline_seeds_and_what_the_command_line_adds(tmp_path):
    (tmp_path / "base.yaml").write_text("training: {epochs: 3}\n")
    variants = [{"name": "full"}, {"name": "w/o TD", "set": {"model.diffusion.steps": 0, "training.batch": 4}}]
    path = write(tmp_path, base="base.yaml", variants=variants, baseline="w/o TD", seeds=[4, 2])
    sweep = read_sweep(path, overrides=["training.batch=9"], split="test")
    assert [v.folder for v in sweep.variants] == ["full", "w-o-TD"]
    assert [v.config.training.batch for v in sweep.variants] == [9, 4]
    assert {v.config.training.epochs for v in sweep.variants} == {3}
    assert (sweep.baseline.name, sweep.seeds, sweep.split) == ("w/o TD", (4, 2), "test")
    assert sweep.variants[1].seeded(4).training.seed == 4
    (tmp_path / "other.yaml").write_text("training: {epochs: 5}\n")
    assert read_sweep(path, tmp_path / "other.yaml").base.training.epochs == 5


FILE = """
model: {input_dropout: 0.5, fusion: {kind: cross_attention, heads: 4}}
training: {batch: 4, epochs: 4, lr: 0.1, patience: 4}
"""


def test_a_variants_config_file_goes_over_the_base_and_under_what_is_set(tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "other.yaml").write_text(FILE)
    base = {"model": {"hidden": 32, "fusion": {"kind": "reaction_diffusion", "steps": 9, "ffn": 64}}}
    variants = [
        {"name": "base"},
        {"name": "other", "config": "../other.yaml"},
        {"name": "again", "config": "../other.yaml", "set": {"training.epochs": 1, "training.lr": 0.3}},
    ]
    sweep = read_sweep(
        write(tmp_path / "sweeps", base=base, variants=variants, set={"training.batch": 6, "training.epochs": 6}),
        overrides=["training.epochs=8", "training.lr=0.2"],
    )
    own, other, again = (variant.config for variant in sweep.variants)
    assert sweep.base == own
    assert (own.model.fusion.steps, own.training.patience, own.model.input_dropout) == (9, 10, 0.3)
    # the file's, and the base's where it says nothing; nothing of another kind of fusion
    assert (other.model.hidden, other.model.input_dropout, other.training.patience) == (32, 0.5, 4)
    assert other.model.fusion.model_dump() == {"kind": "cross_attention", "heads": 4, "ffn": 64}
    # file < the sweep's set < the command line < the variant's set
    assert [(c.training.batch, c.training.epochs, c.training.lr) for c in (own, other, again)] == [
        (6, 8, 0.2), (6, 8, 0.2), (6, 1, 0.3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no config file .*other.yaml"),
        ("- 1", "expected sections .* in .*other.yaml, got list"),
        ("", "expected sections .* in .*other.yaml, got NoneType"),
        ("model: 5", r"other\.yaml: model"),
        ("modell: {hidden: 5}", r"other\.yaml: modell is no setting"),
        ("model: {fusion: {kind: magic}}", r"other\.yaml: model\.fusion"),
        ("model: &a {hidden: *a}", r"other\.yaml"),
        ("model: !!python/object/apply:os.getcwd []", "other.yaml is no YAML that can be read"),
        ("a: [", "other.yaml is no YAML that can be read"),
    ],
)
def test_a_variants_config_file_that_is_none_is_refused_by_name(tmp_path, text, said):
    if text is not None:
        (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_sweep(write(tmp_path, variants=[{"name": "a", "config": "other.yaml"}]))


def test_a_folder_is_no_config_file(tmp_path):
    with pytest.raises(ValueError, match="no YAML that can be read"):
        read_sweep(write(tmp_path, variants=[{"name": "a", "config": "."}]))


def test_another_kind_of_fusion_or_kinetics_forgets_what_the_base_said_of_the_former():
    base = changed(Config(), {"model.fusion.steps": 20, "model.fusion.ffn": 64, "model.fusion.kill": 0.05}, "t")
    attention = changed(base, {"model.fusion.kind": "cross_attention"}, "t").model.fusion
    assert (attention.kind, attention.ffn) == ("cross_attention", 64)
    schnakenberg = changed(base, {"model.fusion.kinetics": "schnakenberg", "model.fusion.a": 0.2}, "t").model.fusion
    assert (schnakenberg.steps, schnakenberg.a, schnakenberg.b, schnakenberg.feed) == (20, 0.2, 0.9, None)
    whole = changed(base, {"model.fusion": {"kind": "cross_attention", "heads": 4}}, "t").model.fusion
    assert (whole.heads, whole.ffn) == (4, 1024)
    with pytest.raises(ValueError, match="steps is no setting"):  # what the variant itself says is never dropped
        changed(base, {"model.fusion.kind": "cross_attention", "model.fusion.steps": 3}, "t")


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"variant": []}, "variant: Extra inputs are not permitted"),
        ({}, "expected variants, factors or a grid"),
        ({"grid": {"model.fusion.feed": []}}, "none of .*feed"),
        ({"grid": {"model.fusion.feeed": [1]}}, "feeed is no setting"),
        ({"grid": {"modell.fusion": [1]}}, "modell.fusion is no setting"),
        ({"grid": {"model.fusion.feed": [{"a": 1}]}}, "grid.model.fusion.feed"),
        ({"factors": {"training.seed": [1]}}, "expected seeds under `seeds`"),
        ({"variants": [{"name": "a"}], "seeds": [1, 1]}, "different seeds"),
        ({"variants": [{"name": "a"}], "seeds": []}, "different seeds"),
        ({"variants": [{"name": "a"}, {"name": "a", "set": {"training.lr": 1}}]}, "different name"),
        ({"variants": [{"name": "a/b"}, {"name": "A b", "set": {"training.lr": 1}}]}, "different folders"),
        ({"variants": [{"name": "a"}, {"name": "a"}]}, "a different name for each"),
        ({"variants": [{"name": ".."}]}, "with letters or digits"),
        ({"variants": [{"name": "table.md"}]}, "different folders"),
        ({"variants": [{"name": "a"}], "baseline": "b"}, "a baseline of a, got 'b'"),
        ({"variants": [{"name": "a", "set": {"model.hidden": "wide"}}]}, r"a: model\.hidden"),
        ({"grid": {f"training.{k}": list(range(1, 99)) for k in ("batch", "epochs", "patience")}}, "at most 10,000"),
        ({"base": "gone.yaml", "variants": [{"name": "a"}]}, "no config file .*gone.yaml"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(tmp_path, sections, said):
    with pytest.raises(ValueError, match=said):
        read_sweep(write(tmp_path, **sections))


@pytest.mark.parametrize("text", ["- 1", "a: [", "\x00", "5"])
def test_a_file_that_is_no_sweep_is_refused(tmp_path, text):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"sweep\.yaml"):
        read_sweep(tmp_path / "sweep.yaml")


def test_a_name_that_is_nowhere_is_refused_with_the_names_that_are():
    with pytest.raises(ValueError, match=r"components, .*queries"):
        read_sweep(Path("component"))


@pytest.mark.parametrize("name", ready_sweeps())
def test_every_sweep_that_comes_with_rdmf_is_taken_by_the_model_and_is_about_the_papers_config(name):
    sweep = read_sweep(Path(name))
    for variant in sweep.variants:
        RDMF(variant.config.model, 16, 8)
    assert sweep.split == "val"
    assert len(sweep.seeds) >= 3
    paper = changed(load_config(CONFIGS / "models" / "rdmf_paper.yaml"), {}, "t")
    assert sweep.base.training == paper.training
    header = ready_sweeps()[name].read_text()
    assert f"\n# rdmf ablate {name} --features" in header


def test_names_of_ready_sweeps_are_one_files_each_and_the_command_lists_them(rdmf):
    files = [path for folder in ("ablations", "paper") for path in (CONFIGS / folder).glob("*.yaml")]
    assert sorted(ready_sweeps().values()) == sorted(files)
    told = rdmf("ablate", "--help").out.replace(",", " ").replace(".", " ").replace(";", " ").split()
    assert set(ready_sweeps()) <= set(told)


def test_folders_keep_what_is_safe_of_a_name():
    assert slug("w/o TD") == "w-o-TD"
    assert slug("D_u=0.2, D_v=0.1") == "D_u=0.2-D_v=0.1"
    assert slug("../..") == ""
    assert slug("...a") == "a"
