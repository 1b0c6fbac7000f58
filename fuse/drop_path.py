"""Stochastic depth (Huang et al., 2016): a sequence's whole residual branch is dropped, or kept and scaled up."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class DropPath(nn.Dropout):
    """x [B, N, D] -> each of the B either 0, with probability p, or divided by 1 - p; in training only."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout2d(x[:, None], self.p, self.training)[:, 0]
