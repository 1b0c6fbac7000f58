"""Fusion: (clips, words, masks) -> clips that know the sentence. Torch only.

The numerics are functions: laplacian, spectrum (its closed forms), kinetics, integrate, bounds (how large a step may
be), rates (learned within it), fused (all steps in one pass), stability (what theory says). temporal_diffusion,
reaction_diffusion and cross_attention are the modules, block is what fusions share.

Every fuser is called as `fuser(clips [B, T, D], clip_mask bool [B, T], words [B, L, D], word_mask bool [B,
L])` and returns [B, T, D]. True marks what is valid, and valid clips are a prefix of their row. A new fusion
is one file here and one entry below.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .cross_attention import CrossAttentionFusion
from .reaction_diffusion import ReactionDiffusionFusion
from .temporal_diffusion import TemporalDiffusion

FUSERS: dict[str, Callable[..., nn.Module]] = {
    "reaction_diffusion": ReactionDiffusionFusion,
    "cross_attention": CrossAttentionFusion,
}

__all__ = ["FUSERS", "CrossAttentionFusion", "ReactionDiffusionFusion", "TemporalDiffusion"]
