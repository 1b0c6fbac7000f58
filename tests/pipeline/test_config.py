from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import rdmf
from rdmf.pipeline.config import Config, dump_config, load_config, parse_config
from rdmf.pipeline.fusion_config import CrossAttentionConfig

SHIPPED = Path(rdmf.__file__).parent / "configs"
CONFIGS = sorted([*SHIPPED.glob("*.yaml"), *(SHIPPED / "models").glob("*.yaml")])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_that_ships_is_valid(path):
    assert isinstance(load_config(path), Config)


def test_the_paper_s_config_is_the_default():
    path = SHIPPED / "models" / "rdmf_paper.yaml"
    assert load_config(path) == Config()


def test_a_dumped_config_reads_back_equal():
    config = load_config(None, ["model.fusion.kind=cross_attention", "training.lr=3e-4"])
    assert parse_config(yaml.safe_load(dump_config(config)), "dump") == config


def test_overrides_reach_nested_keys_and_choose_the_fusion():
    config = load_config(None, ["model.fusion.kind=cross_attention", "model.diffusion.steps=0", "training.seed=5"])
    assert isinstance(config.model.fusion, CrossAttentionConfig)
    assert config.model.diffusion.steps == 0
    assert config.training.seed == 5


def test_without_the_iou_head_confidence_is_the_class_alone():
    assert load_config(None, ["model.moment.iou=false"]).model.moment.iou_share == 0


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.hiden=3", "model.hiden"),
        ("model.hidden=100", "heads that divide"),
        ("model.context={layers: 1, heads: 3}", "heads that divide hidden = 256, got 3"),
        ("model.context.layers=-1", "model.context.layers"),
        ("model.fusion.kind=magic", "magic"),
        ("training.lr=-1", "training.lr"),
        ("training.lr=.nan", "training.lr"),
        ("training.batch=0", "training.batch"),
        ("training.batch=many", "training.batch"),
        ("training", "section.key=value"),
        ("training.lr.x=1", "training.lr"),
        ("loss.span=[", "no YAML value"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(override, named):
    with pytest.raises(ValueError, match=r".") as error:
        load_config(None, [override])
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_that_do_not_go_together_are_told_without_the_section_they_stand_in():
    with pytest.raises(ValueError, match=r"model: expected heads that divide hidden = 100, got 8$"):
        load_config(None, ["model.hidden=100"])


@pytest.mark.parametrize("text", ["- a list", "model: [", "5", "\x00"])
def test_a_file_that_is_no_config_is_refused_in_a_sentence(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"expected sections|no YAML"):
        load_config(path)


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no config file"):
        load_config(tmp_path / "absent.yaml")
