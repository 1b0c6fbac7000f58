"""Repair where something cannot be made again: that is named, nothing is dropped, and the rest goes on."""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rdmf.extract.imports import IMPORTED
from rdmf.extract.layout import Source, StoreSpec
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import extract_store
from rdmf.extract.verify import verify_store
from rdmf.pipeline.stage_one.repair import Means, repair, verify_features

IMPORTED_SPECS = {
    "video": StoreSpec("video", "slowfast", {"source": f"{IMPORTED} slowfast", "sha256": "3" * 64}, {}, 2.0, 4),
    "text": StoreSpec("text", "fake", {"source": "fake", "sha256": "2" * 64}, {}, None, 4),
}


@pytest.fixture
def features(mendable, tmp_path: Path) -> Path:
    return mendable.make(tmp_path)


@pytest.fixture
def again(mendable, monkeypatch: pytest.MonkeyPatch):
    return mendable.again(monkeypatch)


def test_videos_that_are_gone_are_named_and_the_rest_of_their_shard_comes_back(mendable, features: Path, again) -> None:
    folder = mendable.store(features, "video")
    whole = (folder / "shard-00001.h5").read_bytes()
    mendable.flip(folder / "shard-00001.h5")
    (features.parent / "videos/v4.mp4").unlink()
    report = mendable.mend(features)
    (video,) = (s for s in report.stores if s.folder == folder)
    assert not report.complete
    assert video.extracted == 2
    assert [(f.id, f.stage) for f in video.lost] == [("v4", "missing")]
    assert set(FeatureStore.open(folder).ids) == {"v0", "v1", "v3", "v5", "v6", "v7"}
    assert video.lost[0] in FeatureStore.open(folder).failures
    aside = folder / "damaged-shard-00001.h5"
    assert sum(a != b for a, b in zip(aside.read_bytes(), whole, strict=True)) == 1  # kept, to the flipped bit
    assert verify_store(folder) == []


@pytest.mark.parametrize("videos", ["empty", "nowhere"])
def test_without_any_of_the_videos_nothing_is_changed(
    mendable, features: Path, again, tmp_path: Path, videos: str
) -> None:
    (tmp_path / "empty").mkdir()
    mendable.flip(mendable.store(features, "video") / "shard-00001.h5")
    before = mendable.contents(features)
    report = repair(features, Means(videos=tmp_path / videos), "0")
    assert "shard-00001.h5" in str(report.stores[1].problem)
    assert "--videos DIR" in str(report.stores[1].problem)
    assert mendable.contents(features) == before


def test_a_damaged_manifest_is_told_and_needed_for_sentences_alone(mendable, features: Path, again) -> None:
    whole = mendable.contents(features)
    mendable.flip(features / "manifest.parquet")
    for kind in ("video", "text"):
        mendable.flip(mendable.store(features, kind) / "shard-00001.h5")
    (problem, *_) = verify_features(features)
    assert problem.file == features / "manifest.parquet"
    report = mendable.mend(features)
    text, video = report.stores
    assert "manifest.parquet, which says what the sources are, cannot be read" in str(text.problem)
    assert (video.extracted, video.problem) == (3, None)
    assert [problem.file for problem in report.manifests] == [features / "manifest.parquet"]
    (features / "manifest.parquet").write_bytes(whole[features / "manifest.parquet"])
    assert mendable.mend(features).complete
    assert mendable.contents(features) == whole


def test_a_store_without_settings_anywhere_says_what_to_do(mendable, features: Path, again) -> None:
    folder = mendable.store(features, "video")
    for path in folder.iterdir():
        path.write_bytes(b"")
    before = mendable.contents(features)
    (video,) = (s for s in mendable.mend(features).stores if s.folder == folder)
    assert f"move {folder} away and run `rdmf features` again" in str(video.problem)
    assert mendable.contents(features) == before


def test_what_was_imported_is_set_aside_named_and_comes_back_with_the_next_import(mendable, tmp_path: Path) -> None:
    features = mendable.make(tmp_path, IMPORTED_SPECS)
    whole, folder = mendable.contents(features), mendable.store(features, "video")
    mendable.flip(folder / "shard-00001.h5", 0.05)
    for _ in range(2):  # it says so until it is put right
        report = mendable.mend(features)
        (video,) = (s for s in report.stores if s.folder == folder)
        assert "import them again with `rdmf store import`" in str(video.problem)
        assert [failure.id for failure in video.lost] == ["v3", "v4", "v5"]
        assert set(FeatureStore.open(folder).ids) == {"v0", "v1", "v6", "v7"}
        told = {row["id"]: row for row in pq.read_table(folder / "failures.parquet").to_pylist()}
        assert {told[vid]["stage"] for vid in ("v3", "v4", "v5")} == {"damaged"}
        assert "imported" in told["v3"]["reason"]
        assert [problem.ids for problem in verify_store(folder)] == [("v3", "v4", "v5")]
    sources = [Source(path.stem, str(path)) for path in sorted((tmp_path / "videos").iterdir())]
    extract_store(folder, IMPORTED_SPECS["video"], sources, mendable.Extraction())
    (folder / "damaged-shard-00001.h5").unlink()
    assert mendable.contents(features) == whole


def test_what_the_system_does_not_let_read_is_not_taken_for_damage(
    mendable, features: Path, again, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = mendable.contents(features), Path.open

    def broken_disk(path: Path, *mode: str, **more: str):
        if path.name == "shard-00001.h5":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *mode, **more)

    monkeypatch.setattr(Path, "open", broken_disk)
    assert any("cannot be read (Input/output error)" in problem.what for problem in verify_features(features))
    with pytest.raises(OSError, match=r"shard-00001\.h5 cannot be read \(Input/output error\)"):
        mendable.mend(features)
    monkeypatch.undo()
    assert mendable.contents(features) == before
