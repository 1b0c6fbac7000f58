"""The plain transformer: rows alone, order, padding, rows without words, its start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rdmf.fuse.encoder_decoder import EncoderDecoderFusion
from rdmf.fuse.transformer import sine_positions

HIDDEN, LENGTHS, COUNTS = 16, [6, 3, 1], [2, 4, 0]


def fuser() -> EncoderDecoderFusion:
    torch.manual_seed(0)
    return EncoderDecoderFusion(HIDDEN, layers=2, heads=4, ffn=24).eval()


def batch(garbage: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clips, words = (torch.randn(3, n, HIDDEN, generator=generator) for n in (6, 4))
    clip_mask, word_mask = (torch.arange(n) < torch.tensor(x)[:, None] for n, x in ((6, LENGTHS), (4, COUNTS)))
    return (
        clips.masked_fill(~clip_mask[..., None], garbage), clip_mask,
        words.masked_fill(~word_mask[..., None], garbage), word_mask,
    )  # fmt: skip


def test_it_is_torchs_transformer_on_each_sequence_with_places_added_on_entry() -> None:
    model, (clips, clip_mask, words, word_mask) = fuser(), batch()
    torchs = nn.Transformer(HIDDEN, 4, 2, 2, 24, batch_first=True).eval()
    torchs.encoder.norm = torchs.decoder.norm = None
    torchs.encoder.load_state_dict(model.encoder.state_dict())
    torchs.decoder.load_state_dict(model.decoder.state_dict())
    out = model(clips, clip_mask, words, word_mask)
    for b, (n, m) in enumerate(zip(LENGTHS, COUNTS, strict=True)):
        if not m:
            continue
        x, y = (z[b : b + 1, :k] + sine_positions(torch.ones(1, k) > 0, HIDDEN) for z, k in ((clips, n), (words, m)))
        torch.testing.assert_close(out[b : b + 1, :n], torchs(y, x), rtol=0, atol=1e-5)


def test_padding_changes_no_output_and_no_gradient() -> None:
    model, results = fuser().train(), []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    for garbage in (0.0, float("nan")):
        clips, clip_mask, words, word_mask = batch(garbage)
        model.zero_grad()
        out = model(clips.requires_grad_(), clip_mask, words.requires_grad_(), word_mask)
        assert not out[~clip_mask].any()
        out.pow(3).sum().backward()
        results.append([out, clips.grad, words.grad, *(p.grad for p in model.parameters())])
    assert all(torch.equal(clean, dirty) for clean, dirty in zip(*results, strict=True))
    assert all(gradient.any() for gradient in results[0])


def test_without_gradients_it_says_the_same() -> None:
    """torch then takes another way through the encoder."""
    model, inputs = fuser(), batch(float("nan"))
    with torch.no_grad():
        quick = model(*inputs)
    torch.testing.assert_close(quick, model(*inputs), rtol=0, atol=1e-5)


def test_the_order_of_the_words_matters() -> None:
    model, (clips, clip_mask, words, word_mask) = fuser(), batch()
    row = slice(1, 2)
    turned = model(clips[row], clip_mask[row], words[row].flip(1), word_mask[row])
    assert (turned - model(clips[row], clip_mask[row], words[row], word_mask[row])).abs().max() > 0.01


def test_no_two_layers_start_the_same() -> None:
    first, second = fuser().decoder.layers
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert a.dim() < 2 or not torch.equal(a, b), name


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="divides hidden = 16, got 3"):
        EncoderDecoderFusion(HIDDEN, heads=3)
