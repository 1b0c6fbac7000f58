"""What clips tell each other before the fusion: the layers of each sequence alone, far clips, order, padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rdmf.fuse import Context
from rdmf.fuse.transformer import sine_positions

HIDDEN, HEADS, LENGTHS = 16, 4, [7, 3, 1, 0]


def context(layers: int = 2) -> Context:
    torch.manual_seed(0)
    return Context(HIDDEN, layers, HEADS, ffn=24).eval()


def batch(garbage: float = 0.0) -> tuple[Tensor, Tensor]:
    clips = torch.randn(len(LENGTHS), 7, HIDDEN, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    return clips.masked_fill(~mask[..., None], garbage), mask


def literal(layer, x: Tensor, place: Tensor) -> Tensor:
    """A layer on the clips [T, D] of one sequence, clip by clip and head by head."""
    q_w, k_w, v_w = layer.attention.in_proj_weight.chunk(3)
    q_b, k_b, v_b = layer.attention.in_proj_bias.chunk(3)
    width, rows = HIDDEN // HEADS, []
    for t in range(len(x)):
        heard = []
        for h in range(HEADS):
            own = slice(h * width, (h + 1) * width)
            query = (q_w @ (x[t] + place[t]) + q_b)[own]
            keys = [(k_w @ (x[s] + place[s]) + k_b)[own] for s in range(len(x))]
            values = torch.stack([(v_w @ x[s] + v_b)[own] for s in range(len(x))])
            weights = torch.stack([query @ key / math.sqrt(width) for key in keys]).softmax(0)
            heard.append(weights @ values)
        rows.append(layer.norm_attention(x[t] + layer.attention.out_proj(torch.cat(heard))))
    x = torch.stack(rows)
    first, act, _, second = layer.feed_forward
    return layer.norm_feed(x + second(act(first(x))))


def test_it_is_attention_among_the_clips_of_each_sequence_by_itself() -> None:
    model, (clips, mask) = context(), batch()
    found = model(clips, mask)
    for b, n in enumerate(LENGTHS):
        x, place = clips[b, :n], sine_positions(mask[b : b + 1, :n], HIDDEN)[0]
        for layer in model.layers if n else ():
            x = literal(layer, x, place)
        torch.testing.assert_close(found[b, :n], x, rtol=0, atol=1e-5)


def test_one_layer_brings_the_last_clip_to_the_first_and_knows_their_order() -> None:
    model, (clips, mask) = context(layers=1), batch()
    clips.requires_grad_()
    found = model(clips[:1], mask[:1])
    (reach,) = torch.autograd.grad(found[0, 0].pow(3).sum(), clips)
    assert (reach[0].abs().amax(-1) > 1e-4).all()
    turned = model(clips[:1].flip(1), mask[:1]).flip(1)
    assert (turned - found).abs().max() > 0.01


def test_padding_changes_no_output_and_no_gradient_and_is_zero_afterwards() -> None:
    model, results = context(), []
    for garbage in (0.0, float("nan")):
        clips, mask = batch(garbage)
        model.zero_grad()
        found = model(clips.requires_grad_(), mask)
        assert not found[~mask].any()
        found.pow(3).sum().backward()
        results.append([found, clips.grad, *(p.grad for p in model.parameters())])
    assert all(torch.equal(clean, dirty) for clean, dirty in zip(*results, strict=True))
    assert all(gradient.any() for gradient in results[0])


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="divides hidden = 16, got 3"):
        Context(HIDDEN, heads=3)
