"""Costs: what must hold of the numbers, whatever the machine."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from rdmf.pipeline.config import parse_config
from rdmf.pipeline.experiments.ablate import ablate
from rdmf.pipeline.experiments.ablation_plan import prepare
from rdmf.pipeline.experiments.ablation_tables import markdown, stacked
from rdmf.pipeline.experiments.cost import _Held, measure_cost, measure_costs
from rdmf.pipeline.experiments.sweep import changed, read_sweep
from rdmf.pipeline.loading.dataset import MomentDataset, open_features
from rdmf.pipeline.model import RDMF, count_parameters


def test_weights_are_the_models_and_sizes_are_those_of_a_real_query(tiny_features, tiny_config):
    torch.manual_seed(3)
    cost = measure_cost(tiny_config, tiny_features, seconds=0)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.rand(1) == after  # nobody else's draws changed
    assert cost.parameters == count_parameters(RDMF(tiny_config.model, 12, 12))
    examples = [(len(e.clips.values), len(e.words)) for e in MomentDataset(open_features(tiny_features), "train")]
    assert (cost.clips, cost.words) in examples
    mean = sum(clips for clips, _ in examples) / len(examples)
    assert abs(cost.clips - mean) == min(abs(clips - mean) for clips, _ in examples)  # all have two words
    assert cost.batch == tiny_config.training.batch
    assert 0 < cost.step_fastest <= cost.step_seconds <= cost.step_slowest


def test_operations_and_memory_are_the_same_each_time_and_grow_with_the_model(tiny_features, tiny_config):
    wide = changed(tiny_config, {"model.moment.queries": 40}, "t")
    big = changed(tiny_config, {"training.batch": 16}, "t")
    costs = measure_costs({"a": tiny_config, "again": tiny_config, "wide": wide, "big": big}, tiny_features, seconds=0)
    assert list(costs) == ["a", "again", "wide", "big"]
    assert costs["a"].flops_per_query == costs["again"].flops_per_query == costs["big"].flops_per_query
    assert costs["a"].peak_bytes == costs["again"].peak_bytes < costs["wide"].peak_bytes
    assert costs["wide"].flops_per_query > costs["a"].flops_per_query
    assert costs["big"].peak_bytes > 1.4 * costs["a"].peak_bytes
    # a step holds at least the gradients
    assert costs["a"].peak_bytes > 4 * costs["a"].parameters
    assert len({cost.steps for cost in costs.values()}) == 1


def test_a_batch_larger_than_the_dataset_is_filled_up(tiny, tmp_path, tiny_config):
    few = tiny.write(tmp_path, {"train": 1, "val": 1})
    assert measure_cost(tiny_config, few, seconds=0).batch == 8


def test_memory_is_followed_from_when_it_comes_to_when_it_goes():
    x = torch.ones(1000, 1000)
    with _Held() as held:
        y = x + 1  # 4 MB
        y.add_(1).view(-1)
        z = y * 2  # 8 MB
        del y
        z = z @ x  # 8 MB while it is computed
        del z
        torch.ones(10)
    assert held.bytes == 8_000_000


def test_what_is_kept_for_the_gradient_is_held_until_the_graph_goes():
    x = torch.rand(100, 1000, requires_grad=True)
    with _Held() as held:
        y = x.sigmoid()
        y = y.sigmoid()  # the first is kept for the gradient
        assert held.bytes == 800_000
        del y
        z = x.sigmoid().sum()
        z.backward()
    assert held.bytes == 800_000 + 2 * 4  # value and gradient of x, the sum and its gradient
    assert x.grad.shape == x.shape


SWEEP = {
    "base": {
        "model": {"hidden": 16, "fusion": {"ffn": 16}, "moment": {"queries": 5, "heads": 2}},
        "training": {"batch": 16, "epochs": 1},
    },
    "seeds": [0],
    "variants": [{"name": "full"}, {"name": "same"}, {"name": "wild", "set": {"model.fusion.dt": 0.9}}],
}  # fmt: skip


@pytest.fixture
def sweep(tmp_path, tiny_features):
    """Train and judge variants: the table, and how many models were measured for it."""

    def run(variants=SWEEP["variants"], costs=True):
        path, asked = tmp_path / "sweep.yaml", []
        path.write_text(yaml.safe_dump(SWEEP | {"variants": variants}))
        plan = prepare(read_sweep(path), tiny_features, tmp_path / "out")
        return ablate(plan, "0", costs=costs, on_costs=asked.append), asked

    return run


def test_a_sweep_has_costs_beside_its_numbers_and_measures_them_once(sweep, tmp_path):
    table, asked = sweep()
    assert asked == [1]  # 'same' is 'full', 'wild' is refused
    full, same, wild = table.rows
    assert full.cost == same.cost
    assert full.cost.parameters == full.parameters
    assert wild.cost is None
    head, body = stacked(table)
    assert [len(row) for row in body] == [len(head)] * 2
    assert f"{full.cost.peak_bytes / 1e6:,.0f} MB" in markdown(table)
    told = json.loads((tmp_path / "out" / "table.json").read_text())
    assert told["rows"][0]["cost"]["flops_per_query"] == full.cost.flops_per_query
    assert told["costs_on"]["threads"] == 1

    again, asked = sweep()
    assert asked == []
    assert again.rows[0].cost == full.cost
    more, asked = sweep([{"name": "full"}, {"name": "w/o TD", "set": {"model.diffusion.steps": 0}}])
    assert asked == [2]  # all in turn, or they are not to be compared
    assert more.rows[1].cost.flops_per_query < more.rows[0].cost.flops_per_query
    (tmp_path / "out" / "costs.json").write_text("{}")
    _, asked = sweep(costs=False)
    assert asked == []
    _, asked = sweep()
    assert asked == [1]


def test_without_costs_the_table_has_no_columns_for_them(sweep, tmp_path):
    table, asked = sweep(costs=False)
    assert asked == []
    assert "step" not in stacked(table)[0]
    assert table.costs_on is None
    assert not (tmp_path / "out" / "costs.json").exists()


def test_costs_that_cannot_be_measured_are_said_and_the_numbers_are_there(sweep, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("rdmf.pipeline.experiments.ablation_costs.measure_costs", fail)
    table, _ = sweep()
    assert "costs could not be measured: CUDA out of memory" in table.notes
    assert table.rows[0].numbers
    assert table.rows[0].cost is None


def test_a_model_that_does_not_fit_is_refused_in_a_sentence(tiny_features):
    with pytest.raises(ValueError, match="smaller dt"):
        measure_cost(parse_config({"model": {"fusion": {"dt": 0.9}}}, "t"), tiny_features)
