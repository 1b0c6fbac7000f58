"""Highlight score of every clip: eq. (12), s_i = sigmoid(linear(U_i)), or by a token that knows the sentence.

Dimensions: B sequences, T clips, D hidden width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SaliencyHead(nn.Module):
    """Clips [B, T, D] and mask [B, T] (True = valid) -> logits [B, T]; a sigmoid makes them scores in [0, 1].

    Padding gets the lowest finite number: its score is exactly 0, no argmax finds it, and 0 times it is no
    NaN. The token of a fusion that has one is for other heads.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden, 1)

    def forward(self, clips: Tensor, mask: Tensor, token: Tensor | None = None) -> Tensor:
        logits = self.score(clips).squeeze(-1)  # [B, T]
        return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


class TokenSaliencyHead(nn.Module):
    """QD-DETR's and CG-DETR's: <W1 clip, W2 token> / sqrt(D), where the token [B, D] stands for video and sentence."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.clip, self.token = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, clips: Tensor, mask: Tensor, token: Tensor | None = None) -> Tensor:
        """As `SaliencyHead`."""
        if token is None:
            raise ValueError("expected a fusion with a token for token saliency, got none; take linear saliency")
        logits = (self.clip(clips) * self.token(token)[:, None]).sum(-1) / math.sqrt(clips.shape[-1])  # [B, T]
        return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


SALIENCY_HEADS: dict[str, type[nn.Module]] = {"linear": SaliencyHead, "token": TokenSaliencyHead}
