"""QD-DETR's fusion (Moon et al., 2023): clips take the sentence in, then talk, with a token that judges them.

Cross-attention layers, queries from clips and keys and values from words, which stay what they are. What the
feed-forward network sees is normalised, what it is added to is not:

    x = clips + dropout(attention(clips + place, words, words));  clips = norm(x + dropout(feed_forward(norm(x))))

Then layers of self-attention over [token; clips]. The token, learned with a place of its own, is the same for every
video and has not seen a word: what it hears of the clips makes it the token of this pair, against which saliency is
judged. Words have no places, so their order does not matter here.

The authors' code also hides words from clips where another sequence of the batch has padding in place of both: its mask
meets the heads in another order than torch's. Here a row depends on itself alone.

Dimensions: B sequences, T clips, L words, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .laplacian import check_prefix, zero_padding
from .output import Fused
from .transformer import EncoderLayer, reset, sine_positions


class TextToVideoLayer(EncoderLayer):
    """Clips attend to words. The parts of an encoder layer, put together otherwise."""

    def forward(self, clips: Tensor, unheard: Tensor, place: Tensor, words: Tensor) -> Tensor:  # type: ignore[override]
        """clips, place [B, T, D]; words [B, L, D], finite; unheard bool [B, L]: those without a say -> [B, T, D]."""
        heard, _ = self.attention(clips + place, words, words, key_padding_mask=unheard, need_weights=False)
        x = clips + self.dropout(heard)
        return self.norm_feed(x + self.dropout(self.feed_forward(self.norm_attention(x))))


class QueryDependentFusion(nn.Module):
    """Cross-attention, then self-attention with the token in front."""

    def __init__(
        self,
        hidden: int,
        cross_layers: int = 2,
        layers: int = 2,
        heads: int = 8,
        ffn: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        """Raises ValueError unless heads divides hidden."""
        super().__init__()
        self.cross_layers = nn.ModuleList(
            TextToVideoLayer(hidden, heads, ffn, dropout, "prelu") for _ in range(cross_layers)
        )
        self.layers = nn.ModuleList(EncoderLayer(hidden, heads, ffn, dropout, "prelu") for _ in range(layers))
        reset(self)
        self.token, self.token_place = nn.Parameter(torch.randn(hidden)), nn.Parameter(torch.randn(hidden))

    def forward(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Fused:
        """clips [B, T, D], clip_mask bool [B, T], words [B, L, D], word_mask bool [B, L]."""
        check_prefix(clip_mask)
        clips, words = zero_padding(clips, clip_mask), zero_padding(words, word_mask)
        place = sine_positions(clip_mask, clips.shape[-1])  # [B, T, D]
        unheard = ~word_mask & word_mask.any(1, keepdim=True)  # a row without words hears padding, which is 0: no NaN
        for layer in self.cross_layers:
            clips = layer(clips, unheard, place, words)

        mask = torch.cat([clip_mask.new_ones(len(clips), 1), clip_mask], 1)  # [B, 1 + T]
        x = torch.cat([self.token.expand(len(clips), 1, -1), clips], 1)
        places = torch.cat([self.token_place.expand(len(clips), 1, -1), place], 1)
        for layer in self.layers:
            x = layer(x, mask, places)
        return Fused(zero_padding(x[:, 1:], clip_mask), token=x[:, 0], places=place)
