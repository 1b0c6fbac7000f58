from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rdmf.pipeline.config import Config, parse_config
from rdmf.pipeline.loading.dataset import MomentDataset, open_features
from rdmf.pipeline.loading.resident import ResidentSplit
from rdmf.pipeline.model import RDMF
from rdmf.pipeline.training.loss_scale import INTERVAL, LossScale
from rdmf.pipeline.training.parallel import World
from rdmf.pipeline.training.step import Part, Step, compiles

ALONE = World(torch.device("cpu"))


@pytest.fixture(scope="module")
def split(tiny_features) -> ResidentSplit:
    return ResidentSplit(MomentDataset(open_features(tiny_features), "train"))


def changed(config: Config, **training) -> Config:
    return parse_config(config.model_dump() | {"training": config.training.model_dump() | training}, "test")


def make(config: Config, split: ResidentSplit) -> Step:
    torch.manual_seed(0)
    return Step(RDMF(config.model, *split.dataset.features.dims), config, ALONE)


def parts(split: ResidentSplit, *rows: range) -> list[Part]:
    return [Part(split.batch(torch.tensor(r))) for r in rows]


def weights(step: Step) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in step.model.state_dict().items()}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_parts_of_a_batch_make_the_step_of_the_whole(tiny_config, split):
    whole, in_parts = make(tiny_config, split), make(tiny_config, split)
    for number in (1, 2, 3):
        whole(parts(split, range(20)), number, 1e-3)
        in_parts(parts(split, range(3), range(3, 4), range(4, 20)), number, 1e-3)
    a, b = whole.read(), in_parts.read()
    assert a.losses == pytest.approx(b.losses, rel=1e-5)
    assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)
    assert largest_difference(weights(whole), weights(in_parts)) < 1e-5


def test_a_stand_in_changes_nothing(tiny_config, split):
    without, with_one = make(tiny_config, split), make(tiny_config, split)
    (stand_in,) = parts(split, range(30, 31))
    without(parts(split, range(8)), 1, 1e-3)
    with_one([*parts(split, range(8)), Part(stand_in.batch, 0.0)], 1, 1e-3)
    assert without.read().losses == pytest.approx(with_one.read().losses, rel=1e-6)
    assert largest_difference(weights(without), weights(with_one)) < 1e-6


def test_a_reading_has_the_means_since_the_last_one_and_of_the_epoch(tiny_config, split):
    step, each = make(tiny_config, split), make(tiny_config, split)
    single = []
    for number in range(1, 6):
        each(parts(split, range(number, number + 8)), number, 1e-3)
        single.append(each.read().losses["total"])
        step(parts(split, range(number, number + 8)), number, 1e-3)
        if number == 2:
            assert step.read().losses["total"] == pytest.approx(sum(single) / 2)
    last = step.read()
    assert last.losses["total"] == pytest.approx(sum(single[2:]) / 3)
    assert last.epoch_losses["total"] == pytest.approx(sum(single) / 5)
    step.begin_epoch()
    step(parts(split, range(8)), 6, 1e-3)
    assert step.read().epoch_losses["total"] != pytest.approx(last.epoch_losses["total"], rel=1e-9)


