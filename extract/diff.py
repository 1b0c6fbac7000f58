"""How two feature stores differ: in what made them, in what they hold, and in the features row by row.

Answers 'my features are not the published ones': which setting differs, for which items, and by how much. Values are
compared as cosine per row (the direction, which is what a linear layer reads first) and as the largest difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .layout import SPEC_FILE, Kind, StoreSpec
from .reader import FeatureStore, list_stores

OnItem = Callable[[int, int], None]


@dataclass(frozen=True)
class ItemDiff:
    """How the features of one item differ. Rows that only one store has are counted, not compared."""

    id: str
    rows: tuple[int, int]
    """In A and in B."""
    cosine_mean: float | None
    """Over the rows that both have; None where the widths differ."""
    cosine_min: float | None
    max_abs: float | None
    max_time_s: float | None
    """Largest difference of a start or end of a clip, or of the durations; None for text."""

    @property
    def same(self) -> bool:
        return self.rows[0] == self.rows[1] and not self.max_abs and self.max_abs is not None and not self.max_time_s


@dataclass(frozen=True)
class StoreDiff:
    """How store B differs from store A."""

    a: Path
    b: Path
    kind: Kind
    spec: dict[str, tuple[Any, Any]]
    """What differs in the specs, by 'field' or 'field.part': (in A, in B)."""
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    dims: tuple[int, int]
    items: tuple[ItemDiff, ...]
    """Every item that both have, in the order of A."""

    @property
    def same_values(self) -> bool:
        """The same items with equal features and times."""
        return not self.only_a and not self.only_b and all(item.same for item in self.items)

    @property
    def same(self) -> bool:
        """The same items, and made alike. Where weights came from does not count, only what they are."""
        return self.same_values and not (self.spec.keys() - {"weights.source"})

    def worst(self, count: int) -> list[ItemDiff]:
        """The items that differ, those with the lowest cosine first."""
        differing = [item for item in self.items if not item.same]
        return sorted(differing, key=lambda i: (-1.0 if i.cosine_min is None else i.cosine_min, -(i.max_abs or 0)))[
            :count
        ]

    def summary(self) -> dict[str, Any]:
        """The figures over all items that both stores have."""
        compared = [item for item in self.items if item.cosine_mean is not None]
        weights = [min(item.rows) for item in compared]
        worst = min(compared, key=lambda item: item.cosine_min or 0.0, default=None)
        return {
            "items": len(self.items),
            "identical": sum(item.same for item in self.items),
            "other_rows": sum(item.rows[0] != item.rows[1] for item in self.items),
            "cosine_mean": float(np.average([i.cosine_mean for i in compared], weights=weights)) if compared else None,
            "cosine_min": None if worst is None else worst.cosine_min,
            "cosine_min_item": None if worst is None else worst.id,
            "max_abs": max((item.max_abs or 0.0 for item in compared), default=None),
            "max_time_s": max((item.max_time_s for item in self.items if item.max_time_s is not None), default=None),
        }

    def to_json(self, worst: int = 10) -> dict[str, Any]:
        return {
            "kind": self.kind, "a": str(self.a), "b": str(self.b), "same": self.same, "same_values": self.same_values,
            "spec": {name: {"a": a, "b": b} for name, (a, b) in self.spec.items()},
            "only_a": list(self.only_a), "only_b": list(self.only_b), "dims": list(self.dims),
            **self.summary(), "worst": [asdict(item) for item in self.worst(worst)],
        }  # fmt: skip


def diff_stores(a: FeatureStore, b: FeatureStore, on_item: OnItem = lambda done, total: None) -> StoreDiff:
    """Compare every item that both have. Raises ValueError for a video store and a text store."""
    if a.spec.kind != b.spec.kind:
        raise ValueError(
            f"expected two stores of one kind, got {a.folder} of {a.spec.kind} and {b.folder} of {b.spec.kind}"
        )
    both = [id_ for id_ in a.ids if id_ in b]
    items = []
    for done, id_ in enumerate(both, 1):
        items.append(diff_items(a, b, id_))
        on_item(done, len(both))
    return StoreDiff(
        a.folder, b.folder, a.spec.kind, diff_specs(a.spec, b.spec),
        tuple(id_ for id_ in a.ids if id_ not in b), tuple(id_ for id_ in b.ids if id_ not in a),
        (a.spec.dim, b.spec.dim), tuple(items),
    )  # fmt: skip


def diff_specs(a: StoreSpec, b: StoreSpec) -> dict[str, tuple[Any, Any]]:
    """Every field, or part of one, that differs; None where one spec lacks it."""
    left, right = dict(_flat(asdict(a))), dict(_flat(asdict(b)))
    names = dict.fromkeys((*left, *right))
    return {n: (left.get(n), right.get(n)) for n in names if left.get(n) != right.get(n)}


def diff_items(a: FeatureStore, b: FeatureStore, id_: str) -> ItemDiff:
    """Compare one item that both stores have."""
    (x, times_x, duration_x), (y, times_y, duration_y) = a.features(id_), b.features(id_)
    given, rows = (len(x), len(y)), min(len(x), len(y))
    late = None
    if times_x is not None and times_y is not None and duration_x is not None and duration_y is not None:
        late = max(float(np.abs(times_x[:rows] - times_y[:rows]).max()), abs(duration_x - duration_y))
    if x.shape[1] != y.shape[1]:
        return ItemDiff(id_, given, None, None, None, late)
    if x.shape == y.shape and np.array_equal(x, y):
        return ItemDiff(id_, given, 1.0, 1.0, 0.0, late)
    x, y = x[:rows].astype(np.float32), y[:rows].astype(np.float32)
    cosine = cosine_per_row(x, y)
    return ItemDiff(id_, given, float(cosine.mean()), float(cosine.min()), float(np.abs(x - y).max()), late)


def cosine_per_row(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[rows] in [-1, 1]: 1 for two rows of zeros, 0 for one."""
    norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    scale = norms[0] * norms[1]
    cosine = np.einsum("ij,ij->i", x, y) / np.where(scale > 0, scale, 1)
    return np.where(scale > 0, np.clip(cosine, -1, 1), (norms[0] == norms[1]).astype(float))


