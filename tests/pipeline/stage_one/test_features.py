"""Stage one on real files: every video ends in features or in a named failure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rdmf.extract.reader import FeatureStore
from rdmf.extract.workers import Workers
from rdmf.manifests.files import read_manifest
from rdmf.pipeline.stage_one.features import extract_features, prepare_features

NANO = {"video_encoder": "swin_nano", "text_encoder": "bert_nano", "workers": "0"}

# What cannot become features, and the stage at which that is found
UNUSABLE = {
    "decord__corrupted": "decode",
    "moviepy__result": "open",
    "mp4parse-rust__short-cenc": "open|probe|decode",
    "mp4parse-rust__zero_empty_stsc": "open|probe|decode",
    "small__FlashVideo": "open|probe|decode",
    "small__mp4-with-audio": "open|probe",
}


def write_jsonl(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.shared
@pytest.mark.slow
def test_every_real_video_ends_in_features_or_in_a_named_failure(shared, tmp_path):
    files = sorted(p for p in (shared / "videos").iterdir() if p.suffix not in (".json", ".mp3"))
    records = [{"vid": file.stem, "query": "something happens", "relevant_windows": [[0.0, 0.5]]} for file in files]
    write_jsonl(tmp_path / "annotations" / "train.jsonl", [*records, {"vid": "nobody_has_me", "query": "what"}])
    report = extract_features(
        "own", shared / "videos", tmp_path / "annotations", tmp_path / "out", clip_seconds=1.0, **NANO
    )
    store = FeatureStore.open(report.video.folder)
    failed = {f.id: f for f in store.failures}
    assert report.missing == ("nobody_has_me",)
    assert failed.pop("nobody_has_me").stage == "missing"
    assert set(store.ids) | set(failed) == {file.stem for file in files}
    assert not set(store.ids) & set(failed)
    for vid, stage in UNUSABLE.items():
        assert failed[vid].stage in stage.split("|"), failed[vid]
    assert all(f.reason and f.stage in ("open", "probe", "decode") for f in failed.values())
    assert len(store.ids) >= 24
    for vid in store.ids:
        values, times_s, duration_s = store.features(vid)
        assert np.isfinite(values).all()
        assert times_s is not None
        assert duration_s is not None
        assert len(values) == len(times_s) == max(1, np.ceil(duration_s - 1e-3))
        np.testing.assert_allclose(times_s[:-1, 1], times_s[1:, 0])
        assert times_s[-1, 1] == pytest.approx(duration_s, abs=1e-3)
    told = pq.read_table(report.video.folder / "failures.parquet").to_pydict()
    assert set(told["id"]) == set(failed) | {"nobody_has_me"}
    assert store.verify() == []


@pytest.mark.shared
def test_charades_annotations_with_one_of_the_videos_list_the_rest_and_use_what_is_there(shared, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "3MSZA.mp4").symlink_to(shared / "videos" / "univtg__charades.mp4")
    report = extract_features("charades", videos, shared / "annotations" / "charades_sta", tmp_path / "out", **NANO)
    assert len(report.manifest.queries) == 12408 + 3720
    assert len(report.missing) == 6672 - 1
    assert report.video.receipt.written == 1
    assert not report.complete
    manifest = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert sum(f.action == "missing video" for f in manifest.findings) == len(report.missing)
    times_s = FeatureStore.open(report.video.folder).features("3MSZA").times_s
    assert times_s is not None
    assert len(times_s) == 31  # clips of 1 s of a 30.7 s video


def test_own_data_of_three_keys_takes_durations_from_the_videos(tmp_path, small_videos):
    write_jsonl(
        tmp_path / "a" / "train.jsonl",
        [{"vid": "demo3-train-0000", "query": "a star", "relevant_windows": [[1.0, 500.0], [900.0, 901.0]]}],
    )
    report = extract_features("mine", small_videos, tmp_path / "a", tmp_path / "out", **NANO)
    (query,) = report.manifest.queries
    length = report.manifest.videos["demo3-train-0000"].duration_s
    assert length is not None
    assert [(w.start_s, w.end_s) for w in query.windows] == [(1.0, length)]
    assert {f.action for f in report.manifest.findings} == {"clipped", "dropped window"}
    assert query.saliency is None


def test_the_same_features_are_reused_and_other_settings_never_overwrite_them(tmp_path, small_videos):
    write_jsonl(tmp_path / "a" / "train.jsonl", [{"vid": "demo3-train-0000", "query": "a star"}])
    first = extract_features("mine", small_videos, tmp_path / "a", tmp_path / "out", **NANO)
    before = {p: p.read_bytes() for p in first.video.folder.iterdir() if p.suffix == ".h5"}
    again = extract_features("mine", small_videos, tmp_path / "a", tmp_path / "out", **NANO)
    assert (again.video.receipt.written, again.video.receipt.reused) == (0, 1)
    other = extract_features("mine", small_videos, tmp_path / "a", tmp_path / "out", clip_seconds=1.0, **NANO)
    assert other.video.folder != first.video.folder
    assert {p: p.read_bytes() for p in first.video.folder.iterdir() if p.suffix == ".h5"} == before


def test_a_forecast_writes_nothing_and_says_what_extraction_then_does(tmp_path, small_videos):
    records = [{"vid": vid, "query": "a red star shrinks"} for vid in ("demo3-train-0000", "broken", "nobody")]
    write_jsonl(tmp_path / "a" / "train.jsonl", records)
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "demo3-train-0000.mp4").symlink_to(small_videos / "demo3-train-0000.mp4")
    (tmp_path / "v" / "broken.mp4").write_bytes(b"no video")
    stage = prepare_features(
        "mine", tmp_path / "v", tmp_path / "a", tmp_path / "out", video_encoder="swin_nano", text_encoder="bert_nano"
    )
    video, text = stage.forecast()
    assert not (tmp_path / "out").exists()
    assert (video.to_do, video.cached, video.failed) == (2, 0, 0)
    assert (text.to_do, text.cached, text.failed) == (3, 0, 0)
    with Workers(0) as workers:
        report = stage.extract(workers)
    assert video.rows / 2 == report.video.receipt.rows  # the one that opens stands for both
    assert text.rows == pytest.approx(report.text.receipt.rows, rel=0.5)
    size = sum(path.stat().st_size for path in report.video.folder.iterdir())
    assert size / 20 < video.bytes < size
    again, _ = stage.forecast()
    assert (again.to_do, again.cached, again.failed, again.rows) == (0, 1, 1, 0)
    retried, _ = stage.forecast(retry_failed=True)
    assert (retried.to_do, retried.cached, retried.failed) == (1, 1, 0)


def test_a_folder_without_any_of_the_videos_is_refused_before_any_work(tmp_path, small_videos):
    write_jsonl(tmp_path / "a" / "train.jsonl", [{"vid": "elsewhere", "query": "a star"}])
    with pytest.raises(ValueError, match=r"none of the 1 videos .* elsewhere\.mp4"):
        extract_features("mine", small_videos, tmp_path / "a", tmp_path / "out", **NANO)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def small_videos(tmp_path_factory) -> Path:
    from rdmf.manifests.demo.dataset import DemoConfig, make_demo

    folder = tmp_path_factory.mktemp("small")
    make_demo(folder, DemoConfig(seed=3, videos={"train": 1}), workers=1)
    return folder / "videos"
