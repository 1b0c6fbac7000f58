"""Where saliency is high: spans to look at first, read off the saliency of the clips.

A video's saliency is averaged over three clips and stretched to [0, 1]. At each of LEVELS, every run of clips above it
is a proposal, once if it is the same at several; those with the most sqrt(clips) * mean saliency are taken. No gradient
passes, and no step waits for the host: all shapes depend on the shape of the input.

Dimensions: B sequences, T clips, K levels, C runs of clips at a level (and one entry for all clips below it).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7)


class Proposals(NamedTuple):
    """Spans, best first."""

    spans: Tensor
    """[B, P, 2] (centre, width) in [0, 1]; the whole sequence where there are no more."""
    found: Tensor
    """bool [B, P]: False where there are no more."""


@torch.no_grad()
def propose(saliency: Tensor, mask: Tensor, count: int) -> Proposals:
    """The best `count` spans of each sequence.

    saliency [B, T], logits or scores; mask bool [B, T], True = valid, a prefix of its row.
    """
    height = stretched(smooth(saliency.float(), mask), mask)  # [B, T]
    above = height[:, None] >= height.new_tensor(LEVELS)[:, None]  # [B, K, T]
    begins = above & ~F.pad(above, (1, 0))[..., :-1]
    run = begins.cumsum(-1) * above  # which run a clip belongs to, 0: none
    none = height.new_zeros(*above.shape[:2], above.shape[-1] // 2 + 2)  # [B, K, C]: no more fit beside each other

    def total(of_clip: Tensor) -> Tensor:
        return none.scatter_add(2, run, (of_clip * above).expand(above.shape))

    clips = total(torch.ones_like(height)[:, None])
    # Runs lie inside those of the level below, so one that is as long there is the same.
    length = clips.gather(2, run)  # [B, K, T], of a clip's run
    again = above & (length == F.pad(length, (0, 0, 1, 0))[:, :-1])
    weight = total(height[:, None]) / clips.clamp(min=1).sqrt() * (total(again.float()) == 0)  # mean * sqrt(clips)
    middle = total(torch.arange(above.shape[-1], device=height.device) + 0.5) / clips.clamp(min=1)
    clips, weight, middle = (each[..., 1:].flatten(1) for each in (clips, weight, middle))  # [B, K * (C - 1)]
    weight, order = F.pad(weight, (0, max(0, count - weight.shape[1]))).topk(count, 1)
    order = order.clamp(max=clips.shape[1] - 1)
    whole = mask.sum(1, keepdim=True).clamp(min=1)
    spans = torch.stack((middle.gather(1, order), clips.gather(1, order)), -1) / whole[..., None]
    found = weight > 0
    return Proposals(torch.where(found[..., None], spans, spans.new_tensor((0.5, 1.0))), found)


def smooth(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of each clip and its neighbours, [B, T]."""
    x, there = x.masked_fill(~mask, 0), mask.to(x.dtype)
    three = torch.ones(1, 1, 3, dtype=x.dtype, device=x.device)
    return F.conv1d(x[:, None], three, padding=1)[:, 0] / F.conv1d(there[:, None], three, padding=1)[:, 0].clamp(min=1)


def stretched(x: Tensor, mask: Tensor) -> Tensor:
    """x [B, T] between 0 and 1 over each sequence's valid clips; -1 at padding, and everywhere where x is flat."""
    low = x.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    span = x.masked_fill(~mask, -torch.inf).amax(1, keepdim=True) - low
    return torch.where(mask & (span > 0), (x - low) / span.clamp(min=1e-12), -1)
