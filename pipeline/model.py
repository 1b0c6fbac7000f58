"""The whole model: cached features in, saliency and moments out.

    clips -> projection -> temporal diffusion (1-3) -> fusion with the words (4-8) -> saliency (12), moments (13)

Before the fusion clips may be told how alike they and the sentence are (relevance), and hear each other (context).
Fusion and heads are entries of FUSERS, SALIENCY_HEADS and MOMENT_HEADS: the published baselines are other choices of
the three (configs/models/), and everything else is the same.

Dimensions: B queries, T clips, L words, Dv and Dt feature widths, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..fuse import FUSERS, Context, Fused, Relevance, TemporalDiffusion
from ..heads import MOMENT_HEADS, SALIENCY_HEADS
from ..heads.moment import MomentOutput
from .config import ModelConfig


@dataclass(frozen=True)
class Output:
    """What the model says of a batch."""

    saliency_logits: Tensor
    """[B, T]"""
    moments: MomentOutput
    fused: Fused
    """The clips after fusion, and what a fusion says beyond them."""
    negative: Fused | None = None
    """The same with the sentence of the next query of the batch; in training, where a loss asks for it."""
    negative_logits: Tensor | None = None
    """[B, T], its saliency."""


def alike(config: ModelConfig, text_dim: int) -> slice:
    """The columns of the clips' features that `model.relevance` compares with the sentence's."""
    first = config.relevance_from or 0
    return slice(first, first + text_dim)


def _check_alike(relevance_from: int | None, video_dim: int, text_dim: int) -> None:
    """Raises ValueError where clips have no columns that can be compared with the sentence's."""
    if text_dim > video_dim or (relevance_from is None and text_dim < video_dim):
        advice = ", or model.relevance_from to where the sentence's space begins" * (text_dim < video_dim)
        raise ValueError(
            f"expected clips and words of one width for model.relevance, as encoders of one space have, got "
            f"{video_dim} and {text_dim}: set it to 0{advice}"
        )
    if (relevance_from or 0) + text_dim > video_dim:
        raise ValueError(
            f"expected model.relevance_from of 0 to {video_dim - text_dim}, so that {text_dim} of the clips' "
            f"{video_dim} columns follow, got {relevance_from}"
        )


class RDMF(nn.Module):
    """Diffusion, fusion and heads; the part that is trained."""

    def __init__(self, config: ModelConfig, video_dim: int, text_dim: int) -> None:
        super().__init__()
        hidden, dropout = config.hidden, config.dropout
        self.clip_times = config.clip_times
        self.project_clips = _projection(video_dim + 2 * config.clip_times, hidden, config.input_dropout)
        self.project_words = _projection(text_dim, hidden, config.input_dropout)
        self.alike = alike(config, text_dim)
        if config.relevance:
            _check_alike(config.relevance_from, video_dim, text_dim)
        self.relevance = Relevance(text_dim, hidden, config.relevance) if config.relevance else None
        diffusion = config.diffusion
        self.diffusion = TemporalDiffusion(diffusion.steps, diffusion.dt, diffusion.d)
        context = config.context
        self.context = Context(hidden, context.layers, context.heads, context.ffn, dropout) if context.layers else None
        self.fusion = FUSERS[config.fusion.kind](hidden, dropout=dropout, **config.fusion.settings())
        self.saliency = SALIENCY_HEADS[config.saliency.kind](hidden)
        moment = config.moment
        own = {"proposals": moment.proposals, "drop_path": moment.drop_path}
        more = {name: value for name, value in own.items() if value}  # of one kind of head alone
        head = MOMENT_HEADS[moment.kind]
        self.moment = head(hidden, moment.queries, moment.layers, moment.heads, dropout, moment.iou, **more)

    def forward(
        self,
        clips: Tensor,
        clip_mask: Tensor,
        positions: Tensor,
        words: Tensor,
        word_mask: Tensor,
        negatives: bool = False,
    ) -> Output:
        """clips [B, T, Dv], positions [B, T] in [0, 1], words [B, L, Dt]; masks are True where something is.

        negatives: whether to fuse each video with the next query's sentence, too.
        """
        x = self.diffusion(self.projected(clips, clip_mask, positions), clip_mask)

        def heard(words: Tensor, word_mask: Tensor) -> tuple[Fused, Tensor]:
            """The clips after they heard the words, and their saliency."""
            told = self.told(x, clips, clip_mask, words, word_mask)
            fused = Fused.of(self.fusion(told, clip_mask, self.project_words(words), word_mask))
            return fused, self.saliency(fused.clips, clip_mask, fused.token)

        fused, saliency = heard(words, word_mask)
        moments = self.moment(
            fused.clips, clip_mask, positions, words=fused.words, word_mask=word_mask, places=fused.places,
            saliency=saliency,
        )  # fmt: skip
        other = heard(words.roll(-1, 0), word_mask.roll(-1, 0)) if negatives else (None, None)
        return Output(saliency, moments, fused, *other)

    def told(self, x: Tensor, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """Diffused clips x [B, T, D] as the fusion gets them: with relevance and context, where the model has them.

        The rest as `forward` has it.
        """
        if self.relevance is not None:
            x = x + self.relevance(clips[..., self.alike], clip_mask, words, word_mask)
        return x if self.context is None else self.context(x, clip_mask)

    def projected(self, clips: Tensor, clip_mask: Tensor, positions: Tensor) -> Tensor:
        """Clips [B, T, Dv] in the model's width, [B, T, D], not yet diffused."""
        if self.clip_times:
            clips = torch.cat([clips, borders(positions, clip_mask)], -1)
        return self.project_clips(clips)


def borders(positions: Tensor, mask: Tensor) -> Tensor:
    """Start and end of each clip as shares of the duration, [B, T, 2]; 0 at padding. mask bool [B, T], True = valid.

    They lie halfway between two centres [B, T], and at 0 and 1.
    """
    between = (positions[:, 1:] + positions[:, :-1]) / 2  # [B, T - 1]
    start, end = functional.pad(between, (1, 0)), functional.pad(between, (0, 1), value=1.0)
    last = mask & ~functional.pad(mask, (0, 1))[:, 1:]
    return torch.stack((start, end.masked_fill(last, 1.0)), -1) * mask[..., None]


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _projection(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Normalised, so that the scale of an encoder's features does not matter."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU(),
        nn.LayerNorm(hidden), nn.Dropout(dropout), nn.Linear(hidden, hidden),
    )  # fmt: skip
