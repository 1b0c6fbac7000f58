"""The whole model: cached features in, saliency and moments out.

    clips -> projection -> temporal diffusion (1-3) -> fusion with the words (4-8) -> saliency (12), moments (13)

Dimensions: B queries, T clips, L words, Dv and Dt feature widths, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..fuse import FUSERS, TemporalDiffusion
from ..heads.moment import MomentHead, MomentOutput
from ..heads.saliency import SaliencyHead
from .config import ModelConfig


@dataclass(frozen=True)
class Output:
    """What the model says of a batch."""

    saliency_logits: Tensor
    """[B, T]"""
    moments: MomentOutput
    fused: Tensor
    """[B, T, D], the clips after fusion."""


class RDMF(nn.Module):
    """Diffusion, fusion and heads; the part that is trained."""

    def __init__(self, config: ModelConfig, video_dim: int, text_dim: int) -> None:
        super().__init__()
        hidden, dropout = config.hidden, config.dropout
        self.project_clips = _projection(video_dim, hidden, config.input_dropout)
        self.project_words = _projection(text_dim, hidden, config.input_dropout)
        diffusion = config.diffusion
        self.diffusion = TemporalDiffusion(diffusion.steps, diffusion.dt, diffusion.d)
        self.fusion = FUSERS[config.fusion.kind](hidden, dropout=dropout, **config.fusion.settings())
        self.saliency = SaliencyHead(hidden)
        moment = config.moment
        self.moment = MomentHead(hidden, moment.queries, moment.layers, moment.heads, dropout, moment.iou)

    def forward(self, clips: Tensor, clip_mask: Tensor, positions: Tensor, words: Tensor, word_mask: Tensor) -> Output:
        """clips [B, T, Dv], positions [B, T] in [0, 1], words [B, L, Dt]; masks are True where something is."""
        x = self.diffusion(self.project_clips(clips), clip_mask)
        fused = self.fusion(x, clip_mask, self.project_words(words), word_mask)
        return Output(self.saliency(fused, clip_mask), self.moment(fused, clip_mask, positions), fused)


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _projection(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Normalised, so that the scale of an encoder's features does not matter."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU(),
        nn.LayerNorm(hidden), nn.Dropout(dropout), nn.Linear(hidden, hidden),
    )  # fmt: skip