class NoWaiting(TorchDispatchMode):
    """Fails on what would make the host wait for a device: a number, or a shape that depends on numbers."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        assert name not in self.WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}, {"precision": "fp16"}, {"precision": "bf16"}])
def test_nothing_in_a_step_waits_for_the_device_and_a_reading_is_one_transfer(tiny_config, split, settings):
    step = make(changed(tiny_config, **settings), split)
    for number in (1, 2):
        given = parts(split, range(8), range(8, 16))
        with NoWaiting():
            step(given, number, 1e-3)
    assert math.isfinite(step.read().losses["total"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_in_a_step_waits_for_a_gpu(tiny_config, tiny_features):
    device = torch.device("cuda")
    split = ResidentSplit(MomentDataset(open_features(tiny_features), "train"), device)
    model = RDMF(tiny_config.model, *split.dataset.features.dims).to(device)
    step = Step(model, changed(tiny_config, compile=False, ema=0.9), World(device))
    step(parts(split, range(8)), 1, 1e-3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(2, 6):
            step(parts(split, range(number, number + 8)), number, 1e-3)  # making the batch does not wait, either
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(step.read().losses["total"])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_first_step_that_is_not_finite_is_named_and_its_weights_stay(tiny_config, split, precision):
    step = make(changed(tiny_config, precision=precision, gradient_clip=1e30), split)
    for number in range(1, 40):  # a rate that throws the weights to infinity, sooner or later
        before = weights(step)
        step(parts(split, range(8)), number, 1e30)
        if named := step.read().first_bad:
            break
    assert named == number
    for later in range(number + 1, number + 4):
        step(parts(split, range(8)), later, 1e30)
    reading = step.read()
    assert reading.first_bad == named
    assert reading.bad_terms
    assert set(reading.bad_terms) <= {*reading.losses, "the gradient"}
    assert largest_difference(weights(step), before) == 0


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("fp16", 0.005)])
def test_half_precision_has_about_the_losses_and_the_gradient_of_fp32(tiny_config, split, precision, tolerance):
    readings = []
    for name in ("fp32", precision):
        step = make(changed(tiny_config, precision=name), split)
        step(parts(split, range(32)), 1, 1e-3)
        readings.append(step.read())
    full, half = readings
    assert half.losses["total"] == pytest.approx(full.losses["total"], rel=tolerance)
    assert half.losses["total"] != full.losses["total"]
    if precision == "bf16":  # the first step of fp16 may overflow, which is what its scale is for
        assert half.gradient_norm == pytest.approx(full.gradient_norm, rel=5 * tolerance)


def test_a_state_restores_to_the_same_next_steps(tiny_config, split):
    for settings in ({}, {"ema": 0.9}, {"precision": "fp16"}):
        config = changed(tiny_config, **settings)
        first = make(config, split)
        for number in (1, 2):
            first(parts(split, range(8)), number, 1e-3)
        first.read()
        state = copy.deepcopy(first.state())
        second = Step(RDMF(config.model, *split.dataset.features.dims), config, ALONE)
        second.restore(state, done=2)
        for step in (first, second):
            step(parts(split, range(8, 16)), 3, 1e-3)
        assert first.read() == second.read()
        a, b = first.state(), second.state()
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_loss_scale_does_what_torch_s_does():
    ours = LossScale(torch.device("cpu"))
    theirs = torch.amp.GradScaler("cpu", init_scale=float(ours.scale), growth_interval=INTERVAL)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    theirs.scale(parameter.sum())
    for i in range(2 * INTERVAL + 10):
        overflow = i % 1500 == 7 and i < 1600
        parameter.grad = torch.full((1,), math.inf if overflow else 1.0)
        theirs.step(optimizer)
        theirs.update()
        ours.update(torch.tensor(float(overflow)))
        assert float(ours.scale) == theirs.get_scale()


@pytest.mark.slow
def test_a_compiled_step_is_the_step(tiny_config, split, monkeypatch):
    """All of torch.compile but its code generator, which takes minutes on a CPU; there it is off by default."""
    eager = make(tiny_config, split)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    compiled = make(changed(tiny_config, compile=True), split)
    for number, rows in enumerate((range(8), range(8, 20)), 1):
        for step in (eager, compiled):
            step(parts(split, rows), number, 1e-3)
    assert compiled.read().losses == pytest.approx(eager.read().losses, rel=1e-4)
    assert largest_difference(weights(eager), weights(compiled)) < 1e-4


def test_a_step_is_compiled_on_cuda_and_where_it_is_asked_for(tiny_config):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [compiles(tiny_config, device) for device in (cpu, cuda)] == [False, True]
    for wanted in (False, True):
        assert [compiles(changed(tiny_config, compile=wanted), device) for device in (cpu, cuda)] == [wanted, wanted]


@pytest.mark.parametrize("pad_to", [8, 16])
def test_padding_to_few_shapes_changes_nothing(tiny_config, split, pad_to):
    padded = ResidentSplit(split.dataset, pad_to=pad_to)
    steps = make(tiny_config, split), make(tiny_config, padded)
    for step, data in zip(steps, (split, padded), strict=True):
        step(parts(data, range(8)), 1, 1e-3)
    assert steps[0].read().losses == pytest.approx(steps[1].read().losses, rel=1e-5)
