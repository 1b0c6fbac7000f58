"""Foreign feature files as one store: a recipe says how files become items, and with the files it is an extraction.

An item is read from one file of each stream: each stream L2-normalised per row, then concatenated, as Moment-DETR and
its kin do when they train. The position of a clip (their 'tef') is no feature; times are in the store.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from .alignment import Fit, Grid, fit_rows
from .extractors import one_by_one
from .foreign import EPSILON, FeatureFileError, FileFeatures, Stream, find_files, l2_normalised, read_features
from .layout import Extractor, Item, Kind, Source, StoreSpec, file_sha256

Normalise = Literal["streams", "whole", "none"]
NORMALISE: dict[Normalise, str] = {
    "streams": "L2 of each stream",
    "whole": "L2 of the whole",
    "none": "none",
}
Combine = Literal["concatenate", "sum"]
IMPORTED = "imported from"  # how the source of such weights begins
OnFile = Callable[[int, int], None]


@dataclass(frozen=True)
class Recipe:
    """How the files of an item become its features."""

    kind: Kind
    streams: tuple[Stream, ...]
    """In the order in which they are put together."""
    grid: Grid | None
    """None for text."""
    normalise: Normalise = "streams"
    combine: Combine = "concatenate"
    row_tolerance: int = 1
    """Rows that streams may differ by, and that the shortest may be off what the duration says."""
    name: str | None = None
    """Of the encoder; None: the streams' names, 'slowfast+clip'."""

    def __post_init__(self) -> None:
        if not self.streams or (self.kind == "text" and len(self.streams) > 1):
            raise ValueError(f"expected folders of features (one for text), got {len(self.streams)}")
        if (self.grid is None) != (self.kind == "text"):
            raise ValueError("expected the clip length of video features, and none for text; give --clip-seconds")
        if self.normalise not in NORMALISE or self.combine not in get_args(Combine):
            raise ValueError(
                f"expected normalise out of {', '.join(NORMALISE)} and combine out of {', '.join(get_args(Combine))}, "
                f"got {self.normalise!r} and {self.combine!r}"
            )
        if self.row_tolerance < 0:
            raise ValueError(f"expected a row tolerance >= 0, got {self.row_tolerance}")

    @property
    def encoder(self) -> str:
        return self.name or "+".join(stream.name for stream in self.streams)

    def put_together(self, parts: list[np.ndarray]) -> np.ndarray:
        """float32 [rows, dim] of streams that have been cut to as many rows."""
        if self.normalise == "streams":
            parts = [l2_normalised(part) for part in parts]
        values = np.concatenate(parts, axis=1) if self.combine == "concatenate" else np.sum(parts, axis=0)
        return l2_normalised(values) if self.normalise == "whole" else values


@dataclass(frozen=True)
class Located:
    """Which files there are for the items of a dataset."""

    files: dict[str, tuple[Path, ...]]
    """One per stream."""
    missing: dict[str, str]
    """Items that a stream has no file for, and which."""
    unused: tuple[int, ...]
    """Feature files per stream that are no item's."""


def locate_files(recipe: Recipe, ids: Iterable[str]) -> Located:
    """Find every item's files. Raises ValueError where a stream has none for any."""
    ids = list(dict.fromkeys(ids))
    found, unused = [], []
    for stream in recipe.streams:
        files, others = find_files(stream, recipe.kind, ids)
        if not files:
            before, after = stream.pattern or ("" if recipe.kind == "video" else "qid", ".npz")
            there = f"it has {others[0]}" if others else "it has no feature files"
            raise ValueError(
                f"{stream.folder} has a file for none of the {len(ids)} "
                f"{'videos' if recipe.kind == 'video' else 'sentences'} of the annotations; expected names such as "
                f"{before}{ids[0] if ids else '<id>'}{after}, {there}"
            )
        found.append(files)
        unused.append(len(others))
    lacking = {
        id_: next(stream.folder for stream, files in zip(recipe.streams, found, strict=True) if id_ not in files)
        for id_ in ids
        if not all(id_ in files for files in found)
    }
    return Located(
        {id_: tuple(files[id_] for files in found) for id_ in ids if id_ not in lacking},
        {id_: f"no feature file of this name in {folder.name}" for id_, folder in lacking.items()},
        tuple(unused),
    )


