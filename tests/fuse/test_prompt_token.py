"""The saliency token out of the pool against loops, and what has no part in its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from rdmf.fuse.prompt_token import SHORT, PromptToken

HIDDEN, PROMPTS = 6, 5


@pytest.mark.parametrize("chosen", [1, 2, PROMPTS])
def test_a_token_equals_loops_over_clips_and_prompts(chosen: int) -> None:
    torch.manual_seed(chosen)
    pool = PromptToken(HIDDEN, PROMPTS, chosen).double()
    lengths = [4, 2]
    clips, weight = torch.randn(2, 4, HIDDEN).double(), torch.rand(2, 4).double()
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    token = pool(clips.masked_fill(~mask[..., None], 0), mask, weight)
    for row, length in enumerate(lengths):
        context = sum(clips[row, t] for t in range(length)) / length
        mixed = [0.0] * PROMPTS
        for t in range(length):
            unlike = clips[row, t] - context
            powers = [math.exp((unlike @ p / (unlike.norm() * p.norm())).item()) for p in pool.prompts]
            for number, power in enumerate(powers):
                mixed[number] += power / sum(powers) * float(weight[row, t] / weight[row, :length].sum())
        expected = context
        for number in sorted(range(PROMPTS), key=lambda i: -mixed[i])[:chosen]:
            expected = expected + mixed[number] * pool.prompts[number]
        torch.testing.assert_close(token[row], expected)
    assert chosen < PROMPTS or sum(mixed) == pytest.approx(1)


def test_weights_and_context_have_no_gradient() -> None:
    pool = PromptToken(HIDDEN, PROMPTS, PROMPTS)
    clips, mask = torch.randn(1, 4, HIDDEN), torch.ones(1, 4, dtype=torch.bool)
    weight = torch.rand(1, 4, requires_grad=True)
    pool(clips, mask, weight).sum().backward()
    assert weight.grad is None
    with torch.no_grad():
        pool.prompts.zero_()  # the token is the context alone
    clips.requires_grad_()
    pool(clips, mask, weight).sum().backward()
    assert clips.grad is not None
    assert not clips.grad.any()


def test_a_video_of_one_clip_has_a_gradient_of_a_decent_size() -> None:
    torch.manual_seed(0)
    pool = PromptToken(HIDDEN, PROMPTS, 1)
    clips = torch.randn(1, 1, HIDDEN, requires_grad=True)
    pool(clips, torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1)).sum().backward()
    assert clips.grad is not None
    assert clips.grad.norm() < pool.prompts.norm() / SHORT


def test_nothing_heard_and_no_clips_at_all_give_the_context() -> None:
    pool = PromptToken(HIDDEN, PROMPTS, 2)
    clips = torch.randn(2, 3, HIDDEN)
    clips[1] = 0
    mask = torch.tensor([[True] * 3, [False] * 3])
    token = pool(clips, mask, torch.zeros(2, 3))
    torch.testing.assert_close(token[0], clips[0].mean(0))
    assert not token[1].any()


@pytest.mark.parametrize("chosen", [0, PROMPTS + 1])
def test_no_more_prompts_are_chosen_than_there_are(chosen: int) -> None:
    with pytest.raises(ValueError, match=f"choose 1 to {PROMPTS} of {PROMPTS} prompts, got {chosen}"):
        PromptToken(HIDDEN, PROMPTS, chosen)
