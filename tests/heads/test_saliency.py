"""A linear map per clip, or clips against a token; padding scores nothing."""

from __future__ import annotations

import math

import pytest
import torch

from rdmf.heads.saliency import SALIENCY_HEADS, SaliencyHead, TokenSaliencyHead


def test_each_clip_is_scored_by_itself_and_padding_scores_zero() -> None:
    torch.manual_seed(0)
    head, clips = SaliencyHead(8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    logits = head(clips, mask)
    expected = clips @ head.score.weight[0] + head.score.bias
    assert logits.shape == (2, 5)
    assert torch.allclose(logits[mask], expected[mask])
    assert torch.equal(logits[~mask].sigmoid(), torch.zeros(2))
    assert (logits.argmax(1) < mask.sum(1)).all()


def test_what_stands_in_padding_reaches_neither_logits_nor_gradients() -> None:
    torch.manual_seed(0)
    head, clips = SaliencyHead(8), torch.randn(1, 4, 8)
    mask = torch.tensor([[True, True, True, False]])
    clips[0, 3] = float("nan")
    logits = head(clips, mask)
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits[:, :3], head(clips[:, :3], mask[:, :3]))


def test_the_linear_head_has_no_use_for_a_token() -> None:
    torch.manual_seed(0)
    head, clips, mask = SaliencyHead(8), torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    assert torch.equal(head(clips, mask, torch.full((2, 8), torch.nan)), head(clips, mask))


def test_a_token_scores_each_clip_by_their_scaled_product() -> None:
    torch.manual_seed(0)
    head, clips, token = TokenSaliencyHead(8), torch.randn(2, 5, 8), torch.randn(2, 8)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    clips[1, 3:] = float("nan")
    logits = head(clips, mask, token).detach()
    for b, n in enumerate((5, 3)):
        for t in range(n):
            clip = head.clip.weight @ clips[b, t] + head.clip.bias
            other = head.token.weight @ token[b] + head.token.bias
            expected = sum(float(x * y) for x, y in zip(clip.detach(), other.detach(), strict=True)) / math.sqrt(8)
            assert logits[b, t].item() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(logits[~mask].sigmoid(), torch.zeros(2))


def test_token_saliency_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a fusion with a token"):
        SALIENCY_HEADS["token"](8)(torch.zeros(1, 2, 8), torch.ones(1, 2, dtype=torch.bool))
