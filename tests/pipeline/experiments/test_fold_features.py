"""Feature folders of folds: other splits, the very same stores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rdmf.extract.reader import find_stores
from rdmf.manifests.files import read_manifest
from rdmf.manifests.folds import make_folds
from rdmf.pipeline.experiments.fold_features import judged_queries, write_fold
from rdmf.pipeline.loading.dataset import open_features


@pytest.fixture
def features(tiny, tmp_path):
    """8 videos, of which one has no features, and one sentence without annotation."""
    manifest = tiny.manifest({"train": 5, "test": 3})
    queries = (replace(manifest.queries[0], windows=(), saliency=None), *manifest.queries[1:])
    return tiny.write_manifest(tmp_path / "features", replace(manifest, queries=queries), without=("test002",))


def test_what_has_no_features_or_no_truth_is_left_out_and_counted(features):
    opened = open_features(features)
    judged = judged_queries(opened)
    assert len(judged.queries) == 8 * 4 - 4 - 1
    assert "test002" not in judged.videos
    assert [(f.source, f.action, f.detail) for f in judged.findings] == [
        ("train", "dropped query", "0 without features and 1 without annotations, of 20"),
        ("test", "dropped query", "4 without features and 0 without annotations, of 12"),
    ]
    nothing = replace(opened, manifest=replace(opened.manifest, queries=opened.manifest.queries[:1]))
    with pytest.raises(ValueError, match=r"expected queries with features in topics-.* and annotations, got none"):
        judged_queries(nothing)


def test_a_fold_reads_as_features_do_and_copies_none(features, tmp_path):
    opened = open_features(features)
    judged = judged_queries(opened)
    folds = make_folds(judged, 3)
    folder = write_fold(tmp_path / "folds" / "fold-1", opened, judged, folds, 1)
    fold = open_features(folder)
    assert fold.manifest == read_manifest(folder / "manifest.parquet")
    assert {q.vid for q in fold.manifest.split("test")} == set(folds.groups[1])
    assert len(fold.manifest.queries) == len(judged.queries)
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / "manifest.parquet"]  # links aside
    for there, here in ((opened.video[0], fold.video[0]), (opened.text, fold.text)):
        assert here.folder.is_symlink()
        assert here.folder.samefile(there.folder)
        for id in here.ids:
            np.testing.assert_array_equal(here.features(id).values, there.features(id).values)
    assert len(find_stores(folder)) == 2  # for `rdmf store`


def test_a_fold_that_is_there_is_left_and_another_is_refused(features, tmp_path):
    opened = open_features(features)
    judged = judged_queries(opened)
    folds = make_folds(judged, 3)
    folder = write_fold(tmp_path / "fold", opened, judged, folds, 0)
    before = (folder / "manifest.parquet").stat().st_mtime_ns
    write_fold(folder, opened, judged, folds, 0)
    assert (folder / "manifest.parquet").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds a fold of other features or annotations, or another fold"):
        write_fold(folder, opened, judged, folds, 1)
    features.rename(tmp_path / "moved")  # links follow
    moved = open_features(tmp_path / "moved")
    write_fold(folder, moved, judged_queries(moved), folds, 0)
    assert open_features(folder).video[0].folder.samefile(moved.video[0].folder)
