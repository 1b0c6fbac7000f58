"""CG-DETR's fusion against its parts put together row by row, and what it promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rdmf.fuse.correlation_guided import Alignment, CorrelationGuidedFusion
from rdmf.fuse.output import Fused

HIDDEN, DUMMIES = 16, 3
TRUTH = torch.tensor([[0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]], dtype=torch.bool)


def make(seed: int = 0, **settings: Any) -> CorrelationGuidedFusion:
    torch.manual_seed(seed)
    settings = {"dummies": DUMMIES, "prompts": 4, "chosen_prompts": 2, "heads": 4, "ffn": 32} | settings
    return CorrelationGuidedFusion(HIDDEN, **settings).eval()


def rows(lengths: list[int], longest: int, garbage: float = 0.0) -> tuple[Tensor, Tensor]:
    """Rows whose valid part depends on their number alone, and their mask."""
    mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    x = torch.full((len(lengths), longest, HIDDEN), garbage)
    for row, length in enumerate(lengths):
        x[row, :length] = torch.randn(length, HIDDEN, generator=torch.Generator().manual_seed(row))
    return x, mask


def ragged(garbage: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *rows([6, 3, 1], 6, garbage), *rows([4, 2, 1], 5, garbage)


def tensors(fused: Fused, aligned: Alignment) -> dict[str, Tensor]:
    guidance = fused.guidance
    assert fused.token is not None
    assert fused.places is not None
    assert guidance is not None
    return {
        "clips": fused.clips, "token": fused.token, "places": fused.places, **guidance._asdict(), **aligned._asdict(),
        "heard": guidance.heard, "fused": fused.clips,
    }  # fmt: skip


def test_fusion_equals_its_parts_put_together_for_each_row_alone() -> None:
    fuser = make().double()
    clips, clip_mask, words, word_mask = ragged()
    clips, words = clips.double(), words.double()
    fused = fuser(clips, clip_mask, words, word_mask)
    aligned = fuser.align(fused, TRUTH)
    for row, (t, n_words) in enumerate([(6, 4), (3, 2), (1, 1)]):
        x, sentence = clips[row, :t] + fuser.clip_type, words[row, :n_words] + fuser.word_type
        place = torch.zeros(t, HIDDEN)
        for clip in range(t):
            for channel in range(HIDDEN):
                angle = 2 * math.pi * (clip + 1) / t / 10000 ** (2 * (channel // 2) / HIDDEN)
                place[clip, channel] = math.cos(angle) if channel % 2 else math.sin(angle)
        place = place.double()
        everything = torch.ones(1, DUMMIES + n_words, dtype=torch.bool)
        tokens = torch.cat([fuser.dummies, sentence])[None]
        token_place = torch.cat([fuser.dummy_place, torch.zeros_like(sentence)])[None]
        for layer in fuser.dummy_layers:
            tokens = layer(tokens, everything, token_place)
        dummies = tokens[0, :DUMMIES]
        tokens = torch.cat([dummies, sentence])[None]

        out, attention = x[None], []
        for cross in fuser.cross:
            out, weights = cross(out, place[None], tokens, token_place, everything, DUMMIES)
            attention.append(weights[0])
        mean = sum(attention) / len(attention)
        assert fused.guidance is not None
        same = {"rtol": 0, "atol": 1e-5}  # places are in single precision
        torch.testing.assert_close(fused.guidance.attention[row, :t, : DUMMIES + n_words], mean, **same)
        heard = mean[:, DUMMIES:].sum(1)
        torch.testing.assert_close(fused.guidance.heard[row, :t], heard, **same)
        torch.testing.assert_close(mean.sum(1), torch.ones(t).double())

        every_clip = torch.ones(1, t, dtype=torch.bool)
        token = fuser.prompt(x[None], every_clip, heard[None])[0]
        for cross in fuser.cross:
            token = cross.norm_out(token + cross.out.bias + cross.feed_forward(cross.norm_feed(token + cross.out.bias)))
        token, out = fuser.encoder(token[None], out, place[None], every_clip)
        torch.testing.assert_close(fused.token[row], token[0], **same)
        torch.testing.assert_close(fused.clips[row, :t], out[0] + token, **same)

        moment = TRUTH[row, :t]
        joined = torch.zeros(t, HIDDEN).double()
        for chosen, name in ((moment, "moment"), (~moment, "elsewhere")):
            n = int(chosen.sum())
            known = torch.ones(1, n, dtype=torch.bool)
            summary, among = fuser.moment_encoder(fuser.moment_token, x[None, chosen], place[None, chosen], known)
            torch.testing.assert_close(getattr(aligned, name)[row], summary[0], **same)
            joined[chosen] = among[0]
        torch.testing.assert_close(aligned.clips[row, :t], joined, **same)
        everything = torch.ones(1, n_words, dtype=torch.bool)
        summary, own_words = fuser.sentence_encoder(
            fuser.sentence_token, sentence[None], torch.zeros_like(sentence)[None], everything
        )
        torch.testing.assert_close(aligned.sentence[row], summary[0], **same)
        everything = torch.ones(1, DUMMIES, dtype=torch.bool)
        summary, own_dummies = fuser.sentence_encoder(
            fuser.sentence_token, dummies[None], fuser.dummy_place[None], everything
        )
        torch.testing.assert_close(aligned.dummy_sentence[row], summary[0], **same)
        similar = joined @ torch.cat([own_dummies[0], own_words[0]]).T
        torch.testing.assert_close(aligned.similarity[row, :t, : DUMMIES + n_words], similar, rtol=0, atol=1e-4)


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
def test_what_padding_holds_changes_no_bit_of_outputs_or_gradients(garbage: float) -> None:
    results = []
    for content in (0.0, garbage):
        fuser = make()
        clips, clip_mask, words, word_mask = ragged(content)
        fused = fuser(clips.requires_grad_(), clip_mask, words.requires_grad_(), word_mask)
        said = tensors(fused, fuser.align(fused, TRUTH))
        sum(x.float().pow(3).sum() for x in said.values()).backward()
        results.append([*said.values(), clips.grad, words.grad, *(p.grad for p in fuser.parameters())])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
    *_, clip_gradient, word_gradient = results[0][: len(said) + 2]
    assert not clip_gradient[~clip_mask].any()
    assert not word_gradient[~word_mask].any()
    for name in ("fused", "heard", "attention"):
        assert not said[name][~clip_mask].any()


def test_a_row_depends_on_itself_alone() -> None:
    fuser = make()
    clips, clip_mask, words, word_mask = ragged(float("nan"))
    fused = fuser(clips, clip_mask, words, word_mask)
    together = tensors(fused, fuser.align(fused, TRUTH))
    for row, (t, n_words) in enumerate([(6, 4), (3, 2), (1, 1)]):
        one = slice(row, row + 1)
        alone = fuser(clips[one, :t], clip_mask[one, :t], words[one, :n_words], word_mask[one, :n_words])
        aligned = fuser.align(alone, TRUTH[one, :t])
        for name, value in tensors(alone, aligned).items():
            if name == "prompts":
                continue
            part = together[name][one]
            for dimension in range(1, value.dim()):
                part = part.narrow(dimension, 0, value.shape[dimension])
            torch.testing.assert_close(part, value, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_rows_without_clips_or_words_or_a_moment_are_finite() -> None:
    fuser = make()
    clips, clip_mask = rows([4, 0, 2, 3], 5, float("nan"))
    words, word_mask = rows([3, 2, 0, 1], 3, float("nan"))
    fused = fuser(clips.requires_grad_(), clip_mask, words, word_mask)
    aligned = fuser.align(fused, torch.tensor([[True] * 5, [False] * 5, [True] * 5, [False] * 5]))
    said = tensors(fused, aligned)
    assert all(value.isfinite().all() for value in said.values())
    assert not fused.clips[1].any()
    assert not said["heard"][2].any()
    sum(value.float().square().sum() for value in said.values()).backward()
    assert clips.grad is not None
    assert clips.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fuser.parameters())


def test_gradients_reach_every_parameter() -> None:
    fuser = make(chosen_prompts=4)
    fused = fuser(*ragged())
    aligned = fuser.align(fused, TRUTH)
    said = [fused.clips, fused.token, aligned.moment, aligned.elsewhere, aligned.sentence, aligned.dummy_sentence]
    generator = torch.Generator().manual_seed(1)
    sum((x * torch.randn(x.shape, generator=generator)).sum() for x in (*said, aligned.clips)).backward()
    for name, parameter in fuser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert not aligned.similarity.requires_grad


def test_more_dummies_leave_less_for_the_words() -> None:
    clips, clip_mask, words, word_mask = ragged()
    heard = [
        make(dummies=n)(0 * clips, clip_mask, 0 * words, word_mask).guidance.heard[clip_mask].mean().item()
        for n in (1, 8, 64)
    ]
    assert 1 > heard[0] > heard[1] > heard[2] > 0


def test_words_matter_and_are_told_from_clips_by_their_type() -> None:
    clips, clip_mask, words, word_mask = ragged()
    fuser = make()
    before = fuser(clips, clip_mask, words, word_mask).clips
    assert (fuser(clips, clip_mask, -words, word_mask).clips - before).abs().max() > 1e-3
    with torch.no_grad():
        fuser.word_type += 1.0
    assert (fuser(clips, clip_mask, words, word_mask).clips - before).abs().max() > 1e-3


def test_where_words_stand_does_not_matter() -> None:
    clips, clip_mask = rows([5], 5)
    words, word_mask = rows([4], 4)
    fuser, order = make(), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        fuser(clips, clip_mask, words, word_mask).clips, fuser(clips, clip_mask, words[:, order], word_mask).clips
    )


def test_dropout_acts_in_training_only() -> None:
    fuser, given = make(dropout=0.5), ragged()
    assert torch.equal(fuser(*given).clips, fuser(*given).clips)
    fuser.train()
    assert not torch.equal(fuser(*given).clips, fuser(*given).clips)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_training_is_finite_and_close_to_single(dtype: torch.dtype, tolerance: float) -> None:
    fuser, given = make(), ragged()
    single = fuser(*given)
    with torch.autocast("cpu", dtype=dtype):
        half = fuser(*given)
        aligned = fuser.align(half, TRUTH)
    torch.testing.assert_close(half.clips.float(), single.clips, rtol=0, atol=tolerance)
    sum(x.float().square().mean() for x in tensors(half, aligned).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fuser.parameters())


def test_the_default_has_the_parameters_of_the_original() -> None:
    """Counted there without the projections of its inputs, decoder, heads, and what is made and never used."""
    fuser = CorrelationGuidedFusion(256)
    encoder_layer = 4 * 256 * 256 + 4 * 256 + 2 * 256 * 1024 + 1024 + 256 + 4 * 256 + 1
    cross_layer = encoder_layer - 3 * 256 * 256 - 3 * 256
    vectors = 2 + 45 + 45 + 10 + 1 + 2 + 2  # types, dummies, their places, prompts, and tokens with their places
    expected = (3 + 2 + 1 + 1) * encoder_layer + 2 * cross_layer + vectors * 256
    assert sum(p.numel() for p in fuser.parameters()) == expected == 6_740_489


class NoWaiting(TorchDispatchMode):
    """Fails on what would make the host wait for a device: a number, or a shape that depends on numbers."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        assert name not in self.WAITS, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device() -> None:
    fuser, given = make().train(), ragged()
    with NoWaiting():
        fused = fuser(*given)
        aligned = fuser.align(fused, TRUTH)
        (fused.clips.sum() + sum(x.sum() for x in aligned)).backward()
    assert fused.clips.isfinite().all()


def test_padding_between_clips_is_refused() -> None:
    clips, words = torch.randn(1, 3, HIDDEN), torch.randn(1, 2, HIDDEN)
    with pytest.raises(RuntimeError, match="valid clips come first in every row"):
        make()(clips, torch.tensor([[True, False, True]]), words, torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("hidden", "settings", "message"),
    [
        (15, {"heads": 3}, "even hidden and heads that divide it, got 15 and 3"),
        (16, {"heads": 3}, "even hidden and heads that divide it, got 16 and 3"),
        (16, {"heads": 0}, "even hidden and heads that divide it, got 16 and 0"),
        (16, {"dummies": 0}, "expected dummies of 1 or more, got 0"),
        (16, {"cross_layers": 0}, "expected cross_layers of 1 or more, got 0"),
        (16, {"prompts": 2, "chosen_prompts": 3}, "choose 1 to 2 of 2 prompts, got 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(hidden: int, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorrelationGuidedFusion(hidden, **settings)


def test_only_its_own_output_can_be_aligned() -> None:
    with pytest.raises(ValueError, match="got a fusion without guidance"):
        make().align(Fused(torch.zeros(1, 2, HIDDEN)), torch.ones(1, 2, dtype=torch.bool))
