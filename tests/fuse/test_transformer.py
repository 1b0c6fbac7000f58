"""The encoder layer beside one written out head by head and token by token; places; the start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rdmf.fuse.transformer import EncoderLayer, reset, sine_positions

HIDDEN, HEADS = 12, 3


def attend(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One sequence, all of it valid: [N, D], [M, D], [M, D] -> [N, D]."""
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
    out, size = torch.zeros(len(q), HIDDEN), HIDDEN // HEADS
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        for n in range(len(q)):
            share = torch.stack([(q[n, part] @ k[m, part] / math.sqrt(size)).exp() for m in range(len(k))])
            out[n, part] = sum(share[m] / share.sum() * v[m, part] for m in range(len(k)))
    return out @ module.out_proj.weight.T + module.out_proj.bias


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_the_layer_is_attention_with_places_in_queries_and_keys_then_feed_forward_each_normalised_last(
    activation: str,
) -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(HIDDEN, HEADS, 8, 0.1, activation).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    lengths = [5, 2]
    x, place = torch.randn(2, 5, HIDDEN), torch.randn(2, 5, HIDDEN)
    out = layer(x, torch.arange(5) < torch.tensor(lengths)[:, None], place)
    first, squash, _, second = layer.feed_forward
    for b, n in enumerate(lengths):
        own, at = x[b, :n], x[b, :n] + place[b, :n]
        y = layer.norm_attention(own + attend(layer.attention, at, at, own))
        z = first(y)
        slope = squash.weight if activation == "prelu" else 0.0
        y = layer.norm_feed(y + second(torch.where(z > 0, z, slope * z)))
        torch.testing.assert_close(out[b, :n], y, rtol=0, atol=1e-5)


def test_what_stands_at_padding_changes_no_valid_token_and_a_row_of_padding_stays_finite() -> None:
    torch.manual_seed(0)
    layer, x, place = EncoderLayer(HIDDEN, HEADS, 8, 0.0), torch.randn(2, 4, HIDDEN), torch.randn(2, 4, HIDDEN)
    mask = torch.tensor([[True, True, False, True], [False] * 4])  # valid tokens need not come first
    other = torch.where(mask[..., None], x, 100 * torch.randn_like(x))
    a, b = layer(x, mask, place), layer(other, mask, place)
    torch.testing.assert_close(a[mask], b[mask], rtol=0, atol=1e-6)
    assert b.isfinite().all()


def test_places_are_detrs_sines_of_the_share_of_valid_clips_so_far() -> None:
    lengths, width = [7, 3, 0], 6
    found = sine_positions(torch.arange(7) < torch.tensor(lengths)[:, None], width)
    for b, n in enumerate(lengths):
        for t in range(n):
            for pair in range(width // 2):
                angle = 2 * math.pi * (t + 1) / n / 10000 ** (2 * pair / width)
                expected = torch.tensor([math.sin(angle), math.cos(angle)])
                torch.testing.assert_close(found[b, t, 2 * pair : 2 * pair + 2], expected, rtol=0, atol=1e-5)
    assert found.isfinite().all()


def test_places_do_not_depend_on_how_far_a_batch_is_padded() -> None:
    mask = torch.arange(9) < 4
    torch.testing.assert_close(sine_positions(mask[None], 8)[:, :4], sine_positions(mask[None, :4], 8))


def test_every_matrix_starts_uniform_within_xaviers_bound_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(64, 4, 128, 0.1)
    before = {name: p.clone() for name, p in layer.named_parameters()}
    reset(layer)
    for name, parameter in layer.named_parameters():
        if parameter.dim() < 2:
            assert torch.equal(parameter, before[name])
            continue
        bound = math.sqrt(6 / sum(parameter.shape))
        assert 0.98 * bound < parameter.abs().max() <= bound
        assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_sizes_that_do_not_fit_are_refused() -> None:
    for heads in (0, 5):
        with pytest.raises(ValueError, match=f"divides hidden = 12, got {heads}"):
            EncoderLayer(12, heads, 8, 0.1)
    with pytest.raises(ValueError, match="even hidden width for sines and cosines, got 5"):
        sine_positions(torch.ones(1, 3, dtype=torch.bool), 5)
