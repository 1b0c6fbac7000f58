"""The floor: the block of the other fusions, deaf."""

from __future__ import annotations

import torch

from rdmf.fuse.cross_attention import CrossAttentionFusion
from rdmf.fuse.no_fusion import NoFusion


def inputs(garbage: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clips, words = torch.randn(2, 5, 16, generator=generator), torch.randn(2, 4, 16, generator=generator)
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    return clips.masked_fill(~mask[..., None], garbage), mask, words, torch.ones(2, 4, dtype=torch.bool)


def test_it_is_the_block_of_a_fusion_that_heard_nothing() -> None:
    torch.manual_seed(0)
    deaf, hearing = NoFusion(16, ffn=24).eval(), CrossAttentionFusion(16, ffn=24).eval()
    missing = hearing.load_state_dict(deaf.state_dict(), strict=False).missing_keys
    with torch.no_grad():
        hearing.back.weight.zero_()
        hearing.back.bias.zero_()
    assert {name.split(".")[0] for name in missing} == {"norm_clips", "norm_words", "query", "key_value", "back"}
    torch.testing.assert_close(deaf(*inputs()), hearing(*inputs()))


def test_neither_words_nor_padding_nor_other_clips_matter_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    deaf = NoFusion(16, ffn=24).eval()
    clips, mask, words, word_mask = inputs()
    out = deaf(clips, mask, words, word_mask)
    assert torch.equal(deaf(inputs(float("nan"))[0], mask, torch.full_like(words, torch.nan), word_mask), out)
    torch.testing.assert_close(deaf(clips[:, 2:3], mask[:, 2:3], words, word_mask), out[:, 2:3])
    out.pow(3).sum().backward()
    assert all(parameter.grad.any() for parameter in deaf.parameters())
