"""A plain transformer (Vaswani et al., 2017), torch's own: an encoder over the words, a decoder over the clips.

What a fusion without ideas of its own gives. Words and clips get sine places once, on entry; every decoder layer is
self-attention of the clips, attention to the encoded words, and a feed-forward network.

Dimensions: B sequences, T clips, L words, D hidden.
"""

from __future__ import annotations

from torch import Tensor, nn

from .laplacian import check_prefix, zero_padding
from .transformer import reset, sine_positions


class EncoderDecoderFusion(nn.Module):
    """torch's encoder and decoder."""

    def __init__(self, hidden: int, layers: int = 2, heads: int = 8, ffn: int = 1024, dropout: float = 0.1) -> None:
        """Raises ValueError unless heads divides hidden."""
        super().__init__()
        if heads < 1 or hidden % heads:
            raise ValueError(f"expected a number of heads that divides hidden = {hidden}, got {heads}: change either")
        encoder = nn.TransformerEncoderLayer(hidden, heads, ffn, dropout, batch_first=True)
        decoder = nn.TransformerDecoderLayer(hidden, heads, ffn, dropout, batch_first=True)
        # Nested tensors would wait for a GPU to count the words.
        self.encoder = nn.TransformerEncoder(encoder, layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, layers)
        reset(self)  # torch copies one layer, weights and all

    def forward(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """clips [B, T, D], clip_mask bool [B, T], words [B, L, D], word_mask bool [B, L] -> [B, T, D], 0 at padding."""
        check_prefix(clip_mask)
        hidden = clips.shape[-1]
        clips = zero_padding(clips + sine_positions(clip_mask, hidden), clip_mask)
        words = zero_padding(words + sine_positions(word_mask, hidden), word_mask)
        # What a row has none of is attended to as zeros: a softmax over nothing is NaN.
        no_clip = ~clip_mask & clip_mask.any(1, keepdim=True)
        no_word = ~word_mask & word_mask.any(1, keepdim=True)
        encoded = zero_padding(self.encoder(words, src_key_padding_mask=no_word), word_mask)
        x = self.decoder(clips, encoded, tgt_key_padding_mask=no_clip, memory_key_padding_mask=no_word)
        return zero_padding(x, clip_mask)
