"""The RD block: the state inside it, what it promises under training and half precision, and its settings."""

from __future__ import annotations

import math

import pytest
import torch

from rdmf.fuse.bounds import bounds
from rdmf.fuse.kinetics import KINETICS, gray_scott
from rdmf.fuse.rates import Rates
from rdmf.fuse.reaction_diffusion import INHIBITORS, ReactionDiffusionFusion, masked_mean, react_and_diffuse

PAPER = Rates(0.2, 0.1, 0.04, 0.06)


def tensors(rates: Rates[float]) -> Rates[torch.Tensor]:
    return Rates(*(torch.tensor(rate, dtype=torch.float64) for rate in rates))


def batch(hidden: int = 8, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    clips, words = (torch.randn(2, n, hidden, generator=generator, dtype=dtype) for n in (6, 5))
    return (
        clips,
        torch.arange(6) < torch.tensor([[6], [4]]),
        words,
        torch.arange(5) < torch.tensor([[5], [2]]),
    )


def test_the_mean_of_the_words_ignores_padding_and_is_zero_without_words() -> None:
    words = torch.tensor([[[1.0], [3.0], [math.nan]], [[math.nan], [math.inf], [1.0]]])
    mean = masked_mean(words, torch.tensor([[True, True, False], [False, False, False]]))
    assert torch.equal(mean, torch.tensor([[2.0], [0.0]]))


def test_one_step_is_the_equations_written_out() -> None:
    u, v = torch.rand(2, 1, 3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    after_u, after_v = react_and_diffuse(u, v, torch.ones(1, 3, dtype=torch.bool), tensors(PAPER), 0.1, 1)
    a, b = u.flatten().tolist(), v.flatten().tolist()
    for i in range(3):
        left, right = max(i - 1, 0), min(i + 1, 2)
        eaten = a[i] ** 2 * b[i]
        expected_u = a[i] + 0.1 * (0.2 * (a[left] - 2 * a[i] + a[right]) + eaten - 0.1 * a[i])
        expected_v = b[i] + 0.1 * (0.1 * (b[left] - 2 * b[i] + b[right]) - eaten + 0.04 * (1 - b[i]))
        assert after_u[0, i, 0].item() == pytest.approx(expected_u)
        assert after_v[0, i, 0].item() == pytest.approx(expected_v)


def test_a_homogeneous_steady_state_is_a_fixed_point_of_the_whole_system() -> None:
    rates = PAPER._replace(second=0.05)
    root = math.sqrt(1 - 4 * 0.09**2 / 0.04)
    v = torch.full((1, 7, 2), (1 - root) / 2, dtype=torch.float64)
    u = 0.09 / v
    after = react_and_diffuse(u, v, torch.ones(1, 7, dtype=torch.bool), tensors(rates), 0.1, 200)
    torch.testing.assert_close(after, (u, v), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [3, 16])
def test_padding_of_the_species_changes_no_bit(channels: int) -> None:
    u, v = torch.rand(2, 1, 5, channels, generator=torch.Generator().manual_seed(0))
    rates = Rates(*map(torch.tensor, PAPER))
    alone = react_and_diffuse(u, v, torch.ones(1, 5, dtype=torch.bool), rates, 0.1, 5)
    pad = torch.full((1, 6, channels), math.nan)
    mask = torch.arange(11).unsqueeze(0) < 5
    padded = react_and_diffuse(torch.cat([u, pad], 1), torch.cat([v, pad], 1), mask, rates, 0.1, 5)
    for short, long in zip(alone, padded, strict=True):
        assert torch.equal(long[:, :5], short)
        assert not long[:, 5:].any()


SYSTEMS = [
    {},
    {"diffusion_order": "free"},
    {"diffusion_order": "turing", "kill": 0.05, "d_video": 0.02, "d_text": 0.2},
    {"steps": 20},
    {"kinetics": "gray_scott_substrate"},
    {"kinetics": "schnakenberg", "integrator": "ssprk3"},
    {"kinetics": "fitzhugh_nagumo", "integrator": "imex"},
    {"rates_per_channel": True},
    {"inhibitor": "words"},
]


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_what_is_proven_stays_proven_through_violent_training(system: dict[str, object]) -> None:
    torch.manual_seed(0)
    block, (clips, clip_mask, words, word_mask) = ReactionDiffusionFusion(8, ffn=16, **system), batch()
    assert block.bounds_now().load <= 1
    stepper = torch.optim.AdamW(block.rates.parameters(), lr=20.0)
    for _ in range(30):
        stepper.zero_grad()
        (block(clips, clip_mask, words, word_mask) * torch.randn(2, 6, 8)).sum().backward()
        stepper.step()
        with torch.no_grad():
            channels = torch.stack([rate.expand(8) for rate in block.rates()]).T.unique(dim=0).tolist()
        for rates in map(Rates._make, channels):
            assert min(rates) > 0
            assert bounds(block.kinetics, rates, block.dt, block.steps, block.integrator).load <= 1 + 1e-5


def test_clips_hear_words_by_attention_written_out() -> None:
    torch.manual_seed(0)
    block = ReactionDiffusionFusion(8, inhibitor="words", heads=2).double().eval()
    clips, _, words, word_mask = batch(dtype=torch.float64)
    u, v = block.species(clips, words, word_mask)
    assert u.shape == v.shape == (2, 6, 8)
    for row, length in enumerate((5, 2)):
        said = block.norm_words(words[row, :length])
        values = block.to_text(said)
        for clip in range(6):
            query, keys = block.query(clips[row, clip]), block.key(said)
            for head in (slice(0, 4), slice(4, 8)):
                weights = (keys[:, head] @ query[head] / 2).softmax(0)  # sqrt of 4 channels a head
                expected = (weights[:, None] * values[:, head]).sum(0).sigmoid()
                torch.testing.assert_close(v[row, clip, head], expected)


def test_a_sentence_of_one_word_is_the_same_to_both_inhibitors() -> None:
    torch.manual_seed(0)
    by_words = ReactionDiffusionFusion(8, inhibitor="words", steps=9).eval()
    whole = ReactionDiffusionFusion(8, steps=9).eval()
    whole.load_state_dict({name: x for name, x in by_words.state_dict().items() if name in whole.state_dict()})
    clips, clip_mask, words, word_mask = batch()
    word_mask = word_mask & (torch.arange(5) < 1)
    torch.testing.assert_close(by_words(clips, clip_mask, words, word_mask), whole(clips, clip_mask, words, word_mask))


@pytest.mark.parametrize("inhibitor", INHIBITORS)
def test_every_parameter_receives_a_finite_gradient(inhibitor: str) -> None:
    torch.manual_seed(0)
    block, inputs = ReactionDiffusionFusion(8, ffn=16, dropout=0.0, inhibitor=inhibitor), batch()
    (block(*inputs) ** 3).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_gradients_of_inputs_and_rates_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    block = ReactionDiffusionFusion(4, steps=3, ffn=6, dropout=0.0).double()
    clips, clip_mask, words, word_mask = batch(4, torch.float64)
    names = [f"rates.{rate}.shift" for rate in Rates._fields]  # d_video, d_text, first, second

    def fuse(clips: torch.Tensor, words: torch.Tensor, *shifts: torch.Tensor) -> torch.Tensor:
        parameters = dict(zip(names, shifts, strict=True))
        return torch.func.functional_call(block, parameters, (clips, clip_mask, words, word_mask))

    shifts = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (0.2, -0.3, 1.0, -1.0)]
    assert torch.autograd.gradcheck(fuse, (clips.requires_grad_(), words.requires_grad_(), *shifts), atol=1e-6)


def test_the_reaction_runs_in_single_precision_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def spy(u: torch.Tensor, v: torch.Tensor, *rates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.extend([u.dtype, v.dtype, (u.flatten(1) @ v.flatten(1).T).dtype])
        return u, v

    monkeypatch.setitem(KINETICS, "gray_scott", KINETICS["gray_scott"]._replace(react=spy))
    block, (clips, clip_mask, words, word_mask) = ReactionDiffusionFusion(8, method="loop"), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        block(clips.bfloat16(), clip_mask, words.bfloat16(), word_mask)
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_species_start_between_zero_and_one_however_large_the_weights(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def spy(u: torch.Tensor, v: torch.Tensor, *rates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.extend([u, v])
        return gray_scott(u, v, *rates)

    monkeypatch.setitem(KINETICS, "gray_scott", KINETICS["gray_scott"]._replace(react=spy))
    block, (clips, clip_mask, words, word_mask) = ReactionDiffusionFusion(8, steps=100, method="loop"), batch()
    for layer in (block.to_video, block.to_text):
        torch.nn.init.normal_(layer.weight, std=scale)
    out = block(clips, clip_mask, words, word_mask)
    for species in seen[:2]:
        assert 0 <= species.min() < 0.5 < species.max() <= 1
    assert torch.equal(seen[1][0, 0], seen[1][0, 5])  # the sentence is the same for every clip
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"d_video": 2.0},
            "expected d_video between 0 and 0.625, .* got 2: lower it, or take dt below 0.03125",
        ),
        ({"dt": 1.0}, "no rates of gray_scott are proven .* 5 steps of dt = 1: take a smaller dt"),
        ({"feed": 0.0}, "expected feed .* raise it above 0"),
        ({"d_text": 0.3}, "expected d_text below .* 'free'"),
        ({"steps": 0}, "steps >= 1"),
        ({"diffusion_order": "backwards"}, "expected diffusion_order paper or free or turing"),
        ({"kinetics": "brusselator"}, "expected kinetics gray_scott or .*, got 'brusselator'"),
        ({"integrator": "rk4"}, "expected integrator euler or ssprk3 or imex"),
        ({"method": "magic"}, "expected method fused or loop"),
        ({"inhibitor": "letters"}, "expected inhibitor sentence or words, got 'letters'"),
        ({"inhibitor": "words", "heads": 3}, "expected heads that divide hidden = 8, got 3"),
        ({"a": 0.1}, "expected feed and kill as the rates of gray_scott, got a"),
        ({"diffusion_order": "turing", "kinetics": "schnakenberg"}, "expected kinetics gray_scott with"),
        ({"dt": 0.3, "steps": 20}, "no rates of gray_scott are proven"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ReactionDiffusionFusion(8, **change)
