"""A token in front of a sequence against a slow layer, and branches that are dropped as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rdmf.fuse.drop_path import DropPath
from rdmf.fuse.token_encoder import PathEncoderLayer, TokenEncoder

HIDDEN, HEADS = 8, 2


def slow_layer(layer: PathEncoderLayer, x: Tensor, place: Tensor) -> Tensor:
    """One sequence without padding: x, place [N, D]."""
    weight, bias = layer.attention.in_proj_weight, layer.attention.in_proj_bias
    (wq, wk, wv), (bq, bk, bv) = weight.chunk(3), bias.chunk(3)
    size = HIDDEN // HEADS
    rows = []
    for t in range(len(x)):
        parts = []
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            query = (wq @ (x[t] + place[t]) + bq)[part]
            scores = torch.stack([query @ (wk @ (x[s] + place[s]) + bk)[part] for s in range(len(x))]) / size**0.5
            share = scores.exp() / scores.exp().sum()
            parts.append(sum(share[s] * (wv @ x[s] + bv)[part] for s in range(len(x))))
        rows.append(layer.attention.out_proj(torch.cat(parts)))
    x = layer.norm_attention(x + torch.stack(rows))
    return layer.norm_feed(x + layer.feed_forward(x))


def test_an_encoded_token_equals_slow_layers_over_the_valid_part() -> None:
    torch.manual_seed(0)
    encoder = TokenEncoder(HIDDEN, 2, HEADS, 16, 0.0).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    token, x, place = (torch.randn(3, *shape, HIDDEN).double() for shape in ((), (5,), (5,)))
    mask = torch.tensor([[True] * 5, [False, True, False, True, False], [False] * 5])
    summary, out = encoder(token, x, place, mask)
    for row in range(3):
        sequence = torch.cat([token[row, None], x[row, mask[row]]])
        places = torch.cat([encoder.place[None], place[row, mask[row]]])
        for layer in encoder.layers:
            sequence = slow_layer(layer, sequence, places)
        torch.testing.assert_close(summary[row], sequence[0])
        torch.testing.assert_close(out[row, mask[row]], sequence[1:])


def test_one_token_for_all_rows_is_the_same_as_a_token_each() -> None:
    torch.manual_seed(0)
    encoder = TokenEncoder(HIDDEN, 1, HEADS, 16, 0.0)
    token, x, mask = torch.randn(HIDDEN), torch.randn(2, 3, HIDDEN), torch.ones(2, 3, dtype=torch.bool)
    for one, each in zip(encoder(token, x, x, mask), encoder(token.expand(2, -1), x, x, mask), strict=True):
        assert torch.equal(one, each)


@pytest.mark.parametrize("p", [0.0, 0.25])
def test_a_branch_is_dropped_as_a_whole_or_scaled_up(p: float) -> None:
    torch.manual_seed(0)
    drop = DropPath(p)
    out = drop(torch.ones(4000, 3, 2))
    kept = out[:, 0, 0] != 0
    assert torch.equal(out, (kept / (1 - p))[:, None, None].expand_as(out))
    assert abs(kept.float().mean().item() - (1 - p)) < 4 * (p * (1 - p) / 4000) ** 0.5 + 1e-9
    x = torch.randn(5, 3, 2)
    assert torch.equal(drop.eval()(x), x)
