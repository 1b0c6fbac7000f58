"""Stage one on captions instead of videos: a store of its own, reused, and made anew where a caption changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rdmf.extract.reader import FeatureStore
from rdmf.pipeline.stage_one.features import FeaturesReport, extract_features

DURATIONS = {"v1": 6.0, "v2": 5.0, "v3": 4.0, "v4": 4.0, "v5": 4.0}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Annotations of five videos: captions fit, lack the last, fit, are too few, are not there."""
    (tmp_path / "annotations").mkdir()
    rows = [
        {"qid": vid, "query": "a red circle", "vid": vid, "duration": s, "relevant_windows": [[0, 2]], "split": "val"}
        for vid, s in DURATIONS.items()
    ]
    (tmp_path / "annotations" / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "captions").mkdir()
    for vid, captions in {"v1": "red\nblue\ngreen", "v2": "red\nblue", "v3": "red\nred", "v4": "red\n" * 9}.items():
        (tmp_path / "captions" / f"{vid}.txt").write_text(captions)
    return tmp_path


def extract(data: Path, **options: str) -> FeaturesReport:
    encoders = {"video_encoder": "captions:bert_nano", "text_encoder": "bert_nano", **options}
    places = (data / "captions", data / "annotations", data / "out")
    return extract_features("own", *places, clip_seconds=2.0, workers="0", **encoders)  # type: ignore[arg-type]


def test_captions_become_clip_features_and_what_does_not_fit_is_told(data: Path) -> None:
    report = extract(data)
    store = FeatureStore.open(report.video.folder)
    assert store.spec.encoder == "captions-bert_nano"
    assert {vid: store.features(vid).values.shape[0] for vid in store.ids} == {"v1": 3, "v2": 2, "v3": 2}
    assert store.features("v2").times_s.tolist() == [[0, 2], [2, 4]]
    assert store.features("v2").duration_s == 5.0
    np.testing.assert_array_equal(store.features("v1").values[0], store.features("v3").values[1])
    assert report.missing == ("v5",)
    assert {failure.id: failure.stage for failure in report.video.failures} == {"v4": "captions", "v5": "missing"}
    fitted = [finding.detail for finding in report.manifest.findings if finding.action == "fitted captions"]
    assert fitted == ["video v2 has 2 captions for the 3 clips of 2 s in 5 s: the last clip has no feature"]


def test_what_is_cached_is_reused_unless_a_caption_changed(data: Path) -> None:
    assert extract(data).video.receipt.written == 3
    assert extract(data).video.receipt.reused == 3
    (data / "captions" / "v3.txt").write_text("red\nblu2")  # of the same length
    receipt = extract(data).video.receipt
    assert (receipt.written, receipt.reused) == (1, 2)


def test_weights_are_named_by_the_encoder_alone(data: Path) -> None:
    with pytest.raises(ValueError, match="expected no --video-weights"):
        extract(data, video_weights="random")
