"""Annotations of videos in one normalised form: `dataset(name).read(folder)` gives a Manifest.

`schema` is the form, one module for each dataset's own files reads them, `jsonl` reads the form that most
tools share and your own data (`records` checks its values, `labels` says what scores mean). `files` stores a manifest,
`sealed` its checksum, `split` carves a validation split, `folds` makes others, `summary` counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .activitynet import read_activitynet
from .charades import read_charades
from .jsonl import read_jsonl
from .labels import ZERO_TO_ONE, Labels
from .qvhighlights import read_qvhighlights
from .schema import Manifest, check_id

PROTOCOLS = ("qvhighlights", "charades", "activitynet", "highlights")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that rdmf knows how to read and evaluate."""

    name: str
    clip_seconds: float
    """The length of a clip that features are extracted for."""
    protocol: str
    """How predictions are evaluated, one of PROTOCOLS."""
    read: Callable[[Path], Manifest]
    """The reader: a folder of annotations, or one .jsonl file, to a manifest of all splits found there."""


def _jsonl(name: str, clip_seconds: float, protocol: str, labels: Labels = ZERO_TO_ONE) -> Dataset:
    read = partial(read_jsonl, dataset=name, clip_seconds=clip_seconds, labels=labels)
    return Dataset(name, clip_seconds, protocol, read)


DATASETS: dict[str, Dataset] = {
    known.name: known
    for known in (
        Dataset("qvhighlights", 2.0, "qvhighlights", read_qvhighlights),
        Dataset("charades", 1.0, "charades", read_charades),
        Dataset("activitynet", 2.0, "activitynet", read_activitynet),
        _jsonl("tacos", 2.0, "charades"),
        _jsonl("tvsum", 2.0, "highlights", Labels(low=1, high=5, clip_seconds=2.0)),
        _jsonl("youtube_highlights", 2.0, "highlights", ZERO_TO_ONE),
        _jsonl("demo", 1.0, "qvhighlights"),
    )
}


def dataset(name: str, clip_seconds: float | None = None) -> Dataset:
    """The dataset of that name, or, under any other name, your own data in the common form with clips of 2 s.

    `clip_seconds` sets another length of clip for the features; the grid of the annotations stays what it is.
    Raises ValueError for a name that is no folder name, or a clip length that is no length.
    """
    check_id(name, "dataset name")
    if any(c in name for c in "/\\") or name in (".", ".."):
        raise ValueError(f"expected a dataset name without slashes, got {name!r}")
    found = DATASETS.get(name) or _jsonl(name, 2.0, "qvhighlights")
    if clip_seconds is None:
        return found
    if not 0 < clip_seconds < float("inf"):
        raise ValueError(f"expected clip_seconds above 0, got {clip_seconds}")
    return replace(found, clip_seconds=clip_seconds, read=partial(_read_with, found.read, clip_seconds))


def _read_with(read: Callable[[Path], Manifest], clip_seconds: float, path: Path) -> Manifest:
    return replace(read(path), clip_seconds=clip_seconds)
