"""What clips tell each other before the fusion: layers of self-attention among them, for any fusion.

    clips -> layers of self-attention and feed-forward, sine places -> clips

A reaction mixes clips with their neighbours alone, and so does temporal diffusion; here a clip sees all others. Clips
come as the fusion would have had them, with their relevance where it is told, so what they compare is how well each
of them fits the sentence, too. The layer is the DETR family's (transformer.py), whose own fusions have such layers.

Dimensions: B sequences, T clips, D hidden.
"""

from __future__ import annotations

from torch import Tensor, nn

from .laplacian import check_prefix, zero_padding
from .transformer import EncoderLayer, reset, sine_positions


class Context(nn.Module):
    """Self-attention among clips."""

    def __init__(self, hidden: int, layers: int = 1, heads: int = 8, ffn: int = 1024, dropout: float = 0.1) -> None:
        """Raises ValueError unless heads divides hidden."""
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(hidden, heads, ffn, dropout) for _ in range(layers))
        reset(self)

    def forward(self, clips: Tensor, clip_mask: Tensor) -> Tensor:
        """clips [B, T, D], clip_mask bool [B, T], True = valid -> [B, T, D], 0 at padding."""
        check_prefix(clip_mask)
        x, places = zero_padding(clips, clip_mask), sine_positions(clip_mask, clips.shape[-1])
        for layer in self.layers:
            x = layer(x, clip_mask, places)
        return zero_padding(x, clip_mask)
