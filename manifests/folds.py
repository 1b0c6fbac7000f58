"""Folds for cross-validation: every source video is tested once, by models that never saw any of it.

What must stay together is a group: the segments that were cut from one source video, such as _ufoIeYZYjw_360.0_510.0
and _ufoIeYZYjw_510.0_660.0 of QVHighlights; in other datasets the video alone. Groups are dealt out largest first,
those of equal size in the order of the SHA-256 of 'seed:group', each to the fold with the fewest queries so far. So
folds depend on group names, their numbers of queries and the seed: not on the order of the input, nor the machine.

A file of folds is JSON: {"format": 1, "dataset": "qvhighlights", "seed": 0, "folds": [["group", ...], ...]}.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from .files import atomic_file
from .schema import Finding, Manifest

FORMAT = 1
VALIDATION_PART = 8
"""The queries of a fold's training part are dealt into so many parts, by group; one chooses epochs and settings."""
SEGMENT = re.compile(r"(.+)_\d+(?:\.\d+)?_\d+(?:\.\d+)?")
"""A video id of QVHighlights: the source video, and the seconds between which it was cut."""
NAMED = 3  # groups that a complaint lists


@dataclass(frozen=True)
class Folds:
    """Which groups are tested together."""

    dataset: str
    seed: int
    groups: tuple[tuple[str, ...], ...]
    """Of each fold."""

    def __post_init__(self) -> None:
        if len(self.groups) < 2 or not all(self.groups):
            raise ValueError(f"expected at least 2 folds, none empty, got {len(self.groups)}")
        twice = [group for group, count in Counter(chain(*self.groups)).items() if count > 1]
        if twice:
            raise ValueError(f"expected every group in one fold, got {_some(twice)} twice")

    def __len__(self) -> int:
        return len(self.groups)

    def check(self, manifest: Manifest) -> None:
        """Raises ValueError, naming what does not fit, unless the manifest's queries are about just these groups."""
        if manifest.dataset != self.dataset:
            raise ValueError(f"expected features of {self.dataset}, whose folds these are, got {manifest.dataset}")
        have, known = set(queries_of_groups(manifest)), set(chain(*self.groups))
        if unknown := sorted(have - known):
            raise ValueError(
                f"expected every source video of the features in some fold, got {len(unknown)} that are in none "
                f"({_some(unknown)}); give other folds, or let them be made anew"
            )
        if missing := sorted(known - have):
            raise ValueError(
                f"expected features and annotations of every source video of the folds, {len(missing)} of {len(known)} "
                f"have none ({_some(missing)}); make them with `rdmf features`, or let folds be made anew"
            )


def group_of(dataset: str, vid: str) -> str:
    """The source video of a video."""
    found = SEGMENT.fullmatch(vid) if dataset == "qvhighlights" else None
    return found[1] if found else vid


def queries_of_groups(manifest: Manifest) -> dict[str, int]:
    """How many queries each group has."""
    return Counter(group_of(manifest.dataset, query.vid) for query in manifest.queries)


def make_folds(manifest: Manifest, count: int, seed: int = 0) -> Folds:
    """Deal the groups of a manifest out into `count` folds. Raises ValueError where there are fewer groups."""
    sizes = queries_of_groups(manifest)
    if not 2 <= count <= len(sizes):
        raise ValueError(f"expected 2 to {len(sizes)} folds (as many as there are source videos), got {count}")
    return Folds(manifest.dataset, seed, dealt(sizes, count, str(seed)))


def dealt(sizes: Mapping[str, int], parts: int, seed: str) -> tuple[tuple[str, ...], ...]:
    """Groups in parts of like size, see above; each part sorted by name."""
    held: list[list[str]] = [[] for _ in range(parts)]
    total = [0] * parts
    for group in sorted(sizes, key=lambda group: (-sizes[group], _digest(f"{seed}:{group}"))):
        least = min(range(parts), key=lambda i: (total[i], len(held[i]), i))
        held[least].append(group)
        total[least] += sizes[group]
    return tuple(tuple(sorted(part)) for part in held)


def relabel(manifest: Manifest, folds: Folds, fold: int) -> Manifest:
    """The same queries, as train, val or test of one fold.

    test: the fold's own groups; val: one of VALIDATION_PART parts of the others, dealt out by the same rule; train:
    the rest. Splits that the queries had before are forgotten; the findings say so. Raises ValueError as `check` does.
    """
    folds.check(manifest)
    sizes, test = queries_of_groups(manifest), set(folds.groups[fold])
    others = {group: count for group, count in sizes.items() if group not in test}
    if len(others) < 2:
        raise ValueError(f"expected at least 2 source videos outside fold {fold} to train and validate on, got 1")
    parts = min(VALIDATION_PART, len(others))
    validation = set(dealt(others, parts, f"{folds.seed}:validation of fold {fold}")[0])

    def split(vid: str) -> str:
        group = group_of(manifest.dataset, vid)
        return "test" if group in test else "val" if group in validation else "train"

    queries = tuple(replace(query, split=split(query.vid)) for query in manifest.queries)
    sizes_after = Counter(query.split for query in queries)
    detail = ", ".join(f"{name} {sizes_after[name]}" for name in ("train", "val", "test"))
    said = Finding(", ".join(manifest.splits), "", "carved split", f"fold {fold} of {len(folds)}, queries: {detail}")
    return replace(manifest, queries=queries, findings=(*manifest.findings, said))


def write_folds(folds: Folds, path: Path) -> None:
    tree = {"format": FORMAT, "dataset": folds.dataset, "seed": folds.seed, "folds": folds.groups}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def read_folds(path: Path) -> Folds:
    """Raises ValueError saying what is wrong with the file."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file of folds {path}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON that can be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise ValueError(f"expected folds of format {FORMAT} in {path}, got something else")
    dataset, seed, groups = tree.get("dataset"), tree.get("seed"), tree.get("folds")
    if not isinstance(groups, list) or not all(isinstance(fold, list) for fold in groups):
        raise ValueError(f"{path}: expected folds as lists of source videos")
    if not isinstance(dataset, str) or type(seed) is not int:
        raise ValueError(f"{path}: expected a dataset and a whole seed")
    if strange := [group for group in chain(*groups) if not isinstance(group, str)]:
        raise ValueError(f"{path}: expected the names of source videos in folds, got {strange[0]!r}")
    try:
        return Folds(dataset, seed, tuple(map(tuple, groups)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _some(groups: Iterable[str]) -> str:
    names = list(groups)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
