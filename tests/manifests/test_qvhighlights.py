"""QVHighlights: which files are read, and what the release holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdmf.manifests.qvhighlights import read_qvhighlights
from rdmf.manifests.schema import AnnotationError


def put(path: Path, **more: object) -> None:
    path.write_text(json.dumps({"qid": 1, "vid": "v_0.0_150.0", "query": "x", "duration": 150} | more))


def test_the_test_release_with_truth_is_preferred(tmp_path: Path) -> None:
    put(tmp_path / "highlight_test_release.jsonl")
    assert read_qvhighlights(tmp_path).split("test")[0].windows == ()
    put(tmp_path / "highlight_test_with_gt.jsonl", relevant_windows=[[0, 2]])
    assert len(read_qvhighlights(tmp_path).split("test")[0].windows) == 1


def test_missing_files_are_named(tmp_path: Path) -> None:
    wanted = "highlight_train_release.jsonl, highlight_val_release.jsonl, highlight_test_release.jsonl, got none"
    with pytest.raises(AnnotationError, match=wanted):
        read_qvhighlights(tmp_path)


@pytest.mark.shared
def test_the_release_is_read_whole(shared: Path) -> None:
    manifest = read_qvhighlights(shared / "annotations" / "qvhighlights")
    assert {s: len(manifest.split(s)) for s in manifest.splits} == {"train": 7218, "val": 1550, "test": 1542}
    assert manifest.findings == ()
    assert max(len(query.windows) for query in manifest.queries) == 25
    for query in manifest.queries:
        saliency = query.saliency
        assert saliency is not None
        assert (saliency.annotators, saliency.clip_seconds, saliency.low, saliency.high) == (3, 2.0, 0, 4)
        # The scored clips are exactly the clips of the windows, which lie on the 2 s grid.
        inside = {i for w in query.windows for i in range(int(w.start_s) // 2, int(w.end_s) // 2)}
        assert set(saliency.clip_ids) == inside


@pytest.mark.shared
def test_one_file_can_be_read_alone(shared: Path) -> None:
    manifest = read_qvhighlights(shared / "annotations" / "qvhighlights" / "highlight_val_release.jsonl")
    assert (manifest.dataset, manifest.splits, len(manifest.queries)) == ("qvhighlights", ("val",), 1550)
    assert (manifest.queries[0].qid, manifest.queries[0].windows[0].start_s) == ("2579", 82.0)
