"""CG-DETR's losses: what its attention and its tokens are to be (Moon et al., arXiv 2311.08835).

    attention      of all attention of a clip, the share that goes to words is a saliency: margin, rank and negative of
                   contrast.py, and the cross-entropy with 'the clip is of the moment'
    alignment      the moment's token is closer to its own sentence's than to all others, and than the tokens of what
                   is no moment are; its product with a clip says whether the clip is of the moment
    distillation   KL(softmax of <clip, dummy or word> || attention) of the moment's clips, over the number of tokens
    orthogonality  mean |cos| between dummies and between prompts, where one of the two has no gradient

What the authors' code does and this does not. Padding counts: in the means of the cross-entropies, in the softmax of
the distillation and in its mean. Where a batch has videos whose negative sentence is about themselves, it computes
their rank term of the attention and then loses it (and with one such video it is nearly 0). Where the sigmoid of a
product of moment and clip rounds to 1 for a clip elsewhere, as for nearly half of them at the start, the loss is 100
and has no gradient.

Nothing waits for the host.

Dimensions: B sequences, T clips, N dummies, L words, P prompts, D hidden.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .contrast import Pairs, margin_loss, negative_loss, rank_loss

SMALLEST = 1e-6  # shares of attention this small and smaller are one, where their logarithm is taken


class Guidance(Protocol):
    """Of the fusion. Its fields' meaning is in fuse/correlation_guided.py."""

    @property
    def attention(self) -> Tensor: ...
    @property
    def heard(self) -> Tensor: ...
    @property
    def dummies(self) -> Tensor: ...
    @property
    def prompts(self) -> Tensor: ...
    @property
    def clip_mask(self) -> Tensor: ...
    @property
    def word_mask(self) -> Tensor: ...


class Alignment(Protocol):
    """Of the fusion, from the true moments."""

    @property
    def moment(self) -> Tensor: ...
    @property
    def elsewhere(self) -> Tensor: ...
    @property
    def sentence(self) -> Tensor: ...
    @property
    def dummy_sentence(self) -> Tensor: ...
    @property
    def clips(self) -> Tensor: ...
    @property
    def similarity(self) -> Tensor: ...


def attention_loss(
    heard: Tensor,
    target: Tensor,
    mask: Tensor,
    negative_heard: Tensor | None = None,
    other_video: Tensor | None = None,
    clip_mask: Tensor | None = None,
    pairs: Pairs | None = None,
) -> Tensor:
    """heard, target [B, T] in [0, 1]; mask bool [B, T]: clips that have a target.

    negative_heard [B, T]: the share with another sentence; other_video bool [B]: whether that is another video's (None:
    they all are); clip_mask bool [B, T]: the clips of it (None: mask). pairs: else they are sampled.
    """
    relevant = (target > 0).float()
    logits = torch.logit(heard.float().masked_fill(~mask, 0.5), SMALLEST)
    entropy = F.binary_cross_entropy_with_logits(logits, relevant, reduction="none")
    loss = margin_loss(heard, target, mask, pairs) + _mean(entropy, mask)
    if negative_heard is None:
        return loss + rank_loss(heard, target, mask)
    padding, lowest = ~(mask if clip_mask is None else clip_mask), torch.finfo(torch.float32).min
    other = torch.ones_like(mask[:, 0]) if other_video is None else other_video
    others, same = other.sum().clamp(min=1), (~other).sum().clamp(min=1)
    # A mean over the videos with another's sentence and one over the rest, each of its own count: as the original.
    negative = negative_heard.float().masked_fill(padding, 0.5)
    negative_logits = torch.logit(negative, SMALLEST).masked_fill(padding, lowest)
    return (
        loss
        + rank_loss(heard, target, mask & other[:, None], negative.masked_fill(padding, lowest), other, others)
        + rank_loss(heard, target, mask & ~other[:, None], count=same)
        + negative_loss(negative_logits, other, others)
    )


