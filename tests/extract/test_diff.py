"""How two stores differ: closed forms of cosines and differences, and what counts as the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rdmf.extract.diff import cosine_per_row, diff_stores, pair_stores
from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Item, Source, StoreSpec
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import extract_store

WIDTH = 8
SPEC = StoreSpec(
    "video", "made", {"source": "here", "sha256": "1" * 64, "random": False}, {"frames": 32, "size": 224}, 2.0, WIDTH
)


def features(count: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float16)


def write(folder: Path, items: Mapping[str, np.ndarray], spec: StoreSpec = SPEC, late_s: float = 0.0) -> FeatureStore:
    def item(source: Source) -> Item:
        values = items[source.id]
        if spec.kind == "text":
            return Item(source.id, values, None, None, "0" * 64)
        edges = np.arange(len(values) + 1) * 2.0 + late_s
        return Item(source.id, values, np.stack([edges[:-1], edges[1:]], 1), edges[-1], "0" * 64)

    folder = folder / spec.kind / spec.folder_name
    extract_store(folder, spec, [Source(id_, id_) for id_ in items], lambda: one_by_one(item))
    return FeatureStore.open(folder)


def test_the_same_store_is_the_same_however_it_was_written(tmp_path):
    items = {"x": features(3, 1), "y": features(5, 2)}
    a = write(tmp_path / "a", items)
    moved = replace(SPEC, weights=SPEC.weights | {"source": "there"})
    b = write(tmp_path / "b", dict(reversed(items.items())), moved)
    diff = diff_stores(a, b)
    assert diff.same
    assert diff.spec == {"weights.source": ("here", "there")}
    assert diff.worst(10) == []
    assert diff.summary()["identical"] == 2
    assert diff.summary()["cosine_min"] == 1.0


def test_a_difference_of_settings_is_named_field_by_field(tmp_path):
    other = replace(SPEC, encoder="made2", preprocessing={"frames": 16, "crop": "centre"}, clip_seconds=1.0)
    diff = diff_stores(write(tmp_path / "a", {"x": features()}), write(tmp_path / "b", {"x": features()}, other))
    assert diff.spec == {
        "encoder": ("made", "made2"), "preprocessing.frames": (32, 16), "preprocessing.size": (224, None),
        "preprocessing.crop": (None, "centre"), "clip_seconds": (2.0, 1.0),
    }  # fmt: skip
    assert diff.same_values
    assert not diff.same


def test_items_and_rows_that_only_one_has_are_counted(tmp_path):
    a = write(tmp_path / "a", {"x": features(4), "y": features(3), "only a": features(1)})
    b = write(tmp_path / "b", {"y": features(3), "x": features(4)[:3], "only b": features(1)})
    diff = diff_stores(a, b)
    assert (diff.only_a, diff.only_b) == (("only a",), ("only b",))
    assert [item.id for item in diff.worst(10)] == ["x"]
    (worst,) = diff.worst(1)
    assert worst.rows == (4, 3)
    assert worst.cosine_min == pytest.approx(1)
    assert worst.max_abs == 0
    assert diff.summary()["other_rows"] == 1
    assert not diff.same_values


def test_cosine_and_largest_difference_are_what_they_are_by_hand(tmp_path):
    x = np.zeros((3, WIDTH), np.float16)
    x[:, 0] = 1
    y = x.copy()
    y[1, 1] = 1  # at 45 degrees to x
    y[2, 0] = 2  # the same direction, twice as long
    a, b = write(tmp_path / "a", {"v": x, "w": features()}), write(tmp_path / "b", {"v": y, "w": features()})
    (worst,) = diff_stores(a, b).worst(5)
    assert worst.id == "v"
    assert worst.cosine_min == pytest.approx(np.sqrt(0.5))
    assert worst.cosine_mean == pytest.approx((2 + np.sqrt(0.5)) / 3)
    assert worst.max_abs == 1
    summary = diff_stores(a, b).summary()
    assert summary["cosine_min_item"] == "v"
    assert summary["cosine_mean"] == pytest.approx((6 + np.sqrt(0.5)) / 7)  # over all 7 rows


def test_rows_of_zeros_are_like_each_other_and_unlike_all_else():
    x = np.array([[0.0, 0], [0, 0], [1, 0]])
    y = np.array([[0.0, 0], [3, 4], [-2, 0]])
    np.testing.assert_allclose(cosine_per_row(x, y), [1, 0, -1])


def test_worst_items_come_first_and_no_more_than_asked_for(tmp_path):
    base = {f"v{i}": features(4, i) for i in range(6)}
    noise = {id_: (v + i * features(4, 50 + i) / 4).astype(np.float16) for i, (id_, v) in enumerate(base.items())}
    diff = diff_stores(write(tmp_path / "a", base), write(tmp_path / "b", noise))
    worst = diff.worst(3)
    assert len(worst) == 3
    assert [item.cosine_min for item in worst] == sorted(item.cosine_min for item in diff.items)[:3]
    assert "v0" not in [item.id for item in diff.worst(10)]


def test_other_widths_are_said_and_rows_still_counted(tmp_path):
    wide = replace(SPEC, dim=WIDTH * 2)
    a = write(tmp_path / "a", {"x": features(4)})
    b = write(tmp_path / "b", {"x": np.hstack([features(4)] * 2)[:3]}, wide)
    diff = diff_stores(a, b)
    assert diff.dims == (WIDTH, WIDTH * 2)
    assert diff.items[0].cosine_min is None
    assert diff.items[0].rows == (4, 3)
    assert not diff.same_values
    assert diff.summary()["cosine_mean"] is None
    json.dumps(diff.to_json(), allow_nan=False)


def test_clips_at_other_times_differ_though_their_features_do_not(tmp_path):
    diff = diff_stores(write(tmp_path / "a", {"x": features()}), write(tmp_path / "b", {"x": features()}, late_s=0.25))
    assert diff.items[0].max_time_s == pytest.approx(0.25)
    assert not diff.same_values


def test_folders_of_features_are_compared_kind_by_kind(tmp_path):
    text = replace(SPEC, kind="text", clip_seconds=None)
    for name in ("a", "b"):
        write(tmp_path / name, {"x": features()})
    write(tmp_path / "a", {"q": features(2)}, text)
    pairs = pair_stores(tmp_path / "a", tmp_path / "b")
    assert [left.spec.kind for left, _ in pairs.stores] == ["video"]
    assert len(pairs.only) == 1
    assert "text" in pairs.only[0]
    one = pair_stores(tmp_path / "a" / "video" / SPEC.folder_name, tmp_path / "b")
    assert (len(one.stores), one.only) == (1, [])
    with pytest.raises(ValueError, match="one kind"):
        pair_stores(tmp_path / "a" / "text", tmp_path / "b")
    write(tmp_path / "b", {"x": features()}, replace(SPEC, clip_seconds=1.0))
    with pytest.raises(ValueError, match="2 video stores"):
        pair_stores(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match="there is none"):
        pair_stores(tmp_path / "nothing", tmp_path / "b")
