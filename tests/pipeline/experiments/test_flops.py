"""Operations against what can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rdmf.fuse.fused import fused_euler
from rdmf.fuse.rates import Rates
from rdmf.pipeline.config import parse_config
from rdmf.pipeline.experiments.flops import (
    _euler_steps,
    forward_flops,
    reaction_flops,
)
from rdmf.pipeline.loading.dataset import Batch
from rdmf.pipeline.model import RDMF

CLIPS, WORDS, VIDEO_DIM, TEXT_DIM, HIDDEN, FFN, QUERIES = 11, 5, 12, 8, 16, 24, 6


def batch_of(queries: int) -> Batch:
    clips, words = torch.randn(queries, CLIPS, VIDEO_DIM), torch.randn(queries, WORDS, TEXT_DIM)
    there, said = torch.ones(queries, CLIPS, dtype=torch.bool), torch.ones(queries, WORDS, dtype=torch.bool)
    positions = torch.linspace(0, 1, CLIPS).expand(queries, -1)
    return Batch(clips, there, positions, words, said, *[torch.empty(0)] * 6)


def model_of(**fusion) -> RDMF:
    tree = {"hidden": HIDDEN, "fusion": {"ffn": FFN} | fusion, "moment": {"queries": QUERIES, "heads": 4}}
    return RDMF(parse_config({"model": tree}, "t").model, VIDEO_DIM, TEXT_DIM)


@pytest.mark.parametrize(
    ("kinetics", "operations"),
    [  # of the reaction's two formulas in kinetics.py, counted by eye
        ("gray_scott", 7),
        ("gray_scott_substrate", 7),
        ("schnakenberg", 5),
        ("fitzhugh_nagumo", 8),
    ],
)
def test_a_step_is_the_reaction_two_laplacians_and_the_sums_around_them(kinetics, operations):
    around = 2 * (3 + 1 + 1 + 1 + 1)  # x + dt (D (l - 2 x + r) + f)
    assert reaction_flops(kinetics) == operations + around
    assert reaction_flops(kinetics, steps=7) == 7 * reaction_flops(kinetics)
    # three Euler steps and two mixtures (1 - s) a + s b of both species; reaction alone and a factor for each mode
    assert reaction_flops(kinetics, "ssprk3") == 3 * reaction_flops(kinetics) + 2 * 2 * 3
    assert reaction_flops(kinetics, "imex") == operations + 2 * 2 + 2


def test_the_counter_of_torch_counts_the_fused_pass_by_this_formula():
    u, v = torch.rand(2, CLIPS, 3), torch.rand(2, 1, 3)
    rates = Rates(*(torch.tensor(rate) for rate in (0.2, 0.1, 0.04, 0.06)))
    with FlopCounterMode(display=False, custom_mapping={torch.ops.rdmf.euler_steps: _euler_steps}) as counter:
        fused_euler(u, v, torch.ones(2, CLIPS, dtype=torch.bool), rates, 0.1, 4, text=False)
    assert counter.get_flop_counts()["Global"][torch.ops.rdmf.euler_steps] == 2 * CLIPS * 3 * 4 * 21


def test_more_steps_of_reaction_cost_what_they_take_and_more_steps_of_diffusion_nothing():
    few, many = (forward_flops(model_of(steps=steps), batch_of(1)) for steps in (5, 20))
    assert many - few == 15 * 21 * CLIPS * HIDDEN
    tree = {"hidden": HIDDEN, "diffusion": {"steps": 50}, "fusion": {"ffn": FFN}}
    tree |= {"moment": {"queries": QUERIES, "heads": 4}}
    assert forward_flops(RDMF(parse_config({"model": tree}, "t").model, VIDEO_DIM, TEXT_DIM), batch_of(1)) == few


def test_it_is_the_same_number_where_steps_are_taken_one_by_one():
    model = model_of(steps=3)
    fused = forward_flops(model, batch_of(2))
    model.fusion.method = "loop"
    assert forward_flops(model, batch_of(2)) == fused == 2 * forward_flops(model, batch_of(1))


def test_attention_is_counted_whichever_way_torch_would_take():
    """By hand, what mixes in the two blocks. torch's counter alone knows no fast path and no attention on CPUs."""
    attention, reaction = (
        forward_flops(model_of(kind=kind), batch_of(1)) for kind in ("cross_attention", "reaction_diffusion")
    )
    by_attention = 2 * HIDDEN**2 * (2 * CLIPS + 2 * WORDS) + 2 * 2 * CLIPS * WORDS * HIDDEN
    by_reaction = 2 * HIDDEN**2 * (2 * CLIPS + 1) + 5 * 21 * CLIPS * HIDDEN  # two layers, and one for the sentence
    assert attention - reaction == by_attention - by_reaction


def test_gradients_and_the_mode_of_the_model_do_not_matter():
    model = model_of()
    with torch.no_grad():
        before = forward_flops(model.train(), batch_of(1))
    assert forward_flops(model.eval().requires_grad_(False), batch_of(1)) == before
