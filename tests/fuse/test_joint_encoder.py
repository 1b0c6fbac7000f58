"""Moment-DETR's fusion: its layers on each sequence alone, what its places do, padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rdmf.fuse.joint_encoder import JointEncoderFusion
from rdmf.fuse.transformer import sine_positions

HIDDEN, LENGTHS, COUNTS = 16, [6, 3, 1], [2, 4, 0]


def fuser() -> JointEncoderFusion:
    torch.manual_seed(0)
    return JointEncoderFusion(HIDDEN, layers=2, heads=4, ffn=24).eval()


def batch(garbage: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clips, words = (torch.randn(3, n, HIDDEN, generator=generator) for n in (6, 4))
    clip_mask, word_mask = (torch.arange(n) < torch.tensor(x)[:, None] for n, x in ((6, LENGTHS), (4, COUNTS)))
    return (
        clips.masked_fill(~clip_mask[..., None], garbage), clip_mask,
        words.masked_fill(~word_mask[..., None], garbage), word_mask,
    )  # fmt: skip


def test_each_sequence_is_one_row_of_its_clips_with_places_and_its_words_without() -> None:
    model, (clips, clip_mask, words, word_mask) = fuser(), batch()
    fused = model(clips, clip_mask, words, word_mask)
    assert fused.words is not None
    for b, (n, m) in enumerate(zip(LENGTHS, COUNTS, strict=True)):
        x = torch.cat([clips[b, :n], words[b, :m]])[None]
        everything = torch.ones(1, n + m, dtype=torch.bool)
        place = torch.cat([sine_positions(everything[:, :n], HIDDEN), torch.zeros(1, m, HIDDEN)], 1)
        for layer in model.layers:
            x = layer(x, everything, place)
        torch.testing.assert_close(fused.clips[b, :n], x[0, :n], rtol=0, atol=1e-5)
        torch.testing.assert_close(fused.words[b, :m], x[0, n:], rtol=0, atol=1e-5)


def test_padding_changes_no_output_and_no_gradient_and_is_zero_afterwards() -> None:
    model, results = fuser(), []
    for garbage in (0.0, float("nan")):
        clips, clip_mask, words, word_mask = batch(garbage)
        model.zero_grad()
        fused = model(clips.requires_grad_(), clip_mask, words.requires_grad_(), word_mask)
        assert not fused.clips[~clip_mask].any()
        assert not fused.words[~word_mask].any()
        (fused.clips.pow(3).sum() + fused.words.pow(3).sum()).backward()
        results.append([fused.clips, fused.words, clips.grad, words.grad, *(p.grad for p in model.parameters())])
    assert all(torch.equal(clean, dirty) for clean, dirty in zip(*results, strict=True))
    assert all(gradient.any() for gradient in results[0])


def test_words_have_no_order_and_clips_do() -> None:
    model, (clips, clip_mask, words, word_mask) = fuser(), batch()
    forward = model(clips[:1], clip_mask[:1], words[:1, :2], word_mask[:1, :2])
    swapped = model(clips[:1], clip_mask[:1], words[:1, :2].flip(1), word_mask[:1, :2])
    torch.testing.assert_close(swapped.clips, forward.clips, rtol=0, atol=1e-5)
    torch.testing.assert_close(swapped.words, forward.words.flip(1), rtol=0, atol=1e-5)
    turned = model(clips[:1].flip(1), clip_mask[:1], words[:1, :2], word_mask[:1, :2])
    assert (turned.clips.flip(1) - forward.clips).abs().max() > 0.01


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="divides hidden = 16, got 3"):
        JointEncoderFusion(HIDDEN, heads=3)
