"""The floor: the block of reaction-diffusion and cross-attention without a sentence.

What is found of a moment is then found without a question.

Dimensions: B sequences, T clips, L words, D hidden.
"""

from __future__ import annotations

from torch import Tensor, nn

from .block import FusionBlock


class NoFusion(FusionBlock):
    """A feed-forward network on every clip by itself."""

    def __init__(self, hidden: int, dropout: float = 0.1, ffn: int = 1024) -> None:
        super().__init__(hidden, dropout, ffn)
        self.norm_clips = self.norm_words = nn.Identity()  # type: ignore[assignment]  # nothing would be learned

    def mix(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        return clips.new_zeros(clips.shape)
