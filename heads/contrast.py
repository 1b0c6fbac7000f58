"""Saliency by comparison, the losses of Moment-DETR, QD-DETR and CG-DETR: which clip belongs above which.

    margin      max(0, 0.2 + s_lower - s_higher), over pairs of clips; twice the mean
    rank        for every grade r = 1 .. 11, - mean of log softmax(s / 0.5) over clips graded r or better; the sum / 12.
                The softmax goes over the clips of the video, and over the same clips with another video's sentence.
    negative    - sum over clips of log(1 - sigmoid(s)), where s is for another video's sentence

The pairs of a video are a hard one, the best and the worst clip of its moments, and an easy one, a random clip inside
and a random one outside (where nothing is outside: the hard one again). Of equals the best is the last and the worst
the first, as numpy's sort has it for the originals. -log(1 - sigmoid(s)) is softplus(s), which does not overflow.

A grade is the sum of three annotators' scores from 0 to 4, so a saliency target of 1 is 12. Inside is what has a target
above 0: on QVHighlights a clip of a moment that all three found worthless (1 in 1000) counts as outside, here alone.

All are means over sequences, and those that have no pair, no grade or no other sentence give 0. Nothing waits for the
host.

Dimensions: B sequences, T clips, P pairs, R grades.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 0.2
TEMPERATURE = 0.5
GRADES = 12
FAR = -1e3  # a score that takes no part in a softmax; all are finite, so all gradients are


class Pairs(NamedTuple):
    """Clips that belong above others, as indices."""

    higher: Tensor
    """int64 [B, P]"""
    lower: Tensor
    """int64 [B, P]"""


def sample_pairs(target: Tensor, mask: Tensor) -> Pairs:
    """The hard and the easy pair of targets [B, T] in [0, 1]; mask bool [B, T]: clips that have one.

    The random clips come from torch's own generator of the device. Without a clip inside the indices mean nothing.
    """
    inside, outside = mask & (target > 0), mask & (target <= 0)
    best = target.shape[1] - 1 - target.masked_fill(~inside, -1).flip(1).argmax(1)
    worst = target.masked_fill(~inside, 2).argmin(1)
    draw_in, draw_out = torch.rand((2, *target.shape), device=target.device).unbind()
    has_outside = outside.any(1)
    within = draw_in.masked_fill(~inside, -1).argmax(1)
    without = draw_out.masked_fill(~outside, -1).argmax(1)
    return Pairs(
        torch.stack([best, torch.where(has_outside, within, best)], 1),
        torch.stack([worst, torch.where(has_outside, without, worst)], 1),
    )


def margin_loss(
    logits: Tensor, target: Tensor, mask: Tensor, pairs: Pairs | None = None, count: Tensor | int | None = None
) -> Tensor:
    """The hinge. logits, target [B, T]; mask bool [B, T]: clips that have a target.

    pairs: else they are sampled. count: how many sequences the mean is over, where these are not all.
    """
    higher, lower = sample_pairs(target, mask) if pairs is None else pairs
    scores = logits.float().masked_fill(~mask, 0)
    each = (MARGIN + scores.gather(1, lower) - scores.gather(1, higher)).clamp(min=0)  # [B, P]
    has_pair = (mask & (target > 0)).any(1, keepdim=True)
    return 2 * _mean(each.masked_fill(~has_pair, 0).mean(1), count)


def rank_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor,
    negative_logits: Tensor | None = None,
    other_video: Tensor | None = None,
    count: Tensor | int | None = None,
) -> Tensor:
    """Rank-aware contrast. logits, target [B, T]; mask bool [B, T]: clips that have a target.

    negative_logits [B, T]: the saliency with another sentence, the lowest finite number at padding, as heads have it;
    other_video bool [B]: whether that is another video's (None: they all are). count as in `margin_loss`.
    """
    scores = logits.float().masked_fill(~mask, FAR)
    if negative_logits is not None:
        negative = negative_logits.float().clamp(min=FAR)
        if other_video is not None:
            negative = negative.masked_fill(~other_video[:, None], FAR)
        scores = torch.cat([scores, negative], 1)  # [B, 2 T]
    log_share = (scores / TEMPERATURE).log_softmax(1)[:, : mask.shape[1]]  # [B, T]
    grade = torch.arange(1, GRADES, device=target.device)[:, None]  # [R, 1]
    good = (GRADES * target.float()[:, None] > grade - 1e-3) & mask[:, None]  # [B, R, T]; 7 / 12 * 12 may be below 7
    mean = log_share[:, None].masked_fill(~good, 0).sum(-1) / good.sum(-1).clamp(min=1)  # [B, R]
    return _mean(-mean.sum(1) / GRADES, count)


def negative_loss(
    negative_logits: Tensor, other_video: Tensor | None = None, count: Tensor | int | None = None
) -> Tensor:
    """Nothing answers another video's sentence. negative_logits, other_video and count as in `rank_loss`."""
    each = F.softplus(negative_logits.float()).sum(1)  # [B], 0 from padding
    return _mean(each if other_video is None else each.masked_fill(~other_video, 0), count)


def _mean(each: Tensor, count: Tensor | int | None) -> Tensor:
    return each.sum() / (len(each) if count is None else count)