@dataclass(frozen=True)
class FeatureImport:
    """An extraction (picklable, called once per worker) that reads what another tool extracted."""

    recipe: Recipe
    files: Mapping[str, tuple[Path, ...]]
    durations_s: Mapping[str, float]
    """Of the videos whose length the annotations know."""
    sha256: Mapping[str, str]
    """Of each item's files."""
    dims: tuple[int, ...]
    """Width of each stream: what most of its files have."""
    fits: Mapping[str, Fit] = field(default_factory=dict)
    """What becomes of the rows of each item that can be read."""

    def spec(self) -> StoreSpec:
        """The spec of the store. Nobody knows the weights; what stands for them is the hash of the features."""
        recipe, names = self.recipe, [stream.name for stream in self.recipe.streams]
        preprocessing: dict[str, Any] = {
            "streams": [
                {"name": stream.name, "dim": dim} | ({"key": stream.key} if stream.key else {})
                for stream, dim in zip(recipe.streams, self.dims, strict=True)
            ],
            "normalisation": NORMALISE[recipe.normalise],
        }
        if recipe.normalise != "none":
            preprocessing["epsilon"] = EPSILON
        if recipe.grid is not None:
            known = {vid: s for vid, s in sorted(self.durations_s.items()) if vid in self.files}
            preprocessing |= {
                "combine": recipe.combine,
                "stride_seconds": recipe.grid.stride_seconds,
                "rows": "cut to the shortest stream and to the end of the video",
                "durations_sha256": hashlib.sha256(json.dumps(known).encode()).hexdigest(),
            }
        digest = hashlib.sha256(json.dumps(sorted(self.sha256.items())).encode())
        return StoreSpec(
            recipe.kind,
            recipe.encoder,
            {"source": f"{IMPORTED} {' + '.join(names)}", "sha256": digest.hexdigest(), "random": False},
            preprocessing,
            None if recipe.grid is None else recipe.grid.clip_seconds,
            sum(self.dims) if recipe.combine == "concatenate" else self.dims[0],
        )

    def sources(self) -> list[Source]:
        return [Source(id_, str(paths[0])) for id_, paths in self.files.items()]

    def __call__(self) -> Extractor:
        return one_by_one(self.item)

    def item(self, source: Source) -> Item:
        """Raises ValueError for files that cannot be used, or that do not fit each other or the video."""
        recipe = self.recipe
        parts = read_parts(recipe, self.files[source.id])
        for part, path, dim in zip(parts, self.files[source.id], self.dims, strict=True):
            if part.values.shape[1] != dim:
                raise FeatureFileError(
                    f"expected features of width {dim} in {path.parent.name}/{path.name}, as in most files there, "
                    f"got {part.values.shape[1]}"
                )
        if recipe.grid is None:
            values = recipe.put_together([part.values for part in parts])
            return Item(source.id, values, None, None, self.sha256[source.id])
        fit = _fit(recipe, parts, self.durations_s.get(source.id))
        values = recipe.put_together([part.values[: fit.kept] for part in parts])
        dated = next((part for part in parts if part.times_s is not None), None)
        duration_s = self.durations_s.get(source.id)
        if dated is not None and dated.times_s is not None:
            times = recipe.grid.check_times(dated.times_s, fit.kept)
            duration_s = dated.duration_s or duration_s
        else:
            times = recipe.grid.times(fit.kept, duration_s)
        return Item(source.id, values, times, duration_s or float(times[-1, 1]), self.sha256[source.id])


def read_parts(recipe: Recipe, paths: tuple[Path, ...]) -> list[FileFeatures]:
    """What the files of an item hold, stream by stream."""
    return [read_features(p, recipe.kind, stream.key) for p, stream in zip(paths, recipe.streams, strict=True)]


def survey(
    recipe: Recipe, located: Located, durations_s: Mapping[str, float], on_file: OnFile = lambda done, total: None
) -> FeatureImport:
    """Read every file once, to know what the features are before anything is written.

    What cannot be used is left to become failures. Raises ValueError where that is everything.
    """
    sha256: dict[str, str] = {}
    widths: list[Counter[int]] = [Counter() for _ in recipe.streams]
    fits: dict[str, Fit] = {}
    usable, problem = 0, "there is none"
    for done, (id_, paths) in enumerate(located.files.items(), 1):
        sha256[id_] = _sha256_of(paths)
        try:
            parts = read_parts(recipe, paths)
            if recipe.grid is not None:
                fits[id_] = _fit(recipe, parts, durations_s.get(id_))
            for counter, part in zip(widths, parts, strict=True):
                counter[part.values.shape[1]] += 1
            usable += 1
        except ValueError as error:
            problem = str(error)
        on_file(done, len(located.files))
    if not usable:
        raise ValueError(f"not one of the {len(located.files)} items can be imported; of the last: {problem}")
    dims = tuple(counter.most_common(1)[0][0] for counter in widths)
    if recipe.combine == "sum" and len(set(dims)) > 1:
        raise ValueError(f"expected streams of one width to be summed, got {' and '.join(map(str, dims))}")
    return FeatureImport(recipe, located.files, durations_s, sha256, dims, fits)


def _fit(recipe: Recipe, parts: list[FileFeatures], duration_s: float | None) -> Fit:
    """Where a file dates its rows itself there are as many as it says, whatever the annotations call the length."""
    assert recipe.grid is not None
    rows = [len(part.values) for part in parts]
    if any(part.times_s is not None for part in parts):
        fit = fit_rows(rows, None, recipe.grid, recipe.row_tolerance)
        return replace(fit, expected=(fit.kept, fit.kept))
    return fit_rows(rows, duration_s, recipe.grid, recipe.row_tolerance)


def _sha256_of(paths: tuple[Path, ...]) -> str:
    """Of one file, or of the hashes of several; of nothing where they cannot be opened, which reading will report."""
    try:
        digests = [file_sha256(path) for path in paths]
    except OSError:
        return hashlib.sha256().hexdigest()
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
