"""Geometry of time spans: two forms, IoU and gIoU in one dimension, non-maximum suppression.

A span is the last dimension of a tensor, in one of two forms: (start, end) or (centre, width). IoU, gIoU
and NMS take (start, end) with start <= end, in any unit. All but NMS are differentiable and broadcast over
leading dimensions.

Dimensions: N, M spans.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6  # floor of every denominator: spans of zero width give 0, with a finite gradient, never NaN


def to_start_end(spans: Tensor) -> Tensor:
    """(centre, width) [..., 2] -> (start, end) [..., 2]; may leave [0, 1]."""
    centre, width = spans.unbind(-1)
    return torch.stack((centre - width / 2, centre + width / 2), -1)


def to_centre_width(windows: Tensor) -> Tensor:
    """(start, end) [..., 2] -> (centre, width) [..., 2]."""
    start, end = windows.unbind(-1)
    return torch.stack(((start + end) / 2, end - start), -1)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Length of the intersection and of the union, element by element: [..., 2] x [..., 2] -> [...] twice."""
    intersection = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - intersection
    return intersection, union


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, element by element: [..., 2] x [..., 2] -> [...] in [0, 1]."""
    intersection, union = _overlap(a, b)
    return intersection / union.clamp(min=EPSILON)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., 2019) in one dimension: [..., 2] x [..., 2] -> [...] in (-1, 1].

    IoU minus the share of the hull that neither span covers; so disjoint spans still feel how far apart
    they are.
    """
    intersection, union = _overlap(a, b)
    hull = torch.maximum(a[..., 1], b[..., 1]) - torch.minimum(a[..., 0], b[..., 0])
    return intersection / union.clamp(min=EPSILON) - (hull - union).clamp(min=0) / hull.clamp(min=EPSILON)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every span of `a` with every span of `b`: [..., N, 2] x [..., M, 2] -> [..., N, M]."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """gIoU of every span of `a` with every span of `b`: [..., N, 2] x [..., M, 2] -> [..., N, M]."""
    return giou(a[..., :, None, :], b[..., None, :, :])


def temporal_nms(windows: Tensor, confidence: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression of one query's windows.

    windows [N, 2] (start, end), confidence [N] -> indices of the kept windows, most confident first. A
    window goes when its IoU with a kept, more confident one is above `threshold`; of equals the one listed
    first counts as more confident. Raises ValueError unless 0 <= threshold <= 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected an NMS threshold from 0 to 1, got {threshold}")
    order = confidence.argsort(descending=True, stable=True)
    covers = (pairwise_iou(windows[order], windows[order]) > threshold).tolist()
    kept: list[int] = []
    for candidate in range(len(order)):
        if not any(covers[k][candidate] for k in kept):
            kept.append(candidate)
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]
