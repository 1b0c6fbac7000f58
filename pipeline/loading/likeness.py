"""How like its sentence a clip is before anything is learned: cosines of the encoders' own features.

They mean something where both encoders have one space (CLIP's two; captions and sentences by one BERT). Two encoders
may have one width and nothing else in common, so `told_apart` measures it on the annotations.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .dataset import Example, FeatureSet, MomentDataset


def as_wide(features: FeatureSet) -> slice | None:
    """The columns of the first video store whose features are as wide as the sentence's."""
    first = 0
    for store in features.video:
        if store.spec.dim == features.text.spec.dim:
            return slice(first, first + store.spec.dim)
        first += store.spec.dim
    return None


def likeness(example: Example, columns: slice) -> Tensor:
    """The cosine of each clip's features in these columns and the mean of the words', [T]."""
    return functional.cosine_similarity(example.clips.values[:, columns], example.words.mean(0, keepdim=True), dim=-1)


def told_apart(dataset: MomentDataset, columns: slice, queries: int = 256) -> float:
    """How often a clip that its query is about is more like the sentence than one that it is not about.

    The area under the ROC curve of `likeness`, the mean over at most so many queries evenly from the dataset: 0.5 is
    chance. NaN where no query has clips of both kinds.
    """
    rows = torch.linspace(0, len(dataset) - 1, min(queries, len(dataset))).long().tolist()
    areas = []
    for example in map(dataset.__getitem__, rows):
        scores, about = likeness(example, columns), example.saliency > 0
        if example.labelled and about.any() and not about.all():
            more = scores[about][:, None] - scores[~about]
            areas.append(((more > 0).float() + 0.5 * (more == 0)).mean())
    return float(torch.stack(areas).mean()) if areas else float("nan")
