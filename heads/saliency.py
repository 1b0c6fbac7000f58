"""Highlight score of every clip: eq. (12), s_i = sigmoid(linear(U_i)).

Dimensions: B sequences, T clips, D hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SaliencyHead(nn.Module):
    """Clips [B, T, D] and mask [B, T] (True = valid) -> logits [B, T]; a sigmoid makes them scores in [0, 1].

    Padding gets the lowest finite number: its score is exactly 0, no argmax finds it, and 0 times it is no
    NaN.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden, 1)

    def forward(self, clips: Tensor, mask: Tensor) -> Tensor:
        logits = self.score(clips).squeeze(-1)  # [B, T]
        return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
