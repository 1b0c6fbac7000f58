"""CG-DETR as a fusion: attention to the words is calibrated by how much they have to do with a clip.

Correlation-Guided Query-Dependency Calibration for Video Temporal Grounding (Moon et al., arXiv 2311.08835), written
from the paper and checked against the authors' code.

    dummies -> encoded with the words -> adaptive cross-attention of the clips to dummies and words
    prompts -> saliency token         -> encoder over [token; clips] -> clips + token

`align` is for training: from the true moments it makes tokens of the moment, of the rest, of the sentence and of the
dummies, for the losses of heads/alignment.py.

Dimensions: B sequences, T clips, N dummies, L words, P prompts, D hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .adaptive_cross_attention import AdaptiveCrossAttention
from .laplacian import check_prefix, zero_padding
from .output import Fused, Guidance
from .prompt_token import PromptToken
from .token_encoder import PathEncoderLayer, TokenEncoder
from .transformer import reset, sine_positions

TYPE_SCALE = 0.02  # what marks clips as clips and words as words starts small


class Alignment(NamedTuple):
    """What clips and words are to one another, when it is known which clips are the moment."""

    moment: Tensor
    """[B, D], a summary of the clips of the moment."""
    elsewhere: Tensor
    """[B, D], of all others."""
    sentence: Tensor
    """[B, D], of the words."""
    dummy_sentence: Tensor
    """[B, D], of the dummies."""
    clips: Tensor
    """[B, T, D], encoded among their like: the moment's clips apart from all others; 0 at padding."""
    similarity: Tensor
    """[B, T, N + L], <clip, dummy or word>, each encoded among its like; without gradient, arbitrary at padding."""


class CorrelationGuidedFusion(nn.Module):
    """Defaults are the authors' for QVHighlights."""

    def __init__(
        self,
        hidden: int,
        cross_layers: int = 2,
        layers: int = 3,
        dummies: int = 45,
        dummy_layers: int = 2,
        prompts: int = 10,
        chosen_prompts: int = 1,
        moment_layers: int = 1,
        sentence_layers: int = 1,
        heads: int = 8,
        ffn: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        """Raises ValueError unless heads divides hidden, hidden is even, and there is one of everything at least."""
        super().__init__()
        if hidden % 2 or heads < 1 or hidden % heads:
            raise ValueError(f"expected an even hidden and heads that divide it, got {hidden} and {heads}")
        counts = {
            "cross_layers": cross_layers, "layers": layers, "dummies": dummies, "dummy_layers": dummy_layers,
            "moment_layers": moment_layers, "sentence_layers": sentence_layers,
        }  # fmt: skip
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"expected {name} of 1 or more, got {count}")
        shape = (heads, ffn, dropout)
        self.clip_type, self.word_type = (nn.Parameter(TYPE_SCALE * torch.randn(hidden)) for _ in range(2))
        self.dummies, self.dummy_place = (nn.Parameter(torch.randn(dummies, hidden)) for _ in range(2))
        self.dummy_layers = nn.ModuleList(PathEncoderLayer(hidden, *shape) for _ in range(dummy_layers))
        self.cross = nn.ModuleList(AdaptiveCrossAttention(hidden, *shape) for _ in range(cross_layers))
        self.prompt = PromptToken(hidden, prompts, chosen_prompts)
        self.encoder = TokenEncoder(hidden, layers, *shape)
        self.moment_token, self.sentence_token = (nn.Parameter(torch.randn(hidden)) for _ in range(2))
        self.moment_encoder = TokenEncoder(hidden, moment_layers, *shape)
        self.sentence_encoder = TokenEncoder(hidden, sentence_layers, *shape)
        for part in (self.cross, self.encoder.layers, self.moment_encoder.layers):
            reset(part)

    def forward(self, clips: Tensor, clip_mask: Tensor, words: Tensor, word_mask: Tensor) -> Fused:
        """clips [B, T, D], clip_mask bool [B, T], words [B, L, D], word_mask bool [B, L] -> Fused, with guidance."""
        check_prefix(clip_mask)
        clips = zero_padding(clips + self.clip_type, clip_mask)
        words = zero_padding(words + self.word_type, word_mask)
        places = sine_positions(clip_mask, clips.shape[-1]).to(clips.dtype)
        b, n = len(words), len(self.dummies)
        token_mask = torch.cat([word_mask.new_ones(b, n), word_mask], 1)  # [B, N + L]
        token_place = torch.cat([self.dummy_place.expand(b, -1, -1), torch.zeros_like(words)], 1)  # words have no place

        tokens = torch.cat([self.dummies.expand(b, -1, -1), words], 1)  # [B, N + L, D]
        for layer in self.dummy_layers:
            tokens = layer(tokens, token_mask, token_place)
        dummies = tokens[:, :n]
        tokens = torch.cat([dummies, words], 1)

        x, attention = clips, []
        for cross in self.cross:
            x, weights = cross(x, places, tokens, token_place, token_mask, n)
            attention.append(weights)
        guidance = Guidance(
            zero_padding(torch.stack(attention).mean(0), clip_mask),
            dummies, self.prompt.prompts, clips, clip_mask, words, word_mask,
        )  # fmt: skip

        token = self.prompt(clips, clip_mask, guidance.heard)[:, None]  # [B, 1, D]
        for cross in self.cross:  # it goes through the layers, but hears no words: so it is in the original
            token = cross(token, token, tokens[:, :0], tokens[:, :0], token_mask[:, :0], 0)[0]
        token, x = self.encoder(token.squeeze(1), x, places, clip_mask)
        return Fused(zero_padding(x + token[:, None], clip_mask), token, places=places, guidance=guidance)

    def align(self, fused: Fused, moment_mask: Tensor) -> Alignment:
        """fused: what `forward` said; moment_mask bool [B, T]: the clips that the sentence is about."""
        guidance = fused.guidance
        if guidance is None or fused.places is None:
            raise ValueError("expected what CorrelationGuidedFusion returned, got a fusion without guidance")
        clips, clip_mask = guidance.clips, guidance.clip_mask
        masks = torch.cat([clip_mask & moment_mask, clip_mask & ~moment_mask])  # [2B, T]
        summary, among = self.moment_encoder(
            self.moment_token, clips.repeat(2, 1, 1), fused.places.repeat(2, 1, 1), masks
        )
        moment, elsewhere = summary.chunk(2)
        inside, outside = among.chunk(2)
        clips = zero_padding(torch.where(moment_mask[..., None], inside, outside), clip_mask)

        words, dummies = guidance.words, guidance.dummies
        sentence, words = self.sentence_encoder(self.sentence_token, words, torch.zeros_like(words), guidance.word_mask)
        place = self.dummy_place.expand_as(dummies)
        every = guidance.word_mask.new_ones(dummies.shape[:2])
        dummy_sentence, dummies = self.sentence_encoder(self.sentence_token, dummies, place, every)
        with torch.no_grad():
            similarity = clips @ torch.cat([dummies, words], 1).mT
        return Alignment(moment, elsewhere, sentence, dummy_sentence, clips, similarity)
