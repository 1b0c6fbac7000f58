"""The ablation 'w/o RD': clips attend to words, inside the same block and with about as many parameters.

Dimensions: B sequences, T clips, L words, D hidden, H heads, K = D / H.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from .block import FusionBlock
from .laplacian import zero_padding


class CrossAttentionFusion(FusionBlock):
    """Multi-head attention, queries from clips, keys and values from words."""

    def __init__(self, hidden: int, heads: int = 8, dropout: float = 0.1, ffn: int = 1024) -> None:
        """Raises ValueError unless heads divides hidden."""
        super().__init__(hidden, dropout, ffn)
        if heads < 1 or hidden % heads:
            raise ValueError(f"expected a number of heads that divides hidden = {hidden}, got {heads}: change either")
        self.heads, self.weight_dropout = heads, dropout
        self.query, self.key_value = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.back = nn.Linear(hidden, hidden)

    def mix(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        query = self._split(self.query(clips))  # [B, H, T, K]
        key, value = map(self._split, self.key_value(self.norm_words(words)).chunk(2, -1))  # [B, H, L, K]
        # A softmax over no words is NaN in some of torch's kernels: such a row sees padding, then drops it.
        has_words = word_mask.any(1, keepdim=True)  # [B, 1]
        seen = (word_mask | ~has_words)[:, None, None]  # [B, 1, 1, L]
        drop = self.weight_dropout if self.training else 0.0
        heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=drop)
        heard = heard.transpose(1, 2).flatten(2)  # [B, T, D]
        return self.back(zero_padding(heard, has_words.expand_as(clip_mask)))

    def _split(self, x: Tensor) -> Tensor:
        """[B, length, D] -> [B, H, length, K]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
