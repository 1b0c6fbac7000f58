"""CG-DETR's saliency token: what this video is like, plus what its clips of interest are unlike the rest in.

    context = mean of the clips
    share   = softmax over prompts of cos(clip - context, prompt)
    mixed   = mean of the shares, a clip weighing as much as it hears of the words
    token   = context + sum over the prompts of the K largest mixed of mixed * prompt

No gradient goes through context and weights.

Dimensions: B sequences, T clips, P prompts, K of them chosen, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .laplacian import zero_padding

SHORT = 1e-2
"""Differences from the context shorter than this are no direction. Without it a video of one clip, which has no
difference, gets gradients of any size."""


class PromptToken(nn.Module):
    """The pool of prompts."""

    def __init__(self, hidden: int, prompts: int, chosen: int) -> None:
        super().__init__()
        if not 1 <= chosen <= prompts:
            raise ValueError(f"expected to choose 1 to {prompts} of {prompts} prompts, got {chosen}")
        self.chosen = chosen
        self.prompts = nn.Parameter(torch.randn(prompts, hidden))

    def forward(self, clips: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        """clips [B, T, D], 0 at padding; mask bool [B, T]; weight [B, T] >= 0 -> [B, D]."""
        context = clips.detach().sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]  # [B, 1, D]
        unlike = functional.normalize(clips - context, dim=-1, eps=SHORT)
        share = (unlike @ functional.normalize(self.prompts, dim=-1).mT).softmax(-1)  # [B, T, P]
        weight = weight.detach().masked_fill(~mask, 0).to(share.dtype)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
        mixed = (weight[..., None] * zero_padding(share, mask)).sum(1)  # [B, P]
        value, index = mixed.topk(self.chosen, 1)
        return torch.zeros_like(mixed).scatter(1, index, value) @ self.prompts + context.squeeze(1)
