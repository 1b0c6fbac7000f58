"""Fusion: (clips, words, masks) -> clips that know the sentence. Torch only.

The numerics are functions: laplacian, spectrum (its closed forms), kinetics, integrate, bounds (how large a step may
be), rates (learned within it), fused (all steps in one pass), stability (what theory says). The fusions are modules:
reaction_diffusion and, beside it in the same block, cross_attention and no_fusion; encoder_decoder, a plain
transformer; joint_encoder, query_dependent and correlation_guided, those of Moment-DETR, QD-DETR and CG-DETR.
temporal_diffusion, relevance and context are what clips may go through before.

Every fuser is called as `fuser(clips [B, T, D], clip_mask bool [B, T], words [B, L, D], word_mask bool [B,
L])` and returns [B, T, D], or a Fused (output.py) where it has more to say. True marks what is valid, and valid clips
are a prefix of their row. A new fusion is one file here, one entry below and its settings (pipeline/fusion_config.py).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .context import Context
from .correlation_guided import CorrelationGuidedFusion
from .cross_attention import CrossAttentionFusion
from .encoder_decoder import EncoderDecoderFusion
from .joint_encoder import JointEncoderFusion
from .no_fusion import NoFusion
from .output import Fused
from .query_dependent import QueryDependentFusion
from .reaction_diffusion import ReactionDiffusionFusion
from .relevance import Relevance
from .temporal_diffusion import TemporalDiffusion

FUSERS: dict[str, Callable[..., nn.Module]] = {
    "reaction_diffusion": ReactionDiffusionFusion,
    "cross_attention": CrossAttentionFusion,
    "none": NoFusion,
    "transformer": EncoderDecoderFusion,
    "joint_encoder": JointEncoderFusion,
    "query_dependent": QueryDependentFusion,
    "correlation_guided": CorrelationGuidedFusion,
}

__all__ = [
    "FUSERS",
    "Context",
    "CorrelationGuidedFusion",
    "CrossAttentionFusion",
    "EncoderDecoderFusion",
    "Fused",
    "JointEncoderFusion",
    "NoFusion",
    "QueryDependentFusion",
    "ReactionDiffusionFusion",
    "Relevance",
    "TemporalDiffusion",
]