class Pairs(NamedTuple):
    """What there is to compare at two places."""

    stores: list[tuple[FeatureStore, FeatureStore]]
    only: list[str]
    """Kinds that just one of two features folders has, in words."""


def pair_stores(a: Path, b: Path) -> Pairs:
    """The stores at two places, each a store or a folder with one store of a kind.

    Raises ValueError where a place has no store, several of a kind, or the two have no kind in common.
    """
    left, right = _stores_at(a), _stores_at(b)
    kinds = [kind for kind in left if kind in right]
    if not kinds:
        raise ValueError(f"expected stores of one kind, got {' and '.join(left)} in {a}, {' and '.join(right)} in {b}")
    for kind in kinds:
        for folder, stores in ((a, left[kind]), (b, right[kind])):
            if len(stores) > 1:
                names = ", ".join(str(path.relative_to(folder)) for path in stores)
                raise ValueError(f"{folder} has {len(stores)} {kind} stores ({names}); name one of them")
    one_store = any((place / SPEC_FILE).is_file() for place in (a, b))
    lone = [f"a {kind} store is only in {a if kind in left else b}" for kind in left.keys() ^ right.keys()]
    pairs = [(FeatureStore.open(left[kind][0]), FeatureStore.open(right[kind][0])) for kind in kinds]
    return Pairs(pairs, [] if one_store else lone)


def _stores_at(place: Path) -> dict[str, list[Path]]:
    """The folders of the stores at or below a place, by kind."""
    if (place / SPEC_FILE).is_file():
        return {FeatureStore.open(place).spec.kind: [place]}
    found: dict[str, list[Path]] = {}
    for store in list_stores(place):
        if store.problem is not None:
            raise ValueError(store.problem)
        found.setdefault(store.kind, []).append(store.folder)
    if not found:
        raise ValueError(f"expected a feature store at {place}, or a folder with one of a kind; there is none")
    return found


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
