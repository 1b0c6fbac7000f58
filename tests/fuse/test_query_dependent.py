"""QD-DETR's fusion: cross-attention written out, the token, rows alone, padding, rows without words."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rdmf.fuse.query_dependent import QueryDependentFusion, TextToVideoLayer
from rdmf.fuse.transformer import sine_positions

HIDDEN, HEADS, LENGTHS, COUNTS = 12, 3, [6, 3, 1], [2, 4, 3]


def fuser() -> QueryDependentFusion:
    torch.manual_seed(0)
    model = QueryDependentFusion(HIDDEN, cross_layers=2, layers=2, heads=HEADS, ffn=20).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(garbage: float = 0.0, counts: list[int] = COUNTS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clips, words = (torch.randn(3, n, HIDDEN, generator=generator) for n in (6, 4))
    clip_mask, word_mask = (torch.arange(n) < torch.tensor(x)[:, None] for n, x in ((6, LENGTHS), (4, counts)))
    return (
        clips.masked_fill(~clip_mask[..., None], garbage), clip_mask,
        words.masked_fill(~word_mask[..., None], garbage), word_mask,
    )  # fmt: skip


def hear(layer: TextToVideoLayer, clips: Tensor, place: Tensor, words: Tensor) -> Tensor:
    """One sequence, all of it valid: clip by clip, head by head, word by word."""
    weights, biases = layer.attention.in_proj_weight.chunk(3), layer.attention.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((clips + place, words, words), weights, biases, strict=True))
    heard, size = torch.zeros_like(clips), HIDDEN // HEADS
    for t in range(len(clips)):
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            share = torch.stack([(q[t, part] @ key[part] / math.sqrt(size)).exp() for key in k])
            heard[t, part] = sum(s / share.sum() * value[part] for s, value in zip(share, v, strict=True))
    x = clips + layer.attention.out_proj(heard)
    return layer.norm_feed(x + layer.feed_forward(layer.norm_attention(x)))  # added to what is not normalised


def test_each_sequence_is_cross_attention_to_its_words_then_self_attention_with_the_token_in_front() -> None:
    model, (clips, clip_mask, words, word_mask) = fuser(), batch()
    fused = model(clips, clip_mask, words, word_mask)
    for b, (n, m) in enumerate(zip(LENGTHS, COUNTS, strict=True)):
        everything = torch.ones(1, n + 1, dtype=torch.bool)
        place = sine_positions(everything[:, :n], HIDDEN)[0]
        x = clips[b, :n]
        for layer in model.cross_layers:
            x = hear(layer, x, place, words[b, :m])
        x = torch.cat([model.token[None], x])[None]
        for layer in model.layers:
            x = layer(x, everything, torch.cat([model.token_place[None], place])[None])
        torch.testing.assert_close(fused.token[b], x[0, 0], rtol=0, atol=2e-5)
        torch.testing.assert_close(fused.clips[b, :n], x[0, 1:], rtol=0, atol=2e-5)
        torch.testing.assert_close(fused.places[b, :n], place, rtol=0, atol=1e-6)


def test_padding_changes_no_output_and_no_gradient() -> None:
    model, results = fuser(), []
    for garbage in (0.0, float("nan")):
        clips, clip_mask, words, word_mask = batch(garbage)
        model.zero_grad()
        fused = model(clips.requires_grad_(), clip_mask, words.requires_grad_(), word_mask)
        assert not fused.clips[~clip_mask].any()
        (fused.clips.pow(3).sum() + fused.token.pow(3).sum()).backward()
        results.append([fused.clips, fused.token, clips.grad, words.grad, *(p.grad for p in model.parameters())])
    assert all(torch.equal(clean, dirty) for clean, dirty in zip(*results, strict=True))
    assert all(gradient.any() for gradient in results[0])


def test_a_row_does_not_depend_on_the_other_rows_lengths() -> None:
    """The authors' code does: its mask takes another row's padding for one's own."""
    model, inputs = fuser(), batch()
    together = model(*inputs)
    for b in range(3):
        row = slice(b, b + 1)
        alone = model(*(x[row] for x in inputs))
        torch.testing.assert_close(together.token[row], alone.token, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.clips[row], alone.clips, rtol=0, atol=1e-5)


def test_without_words_all_is_finite_and_the_token_knows_clips_and_words() -> None:
    model, inputs = fuser(), batch(float("nan"), [2, 0, 3])
    fused = model(*inputs)
    assert fused.clips.isfinite().all()
    assert fused.token.isfinite().all()
    clips, clip_mask, words, word_mask = batch()
    token = model(clips, clip_mask, words, word_mask).token
    assert ((token - model(clips, clip_mask, -words, word_mask).token).abs().amax(1) > 1e-3).all()
    assert ((token - model(-clips, clip_mask, words, word_mask).token).abs().amax(1) > 1e-3).all()


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="divides hidden = 12, got 5"):
        QueryDependentFusion(12, heads=5)
