"""Adaptive cross-attention against loops over clips, heads and tokens, and what dummies do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rdmf.fuse.adaptive_cross_attention import AdaptiveCrossAttention, heard_by, shares

HIDDEN, HEADS, DUMMIES = 8, 2, 3


@pytest.fixture
def layer() -> AdaptiveCrossAttention:
    torch.manual_seed(0)
    return AdaptiveCrossAttention(HIDDEN, HEADS, 16, 0.0).double().eval()


def inputs(clips: int, words: int, rows: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(clips + words)
    made = [torch.randn(rows, n, HIDDEN, generator=generator).double() for n in (clips, clips, DUMMIES + words) * 2]
    return made[0], made[1], made[2], made[5], torch.ones(rows, DUMMIES + words, dtype=torch.bool)


def test_a_layer_equals_loops_over_clips_heads_and_tokens(layer: AdaptiveCrossAttention) -> None:
    clips, place, tokens, token_place, mask = inputs(4, 3)
    mask[0, -1] = False
    size = HIDDEN // HEADS
    n_tokens = DUMMIES + 2
    expected, mean_weights = [], torch.zeros(4, DUMMIES + 3).double()
    for t in range(4):
        heard = torch.zeros(HIDDEN).double()
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            powers = []
            for s in range(n_tokens):
                query, key = (clips + place)[0, t, part], (tokens + token_place)[0, s, part]
                powers.append(math.exp(float(query @ key) / math.sqrt(size)))
            for s in range(n_tokens):
                share = powers[s] / sum(powers)
                mean_weights[t, s] += share / HEADS
                if s >= DUMMIES:
                    heard[part] += share * tokens[0, s, part]
        x = clips[0, t] + layer.out(heard)
        expected.append(layer.norm_out(x + layer.feed_forward(layer.norm_feed(x))))
    out, weights = layer(clips, place, tokens, token_place, mask, DUMMIES)
    torch.testing.assert_close(out[0], torch.stack(expected))
    torch.testing.assert_close(weights[0], mean_weights)


def test_words_share_what_dummies_leave() -> None:
    word = torch.randn(1, 1, HIDDEN)
    for dummies in range(5):
        tokens = word.expand(1, dummies + 1, HIDDEN)
        weights = shares(word, tokens, torch.ones(1, dummies + 1, dtype=torch.bool), HEADS).mean(1)
        assert heard_by(weights, dummies).item() == pytest.approx(1 / (dummies + 1))


def test_a_dummy_like_the_clip_takes_attention_from_its_words(layer: AdaptiveCrossAttention) -> None:
    clips, place, tokens, token_place, mask = inputs(4, 3)
    before = heard_by(layer(clips, place, tokens, token_place, mask, DUMMIES)[1], DUMMIES)
    tokens[:, 0] = 3 * (clips + place)[:, 2]
    after = heard_by(layer(clips, place, tokens, token_place, mask, DUMMIES)[1], DUMMIES)
    assert after[0, 2] < before[0, 2]
    assert ((after > 0) & (after < 1)).all()


@pytest.mark.parametrize("which", ["dummy", "word"])
def test_only_words_are_values(layer: AdaptiveCrossAttention, which: str) -> None:
    clips, place, tokens, token_place, mask = inputs(4, 3)
    out, weights = layer(clips, place, tokens, token_place, mask, DUMMIES)
    at = 0 if which == "dummy" else DUMMIES
    tokens[:, at] += 1.0
    token_place[:, at] -= 1.0  # so that the key stays what it was
    other, other_weights = layer(clips, place, tokens, token_place, mask, DUMMIES)
    torch.testing.assert_close(weights, other_weights)
    assert torch.allclose(out, other) == (which == "dummy")


def test_padding_of_one_row_hides_no_word_of_another(layer: AdaptiveCrossAttention) -> None:
    clips, place, tokens, token_place, mask = inputs(5, 4, rows=3)
    mask[1, DUMMIES + 1 :] = False
    mask[2, DUMMIES + 2 :] = False
    out, weights = layer(clips, place, tokens, token_place, mask, DUMMIES)
    for row in range(3):
        one, kept = slice(row, row + 1), mask[row]
        alone, own = layer(
            clips[one], place[one], tokens[one][:, kept], token_place[one][:, kept], mask[one][:, kept], DUMMIES
        )
        torch.testing.assert_close(out[one], alone)
        torch.testing.assert_close(weights[one][..., kept], own)
        assert not weights[one][..., ~kept].any()


def test_without_tokens_nothing_is_heard(layer: AdaptiveCrossAttention) -> None:
    x = torch.randn(2, 1, HIDDEN).double()
    nothing = x[:, :0]
    torch.nn.init.normal_(layer.out.bias)
    out, weights = layer(x, x, nothing, nothing, torch.ones(2, 0, dtype=torch.bool), 0)
    y = x + layer.out.bias
    torch.testing.assert_close(out, layer.norm_out(y + layer.feed_forward(layer.norm_feed(y))))
    assert weights.shape == (2, 1, 0)
