"""The saliency head is one linear map per clip, and padding scores nothing."""

from __future__ import annotations

import torch

from rdmf.heads.saliency import SaliencyHead


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
