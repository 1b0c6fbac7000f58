"""Repair: what is broken is made again to the same bytes, and what is sound is not touched."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdmf.extract.layout import Source
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import extract_store
from rdmf.extract.verify import verify_store
from rdmf.pipeline.stage_one.repair import Means, repair, verify_features

TABLES = ("plan.parquet", "index.parquet", "failures.parquet")

DAMAGE: dict[str, Callable[[Any, Path], object]] = {
    "flipped early": lambda mend, path: mend.flip(path, 0.02),
    "flipped": lambda mend, path: mend.flip(path),
    "flipped late": lambda mend, path: mend.flip(path, 1.0),
    "cut short": lambda _, path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda _, path: os.truncate(path, 0),
    "lost": lambda _, path: path.unlink(),
    "a folder": lambda _, path: (path.unlink(), path.mkdir()),
}


@pytest.fixture
def features(mendable, tmp_path: Path) -> Path:
    return mendable.make(tmp_path)


@pytest.fixture
def again(mendable, monkeypatch: pytest.MonkeyPatch):
    return mendable.again(monkeypatch)


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damaged_file_of_a_store_is_made_again_to_the_same_bytes(
    mendable, features: Path, again, damage: str
) -> None:
    folder = mendable.store(features, "video")
    before, untouched = mendable.contents(folder), mendable.identities(folder)
    held = {"shard-00000.h5": ["v0", "v1", "v2"], "shard-00001.h5": ["v3", "v4", "v5"], "shard-00002.h5": ["v6", "v7"]}
    for path in sorted(before):
        if path.name == ".lock":
            continue
        again.asked.clear()
        DAMAGE[damage](mendable, path)
        assert path in {problem.file for problem in verify_store(folder)}
        report = mendable.mend(folder)
        (video,) = report.stores
        assert report.complete
        assert again.asked == held.get(path.name, [])
        assert video.extracted == len([vid for vid in again.asked if vid != "v2"])
        assert video.rebuilt == (() if path.name in held else (path.name,))
        assert mendable.contents(folder) == before
        now = mendable.identities(folder)
        assert {p: i for p, i in now.items() if p != path} == {p: i for p, i in untouched.items() if p != path}
        untouched = now
    assert verify_features(features) == []
    asides = [path.name for path in folder.glob("damaged-*")]
    assert len(asides) == (7 if damage == "a folder" else 0)  # kept, whatever they are


def test_everything_damaged_at_once_is_made_again_as_long_as_one_shard_has_the_settings(
    mendable, features: Path, again
) -> None:
    before = mendable.contents(features)
    for kind in ("video", "text"):
        folder = mendable.store(features, kind)
        for name in ("store.json", "index.parquet", "failures.parquet", "shard-00000.h5", "shard-00001.h5"):
            mendable.flip(folder / name)
        (folder / "shard-00002.h5").unlink()
        mendable.flip(folder / "shard-00003.h5") if kind == "text" else None
    report = mendable.mend(features)
    mendable.remove_aside(features)
    assert mendable.contents(features) == before
    # nothing tells any more that v2 had failed before
    assert [failure.id for mended in report.stores for failure in mended.lost] == ["v2"]


def test_a_lost_plan_costs_nothing_as_long_as_the_index_tells_what_was_where(mendable, features: Path, again) -> None:
    before, folder = mendable.contents(features), mendable.store(features, "video")
    (folder / "plan.parquet").unlink()
    mendable.flip(folder / "shard-00000.h5", 0.05)
    assert mendable.mend(features).complete
    assert sorted(again.asked) == ["v0", "v1", "v2"]
    after = mendable.contents(features)
    assert {p.name for p in before if before[p] != after[p]} <= {"plan.parquet", "shard-00000.h5"}  # but for the order
    assert verify_features(features) == []


def test_what_a_shard_held_of_which_nothing_tells_is_what_no_other_shard_has(mendable, features: Path, again) -> None:
    folder = mendable.store(features, "text")
    for name in ("plan.parquet", "index.parquet"):
        (folder / name).unlink()
    mendable.flip(folder / "shard-00001.h5", 0.05)
    assert mendable.mend(features).complete
    assert again.asked == ["v2-1", "v3-0", "v3-1", "v4-0", "v4-1"]
    assert len(FeatureStore.open(folder)) == 17
    assert verify_features(features) == []


def test_sound_features_are_left_alone(mendable, features: Path, again) -> None:
    before, untouched = mendable.contents(features), mendable.identities(features)
    report = mendable.mend(features)
    assert report.complete
    assert [(s.rebuilt, s.extracted, s.lost) for s in report.stores] == [((), 0, ())] * 2
    assert (mendable.contents(features), mendable.identities(features), again.asked) == (before, untouched, [])


def test_a_repair_killed_at_any_moment_is_ended_by_the_next_one(
    mendable, features: Path, again, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mendable.store(features, "video")
    whole = mendable.contents(folder)
    mendable.flip(folder / "shard-00001.h5")
    mendable.flip(folder / "store.json")
    (folder / "index.parquet").unlink()
    shutil.copytree(folder, tmp_path / "damaged")
    real, moment = os.fsync, 0
    while True:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "damaged", folder)
        left = moment

        def killing(file: int) -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            real(file)

        if (pid := os.fork()) == 0:
            os.fsync = killing
            mendable.mend(folder)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert mendable.mend(folder).complete
        mendable.remove_aside(folder)  # of a repair that was killed when all was done but that
        assert mendable.contents(folder) == whole
        moment += 1
    assert moment > 10
    assert mendable.contents(folder) == whole


def test_flipped_bits_of_the_manifest_are_found(mendable, features: Path) -> None:
    path, rng = features / "manifest.parquet", random.Random(3)
    whole = path.read_bytes()
    for _ in range(30):
        data, bit = bytearray(whole), rng.randrange(8 * len(whole))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert [problem.file for problem in verify_features(features)] == [path]
    path.write_bytes(whole)
    assert verify_features(features) == []


def test_what_a_newer_shard_has_is_not_extracted_again(mendable, features: Path, again) -> None:
    folder, (first, *_) = mendable.store(features, "video"), sorted((features.parent / "videos").iterdir())
    first.write_bytes(b"video that is longer now")
    videos = [Source(path.stem, str(path)) for path in sorted((features.parent / "videos").iterdir())]
    extract_store(folder, mendable.SPECS["video"], videos, mendable.Extraction())
    before = FeatureStore.open(folder).features("v0").values.copy()
    again.asked.clear()
    mendable.flip(folder / "shard-00000.h5")
    assert mendable.mend(features).complete
    assert again.asked == ["v1", "v2"]
    np.testing.assert_array_equal(FeatureStore.open(folder).features("v0").values, before)
    assert verify_store(folder) == []


def test_a_shard_whose_newer_features_are_lost_does_not_bring_older_ones_back(mendable, features: Path, again) -> None:
    """A changed video of the same size is told by its hash alone."""
    folder, path = mendable.store(features, "video"), features.parent / "videos/v0.mp4"
    path.write_bytes(b"VIDEO0")
    videos = [Source(p.stem, str(p)) for p in sorted(path.parent.iterdir())]
    assert extract_store(folder, mendable.SPECS["video"], videos, mendable.Extraction(), rehash=True).written == 1
    before = mendable.contents(features)
    again.asked.clear()
    mendable.flip(folder / "shard-00003.h5")
    assert mendable.mend(features).complete
    assert again.asked == ["v0"]
    assert mendable.contents(features) == before


def test_failures_that_no_shard_knows_outlive_a_repair(mendable, features: Path, again) -> None:
    folder = mendable.store(features, "text")
    sources = [Source("../x", "a sentence")]
    extract_store(folder, mendable.SPECS["text"], sources, mendable.Extraction())
    before = mendable.contents(features)
    assert [(f.id, f.stage) for f in FeatureStore.open(folder).failures] == [("../x", "id")]
    for name in ("failures.parquet", "shard-00002.h5"):
        mendable.flip(folder / name)
    assert mendable.mend(features).complete
    assert mendable.contents(features) == before


def test_real_videos_and_sentences_are_extracted_again_to_the_same_bytes(mendable, tmp_path: Path) -> None:
    from rdmf.manifests.demo.dataset import DemoConfig, make_demo
    from rdmf.pipeline.stage_one.features import extract_features

    make_demo(tmp_path / "demo", DemoConfig(seed=3, videos={"train": 4}), workers=1)
    extract_features(
        "own", tmp_path / "demo/videos", tmp_path / "demo/annotations", tmp_path / "features", clip_seconds=1.0,
        video_encoder="swin_nano", text_encoder="bert_nano", workers="0",
    )  # fmt: skip
    before = mendable.contents(tmp_path / "features")
    for kind in ("video", "text"):
        mendable.flip(mendable.store(tmp_path / "features", kind) / "shard-00001.h5")
    report = repair(tmp_path / "features", Means(videos=tmp_path / "demo/videos"), "0")
    assert report.complete
    assert all(s.extracted for s in report.stores)
    assert mendable.contents(tmp_path / "features") == before


def test_the_commands_say_what_is_wrong_and_mend_it(
    mendable, features: Path, again, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from rdmf import cli

    def rdmf(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["rdmf", "store", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out + captured.err

    assert rdmf("verify", features) == (0, f"{features}: every bit is as it was written\n")
    manifest, whole = features / "manifest.parquet", (features / "manifest.parquet").read_bytes()
    mendable.flip(manifest)
    code, told = rdmf("verify", features)
    assert code == 1
    assert "`rdmf features` with the same settings makes the manifest again" in told.splitlines()[-1]
    assert "store repair" not in told  # which cannot
    manifest.write_bytes(whole)
    mendable.flip(mendable.store(features, "video") / "shard-00001.h5")
    (mendable.store(features, "video") / "index.parquet").unlink()
    code, told = rdmf("verify", features)
    assert "store repair" in told.splitlines()[-1]
    assert code == 1
    assert "shard-00001.h5 is damaged" in told
    assert "(it holds v3, v4, v5)" in told
    assert "index.parquet is not there" in told
    code, told = rdmf("repair", features, "--videos", features.parent / "videos", "--workers", 0)
    assert (code, "made again: index.parquet, the features of 3 sources" in told) == (0, True), told
    assert rdmf("verify", mendable.store(features, "video"))[0] == 0
    assert rdmf("verify", features.parent / "videos")[0] == 1
    assert rdmf("repair", features, "--workers", "many")[0] == 2
