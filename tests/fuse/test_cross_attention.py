"""Cross-attention against torch's own layer, rows without words, and its size beside the RD block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rdmf.fuse import CrossAttentionFusion, ReactionDiffusionFusion


def test_attention_equals_torchs_own_layer_with_the_same_weights() -> None:
    torch.manual_seed(0)
    block, reference = (
        CrossAttentionFusion(16, heads=4, ffn=8).eval(),
        nn.MultiheadAttention(16, 4, batch_first=True),
    )
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
        reference.out_proj.load_state_dict(block.back.state_dict())
        clips, words = torch.randn(2, 6, 16), torch.randn(2, 5, 16)
        clip_mask = torch.ones(2, 6, dtype=torch.bool)
        word_mask = torch.arange(5) < torch.tensor([[5], [2]])
        normed = block.norm_words(words)
        expected, _ = reference(clips, normed, normed, key_padding_mask=~word_mask)
        torch.testing.assert_close(block.mix(clips, clip_mask, words, word_mask), expected)


def test_clips_of_a_row_without_words_hear_nothing() -> None:
    torch.manual_seed(0)
    block = CrossAttentionFusion(16, heads=4, ffn=8)
    clips, words = torch.randn(2, 6, 16), torch.randn(2, 5, 16, requires_grad=True)
    clip_mask, word_mask = torch.ones(2, 6, dtype=torch.bool), torch.tensor([[True] * 5, [False] * 5])
    heard = block.mix(clips, clip_mask, words, word_mask)
    assert torch.equal(heard[1], block.back.bias.expand(6, 16))
    block(clips, clip_mask, words, word_mask).pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    assert words.grad is not None
    assert not words.grad[1].any()


def test_it_is_about_as_large_as_the_reaction_diffusion_block() -> None:
    attention, reaction = (
        sum(p.numel() for p in block(256).parameters()) for block in (CrossAttentionFusion, ReactionDiffusionFusion)
    )
    assert (attention, reaction) == (790_784, 725_508)
    assert abs(attention - reaction) / attention < 0.1


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_that_do_not_divide_the_width_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match="divides hidden = 16"):
        CrossAttentionFusion(16, heads=heads)
