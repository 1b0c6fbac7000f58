"""CG-DETR's adaptive cross-attention: a clip hears the words as far as they are about it.

    weights = softmax over [dummies; words] of <clip, token> / sqrt(K)
    heard   = sum over the words alone of weight * word

Dummies are keys and no values. The attention that they take is lost to the words: a clip that the sentence does not
speak of can leave nearly all of it to them, and stay as it is. Queries, keys and values are the heads' parts of clips
and tokens as they are, not projected (as in the authors' code); what is heard is. The feed-forward network looks at
what is normalised and is added to what is not:

    x = clips + drop(out(heard));  x = norm(x + drop(feed_forward(norm(x))))

Dimensions: B sequences, T clips, N dummies, L words, D hidden, H heads, K = D / H.
"""

from __future__ import annotations

from torch import Tensor, nn

from .drop_path import DropPath


def shares(query: Tensor, key: Tensor, mask: Tensor, heads: int) -> Tensor:
    """The softmax, [B, H, T, N + L]: query [B, T, D], key [B, N + L, D], mask bool [B, N + L] with a True per row."""
    q, k = split(query, heads), split(key, heads)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # [B, H, T, N + L]
    return scores.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1)


def split(x: Tensor, heads: int) -> Tensor:
    """[B, length, D] -> [B, H, length, K]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class AdaptiveCrossAttention(nn.Module):
    """One layer."""

    def __init__(self, hidden: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.out = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.out.bias)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden, ffn), nn.PReLU(), nn.Dropout(dropout), nn.Linear(ffn, hidden)
        )
        self.norm_feed, self.norm_out = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.weight_dropout, self.dropout = nn.Dropout(dropout), DropPath(dropout)

    def forward(
        self, clips: Tensor, clip_place: Tensor, tokens: Tensor, token_place: Tensor, token_mask: Tensor, dummies: int
    ) -> tuple[Tensor, Tensor]:
        """clips, clip_place [B, T, D]; tokens, token_place [B, N + L, D], dummies first; token_mask bool [B, N + L].

        -> clips [B, T, D] and the weights, [B, T, N + L], means over the heads. Padding of the words holds finite
        numbers; what stands at padding of the clips is arbitrary.
        """
        weights = shares(clips + clip_place, tokens + token_place, token_mask, self.heads)
        # The original's masks meet the heads in another order, so that a clip misses words where another sequence of
        # the batch has padding. Here a row knows its own mask only.
        words = split(tokens[:, dummies:], self.heads)  # [B, H, L, K]
        heard = self.weight_dropout(weights)[..., dummies:].to(words.dtype) @ words  # [B, H, T, K]
        x = clips + self.dropout(self.out(heard.transpose(1, 2).flatten(2)))
        return self.norm_out(x + self.dropout(self.feed_forward(self.norm_feed(x)))), weights.mean(1)


def heard_by(attention: Tensor, dummies: int) -> Tensor:
    """How much of their attention clips give to words, [B, T] in [0, 1]: attention [B, T, N + L]."""
    return attention[..., dummies:].sum(-1).clamp(max=1)
