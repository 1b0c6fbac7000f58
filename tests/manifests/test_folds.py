"""Folds: what belongs together stays together, every query is tested once, and nothing depends on order or machine."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.manifests import dataset
from rdmf.manifests.folds import (
    VALIDATION_PART,
    Folds,
    dealt,
    group_of,
    make_folds,
    queries_of_groups,
    read_folds,
    relabel,
    write_folds,
)
from rdmf.manifests.schema import Manifest, Moment, Query, Video

COMMITTED = Path(__file__).parents[2] / "configs" / "benchmarks" / "captions-folds.json"


def segments(sizes: dict[str, int], name: str = "qvhighlights") -> Manifest:
    """Source videos cut into segments of 150 s, a query about each, all of split val."""
    vids = [f"{source}_{150 * i + 60}.0_{150 * i + 210}.0" for source, count in sizes.items() for i in range(count)]
    queries = tuple(Query(f"q{i}", vid, "a dog", "val", (Moment(0, 2),)) for i, vid in enumerate(vids))
    return Manifest(name, 2.0, {vid: Video(vid, 150.0) for vid in vids}, queries)


SOURCES = {f"_a{i}_{i}.5_x": 1 + i % 4 for i in range(60)}  # names that look like segments until their end


def test_a_group_is_the_video_that_segments_were_cut_from_and_a_video_alone_elsewhere():
    assert group_of("qvhighlights", "_ufoIeYZYjw_360.0_510.0") == "_ufoIeYZYjw"
    assert group_of("qvhighlights", "a_1.0_2.0_360.0_510.0") == "a_1.0_2.0"
    assert group_of("qvhighlights", "holiday") == "holiday"
    assert group_of("charades", "a_360.0_510.0") == "a_360.0_510.0"


@given(st.dictionaries(st.text("abc", min_size=1, max_size=6), st.integers(1, 9), min_size=2), st.integers(2, 9))
@settings(max_examples=200, deadline=None)
def test_parts_hold_every_group_once_and_differ_by_no_more_than_the_largest_group(sizes, parts):
    held = dealt(sizes, parts, "0")
    assert Counter(group for part in held for group in part) == Counter(dict.fromkeys(sizes, 1))
    totals = [sum(sizes[group] for group in part) for part in held]
    assert max(totals) - min(totals) <= max(sizes.values())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_query_is_tested_once_and_no_source_video_is_on_two_sides(count):
    manifest = segments(SOURCES)
    folds = make_folds(manifest, count)
    tested = Counter()
    for k in range(count):
        labelled = relabel(manifest, folds, k)
        assert [replace(q, split="val") for q in labelled.queries] == list(manifest.queries)
        sides = {
            split: {group_of("qvhighlights", q.vid) for q in labelled.split(split)}
            for split in ("train", "val", "test")
        }
        assert sum(map(len, sides.values())) == len(SOURCES) == len(set().union(*sides.values()))
        outside = len(manifest.queries) - len(labelled.split("test"))
        assert abs(len(labelled.split("val")) - outside / VALIDATION_PART) <= max(SOURCES.values())
        assert abs(len(labelled.split("test")) - len(manifest.queries) / count) <= max(SOURCES.values())
        assert labelled.findings[-1].action == "carved split"
        tested.update(query.qid for query in labelled.split("test"))
    assert tested == Counter(dict.fromkeys((q.qid for q in manifest.queries), 1))


def test_neither_order_nor_earlier_splits_change_folds_and_another_seed_does():
    manifest = segments(SOURCES)
    mixed = list(manifest.queries)
    random.Random(1).shuffle(mixed)
    mixed = [replace(query, split=random.Random(query.qid).choice(["train", "test"])) for query in mixed]
    other = replace(manifest, queries=tuple(mixed))
    folds = make_folds(manifest, 4)
    assert make_folds(other, 4) == folds
    for k in range(4):
        splits = {q.qid: q.split for q in relabel(manifest, folds, k).queries}
        assert {q.qid: q.split for q in relabel(other, folds, k).queries} == splits
    assert make_folds(manifest, 4, seed=1) != folds


def test_equal_groups_are_dealt_in_the_order_of_their_sha256():
    order = sorted("abcd", key=lambda group: hashlib.sha256(f"0:{group}".encode()).hexdigest())
    assert dealt(dict.fromkeys("abcd", 1), 2, "0") == (
        tuple(sorted([order[0], order[2]])),
        tuple(sorted([order[1], order[3]])),
    )


def test_a_file_is_read_as_it_was_written_and_names_what_does_not_fit(tmp_path):
    manifest = segments(SOURCES)
    folds = make_folds(manifest, 3)
    write_folds(folds, tmp_path / "folds.json")
    assert read_folds(tmp_path / "folds.json") == folds
    with pytest.raises(ValueError, match=r"1 that are in none \(stranger\)"):
        folds.check(segments(SOURCES | {"stranger": 1}))
    fewer = segments({name: count for name, count in SOURCES.items() if not name.startswith("_a1")})
    with pytest.raises(ValueError, match=r"11 of 60 have none \(_a10_10\.5_x, _a11_11\.5_x, .* and 8 more\)"):
        relabel(fewer, folds, 0)
    with pytest.raises(ValueError, match=r"expected features of qvhighlights, .* got charades"):
        folds.check(segments(SOURCES, "charades"))


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ([], "expected folds of format 1"),
        ({"format": 2}, "expected folds of format 1"),
        ({"format": 1, "dataset": "a", "seed": 0, "folds": [["a"], "b"]}, "folds as lists"),
        ({"format": 1, "dataset": "a", "seed": True, "folds": [["a"], ["b"]]}, "a whole seed"),
        ({"format": 1, "dataset": "a", "seed": 0, "folds": [["a"], [1]]}, "names of source videos in folds, got 1"),
        ({"format": 1, "dataset": "a", "seed": 0, "folds": [["a"]]}, "at least 2 folds"),
        ({"format": 1, "dataset": "a", "seed": 0, "folds": [["a"], []]}, "none empty"),
        (
            {"format": 1, "dataset": "a", "seed": 0, "folds": [["a", "b"], ["b"]]},
            "every group in one fold, got b twice",
        ),
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path, tree, said):
    path = tmp_path / "folds.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=said):
        read_folds(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"folds\.json is no JSON"):
        read_folds(path)
    with pytest.raises(ValueError, match="there is no file of folds"):
        read_folds(tmp_path / "gone.json")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_folds_are_two_or_more_and_no_more_than_source_videos(count):
    with pytest.raises(ValueError, match=f"expected 2 to 2 folds .* got {count}"):
        make_folds(segments({"a": 2, "b": 1}), count)


def test_a_fold_needs_two_source_videos_outside_it():
    folds = Folds("qvhighlights", 0, (("a",), ("b",)))
    with pytest.raises(ValueError, match="at least 2 source videos outside fold 0"):
        relabel(segments({"a": 2, "b": 1}), folds, 0)


@pytest.mark.shared
def test_the_committed_folds_are_those_of_qvhighlights_val(shared):
    every = dataset("qvhighlights").read(shared / "annotations" / "qvhighlights")
    manifest = replace(every, queries=every.split("val"))
    folds = read_folds(COMMITTED)
    assert folds == make_folds(manifest, 5)
    sizes = queries_of_groups(manifest)
    assert [sum(sizes[group] for group in fold) for fold in folds.groups] == [310] * 5