def alignment_loss(
    moment: Tensor,
    elsewhere: Tensor,
    sentence: Tensor,
    dummy_sentence: Tensor,
    clips: Tensor,
    relevant: Tensor,
    mask: Tensor,
) -> Tensor:
    """Tokens [B, D]; clips [B, T, D]; relevant, mask bool [B, T]: clips of the moment, and those of which it is known.

    A sequence without a clip of the moment has no moment token to be aligned: it is only compared with.
    """
    known = (relevant & mask).any(1)  # [B]
    tokens = F.normalize(torch.stack([moment, elsewhere]).float(), dim=-1)  # [2, B, D]

    def entropy(of: Tensor, column: Tensor) -> Tensor:
        """Of the right column, where row b has <moment b, of c> for all c, then <elsewhere b, of c>."""
        cosine = torch.cat((tokens @ F.normalize(of.float(), dim=-1).mT).unbind(), 1)  # [B, 2B]
        return _mean(F.cross_entropy(cosine, column, reduction="none"), known)

    row = torch.arange(len(moment), device=moment.device)
    # Any pair but a moment with its own dummies would be right. The original asks for the first of them, always.
    first_other = (row == 0).long()
    clips = clips.float().masked_fill(~mask[..., None], 0)
    belongs = (clips @ moment.float()[..., None]).squeeze(-1)  # [B, T]
    each = F.binary_cross_entropy_with_logits(belongs, (relevant & mask).float(), reduction="none")
    return entropy(sentence, row) + entropy(dummy_sentence, first_other) + _mean(each, mask)


def distillation_loss(attention: Tensor, similarity: Tensor, token_mask: Tensor, relevant: Tensor) -> Tensor:
    """attention, similarity [B, T, N + L]; token_mask bool [B, N + L], a True in every row; relevant bool [B, T]."""
    seen, left_out = token_mask[:, None], ~relevant[..., None]  # [B, 1, N + L], [B, T, 1]
    goal = similarity.detach().float().masked_fill(left_out, 0).masked_fill(~seen, float("-inf")).softmax(-1)
    said = (attention.float().masked_fill(left_out, 1) + SMALLEST).log()
    each = F.kl_div(said, goal, reduction="none").sum(-1) / seen.sum(-1)  # [B, T]
    return _mean(each, relevant)


def orthogonality_loss(dummies: Tensor, prompts: Tensor) -> Tensor:
    """dummies [B, N, D], prompts [P, D]. The mean counts a vector's own cosine as 0, as the original."""

    def likeness(vectors: Tensor) -> Tensor:
        unit = F.normalize(vectors.float(), dim=-1)
        own = torch.eye(vectors.shape[-2], dtype=torch.bool, device=vectors.device)
        return (unit @ unit.detach().mT).masked_fill(own, 0).abs().mean()

    return likeness(dummies) + likeness(prompts)


def alignment_terms(
    guidance: Guidance,
    alignment: Alignment,
    target: Tensor,
    mask: Tensor,
    negative: Guidance | None = None,
    other_video: Tensor | None = None,
    pairs: Pairs | None = None,
) -> dict[str, Tensor]:
    """{'attention', 'alignment', 'distillation', 'orthogonality'}, each a scalar, without its weight.

    guidance: of the fusion; alignment: what its `align` made of guidance and of moment_mask = mask & (target > 0).
    target [B, T] in [0, 1], the saliency; mask bool [B, T]: clips that have one. negative: the guidance with the next
    sequence's sentence; other_video bool [B]: whether that is about another video. pairs as in `margin_loss`.
    """
    relevant = mask & (target > 0)
    dummies = torch.ones_like(guidance.dummies[..., 0], dtype=torch.bool)
    token_mask = torch.cat([dummies, guidance.word_mask], 1)
    other_heard = None if negative is None else negative.heard
    a = alignment
    with torch.autocast(mask.device.type, enabled=False):  # products of tokens are summed up in single precision
        return {
            "attention": attention_loss(
                guidance.heard, target, mask, other_heard, other_video, guidance.clip_mask, pairs
            ),
            "alignment": alignment_loss(a.moment, a.elsewhere, a.sentence, a.dummy_sentence, a.clips, relevant, mask),
            "distillation": distillation_loss(guidance.attention, a.similarity, token_mask, relevant),
            "orthogonality": orthogonality_loss(guidance.dummies, guidance.prompts),
        }


def _mean(each: Tensor, mask: Tensor) -> Tensor:
    """Over what the mask says; 0 of nothing."""
    return each.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)
