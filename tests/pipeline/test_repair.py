"""Repair: what is broken is made again to the same bytes, what is sound is not touched, what is lost is named."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from rdmf.extract.extractors import one_by_one
from rdmf.extract.imports import IMPORTED
from rdmf.extract.layout import Failure, Item, Source, StoreSpec, text_sha256
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import extract_store
from rdmf.extract.verify import verify_store
from rdmf.manifests.files import write_manifest
from rdmf.manifests.schema import Finding, Manifest, Query, Video
from rdmf.pipeline import repair as repair_module
from rdmf.pipeline.encoder_of import NotComputable, extraction_for
from rdmf.pipeline.repair import Means, repair, verify_features

WIDTH, VIDEOS = 4, 8
SPECS = {
    "video": StoreSpec("video", "fake", {"source": "a.pth", "sha256": "1" * 64}, {}, 2.0, WIDTH),
    "text": StoreSpec("text", "fake", {"source": "fake", "sha256": "2" * 64}, {}, None, WIDTH),
}
TABLES = ("plan.parquet", "index.parquet", "failures.parquet")


class Extraction:
    """Features that follow from a file's bytes, or from a sentence; knows what it was asked for."""

    asked: ClassVar[list[str]] = []

    def __call__(self):
        def extract(source: Source) -> Item:
            Extraction.asked.append(source.id)
            video = source.content.endswith(".mp4")
            raw = Path(source.content).read_bytes() if video else source.content.encode()
            if raw.startswith(b"bad"):
                raise ValueError("expected a video, got rubbish")
            digest = hashlib.sha256(raw).hexdigest() if video else text_sha256(source.content)
            rng = np.random.default_rng(int(digest[:8], 16))
            rows = int(rng.integers(1, 5))
            values, starts = rng.normal(size=(rows, WIDTH)), 2.0 * np.arange(rows)
            if video:
                return Item(source.id, values, np.stack([starts, starts + 2], 1), 2.0 * rows, digest)
            return Item(source.id, values, None, None, digest)

        return one_by_one(extract)


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Extraction:
    """What repair extracts with."""
    monkeypatch.setattr(repair_module, "extraction_for", lambda *_: Extraction())
    Extraction.asked.clear()
    return Extraction()


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """8 videos in 3 shards (v2 cannot be decoded), one more that has no file, and 16 sentences in 4 shards."""
    return make_features(tmp_path)


def make_features(tmp_path: Path, specs: dict[str, StoreSpec] = SPECS) -> Path:
    videos, out = tmp_path / "videos", tmp_path / "features"
    videos.mkdir()
    vids = [f"v{i}" for i in range(VIDEOS)]
    for i, vid in enumerate(vids):
        (videos / f"{vid}.mp4").write_bytes((b"bad" if i == 2 else b"video") + b"%d" % i)
    queries = tuple(Query(f"{vid}-{n}", vid, f"sentence {n} of {vid}", "train") for vid in vids for n in range(2))
    queries = (*queries, Query("gone-0", "gone", "a sentence about nothing", "train"))
    told = (Finding(str(videos), "", "missing video", "gone has no file"),)
    manifest = Manifest("fake", 2.0, {vid: Video(vid, 8.0) for vid in (*vids, "gone")}, queries, told)
    sources = {
        "video": [Source(vid, str(videos / f"{vid}.mp4")) for vid in vids],
        "text": [Source(query.qid, query.text) for query in queries],
    }
    missing = {"video": [Failure("gone", "missing", f"no video file of this name in {videos}")], "text": []}
    for kind, spec in specs.items():
        folder, items = out / kind / spec.folder_name, {"video": 3, "text": 5}[kind]
        extract_store(folder, spec, sources[kind], Extraction(), shard_items=items, missing=missing[kind])
    write_manifest(manifest, out / "manifest.parquet")
    Extraction.asked.clear()
    return out


def store(features: Path, kind: str) -> Path:
    (folder,) = (features / kind).iterdir()
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def identities(folder: Path) -> dict[Path, tuple[int, int]]:
    """What changes where a file is written anew, even with the same bytes."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("shard-*.h5")}


def mend(folder: Path, **means) -> repair_module.RepairReport:
    videos = next(parent / "videos" for parent in folder.parents if (parent / "videos").is_dir())
    return repair(folder, Means(videos=videos, **means), "0")


def remove_aside(folder: Path) -> None:
    for path in folder.rglob("damaged-*"):
        path.unlink()


def flip(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 8
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped early": lambda path: flip(path, 0.02),
    "flipped": flip,
    "flipped late": lambda path: flip(path, 1.0),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "lost": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damaged_file_of_a_store_is_made_again_to_the_same_bytes(
    features: Path, again: Extraction, damage: str
) -> None:
    folder = store(features, "video")
    before, untouched = contents(folder), identities(folder)
    held = {"shard-00000.h5": ["v0", "v1", "v2"], "shard-00001.h5": ["v3", "v4", "v5"], "shard-00002.h5": ["v6", "v7"]}
    for path in sorted(before):
        if path.name == ".lock":
            continue
        again.asked.clear()
        DAMAGE[damage](path)
        assert path in {problem.file for problem in verify_store(folder)}
        report = mend(folder)
        (video,) = report.stores
        assert report.complete
        assert again.asked == held.get(path.name, [])
        assert video.extracted == len([vid for vid in again.asked if vid != "v2"])
        assert video.rebuilt == (() if path.name in held else (path.name,))
        assert contents(folder) == before
        now = identities(folder)
        assert {p: i for p, i in now.items() if p != path} == {p: i for p, i in untouched.items() if p != path}
        untouched = now
    assert verify_features(features) == []
    asides = [path.name for path in folder.glob("damaged-*")]
    assert len(asides) == (7 if damage == "a folder" else 0)  # kept, whatever they are


def test_everything_damaged_at_once_is_made_again_as_long_as_one_shard_has_the_settings(
    features: Path, again: Extraction
) -> None:
    before = contents(features)
    for kind in ("video", "text"):
        folder = store(features, kind)
        for name in ("store.json", "index.parquet", "failures.parquet", "shard-00000.h5", "shard-00001.h5"):
            flip(folder / name)
        (folder / "shard-00002.h5").unlink()
        flip(folder / "shard-00003.h5") if kind == "text" else None
    report = mend(features)
    remove_aside(features)
    assert contents(features) == before
    # nothing tells any more that v2 had failed before
    assert [failure.id for mended in report.stores for failure in mended.lost] == ["v2"]


def test_a_lost_plan_costs_nothing_as_long_as_the_index_tells_what_was_where(features: Path, again: Extraction) -> None:
    before, folder = contents(features), store(features, "video")
    (folder / "plan.parquet").unlink()
    flip(folder / "shard-00000.h5", 0.05)
    assert mend(features).complete
    assert sorted(again.asked) == ["v0", "v1", "v2"]
    after = contents(features)
    assert {p.name for p in before if before[p] != after[p]} <= {"plan.parquet", "shard-00000.h5"}  # but for the order
    assert verify_features(features) == []


def test_what_a_shard_held_of_which_nothing_tells_is_what_no_other_shard_has(features: Path, again: Extraction) -> None:
    folder = store(features, "text")
    for name in ("plan.parquet", "index.parquet"):
        (folder / name).unlink()
    flip(folder / "shard-00001.h5", 0.05)
    assert mend(features).complete
    assert again.asked == ["v2-1", "v3-0", "v3-1", "v4-0", "v4-1"]
    assert len(FeatureStore.open(folder)) == 17
    assert verify_features(features) == []


def test_sound_features_are_left_alone(features: Path, again: Extraction) -> None:
    before, untouched = contents(features), identities(features)
    report = mend(features)
    assert report.complete
    assert [(s.rebuilt, s.extracted, s.lost) for s in report.stores] == [((), 0, ())] * 2
    assert (contents(features), identities(features), again.asked) == (before, untouched, [])


def test_a_repair_killed_at_any_moment_is_ended_by_the_next_one(
    features: Path, again: Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store(features, "video")
    whole = contents(folder)
    flip(folder / "shard-00001.h5")
    flip(folder / "store.json")
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
            mend(folder)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert mend(folder).complete
        remove_aside(folder)  # of a repair that was killed when all was done but that
        assert contents(folder) == whole
        moment += 1
    assert moment > 10
    assert contents(folder) == whole


def test_videos_that_are_gone_are_named_and_the_rest_of_their_shard_comes_back(
    features: Path, again: Extraction
) -> None:
    folder = store(features, "video")
    whole = (folder / "shard-00001.h5").read_bytes()
    flip(folder / "shard-00001.h5")
    (features.parent / "videos/v4.mp4").unlink()
    report = mend(features)
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
    features: Path, again: Extraction, tmp_path: Path, videos: str
) -> None:
    (tmp_path / "empty").mkdir()
    flip(store(features, "video") / "shard-00001.h5")
    before = contents(features)
    report = repair(features, Means(videos=tmp_path / videos), "0")
    assert "shard-00001.h5" in str(report.stores[1].problem)
    assert "--videos DIR" in str(report.stores[1].problem)
    assert contents(features) == before


def test_a_damaged_manifest_is_told_and_needed_for_sentences_alone(features: Path, again: Extraction) -> None:
    whole = contents(features)
    flip(features / "manifest.parquet")
    for kind in ("video", "text"):
        flip(store(features, kind) / "shard-00001.h5")
    (problem, *_) = verify_features(features)
    assert problem.file == features / "manifest.parquet"
    report = mend(features)
    text, video = report.stores
    assert "manifest.parquet, which says what the sources are, cannot be read" in str(text.problem)
    assert (video.extracted, video.problem) == (3, None)
    assert [problem.file for problem in report.manifests] == [features / "manifest.parquet"]
    (features / "manifest.parquet").write_bytes(whole[features / "manifest.parquet"])
    assert mend(features).complete
    assert contents(features) == whole


def test_flipped_bits_of_the_manifest_are_found(features: Path) -> None:
    path, rng = features / "manifest.parquet", random.Random(3)
    whole = path.read_bytes()
    for _ in range(100):
        data, bit = bytearray(whole), rng.randrange(8 * len(whole))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert [problem.file for problem in repair_module._manifest_problems(features, [store(features, "text")])] == [
            path
        ]
    path.write_bytes(whole)
    assert verify_features(features) == []


def test_a_store_without_settings_anywhere_says_what_to_do(features: Path, again: Extraction) -> None:
    folder = store(features, "video")
    for path in folder.iterdir():
        path.write_bytes(b"")
    before = contents(features)
    (video,) = (s for s in mend(features).stores if s.folder == folder)
    assert f"move {folder} away and run `rdmf features` again" in str(video.problem)
    assert contents(features) == before


def test_what_a_newer_shard_has_is_not_extracted_again(features: Path, again: Extraction) -> None:
    folder, (first, *_) = store(features, "video"), sorted((features.parent / "videos").iterdir())
    first.write_bytes(b"video that is longer now")
    videos = [Source(path.stem, str(path)) for path in sorted((features.parent / "videos").iterdir())]
    extract_store(folder, SPECS["video"], videos, Extraction())
    before = FeatureStore.open(folder).features("v0").values.copy()
    again.asked.clear()
    flip(folder / "shard-00000.h5")
    assert mend(features).complete
    assert again.asked == ["v1", "v2"]
    np.testing.assert_array_equal(FeatureStore.open(folder).features("v0").values, before)
    assert verify_store(folder) == []


def test_a_shard_whose_newer_features_are_lost_does_not_bring_older_ones_back(
    features: Path, again: Extraction
) -> None:
    """A changed video of the same size is told by its hash alone."""
    folder, path = store(features, "video"), features.parent / "videos/v0.mp4"
    path.write_bytes(b"VIDEO0")
    videos = [Source(p.stem, str(p)) for p in sorted(path.parent.iterdir())]
    assert extract_store(folder, SPECS["video"], videos, Extraction(), rehash=True).written == 1
    before = contents(features)
    again.asked.clear()
    flip(folder / "shard-00003.h5")
    assert mend(features).complete
    assert again.asked == ["v0"]
    assert contents(features) == before


def test_failures_that_no_shard_knows_outlive_a_repair(features: Path, again: Extraction) -> None:
    folder = store(features, "text")
    sources = [Source("../x", "a sentence")]
    extract_store(folder, SPECS["text"], sources, Extraction())
    before = contents(features)
    assert [(f.id, f.stage) for f in FeatureStore.open(folder).failures] == [("../x", "id")]
    for name in ("failures.parquet", "shard-00002.h5"):
        flip(folder / name)
    assert mend(features).complete
    assert contents(features) == before


IMPORTED_SPECS = {
    "video": StoreSpec("video", "slowfast", {"source": f"{IMPORTED} slowfast", "sha256": "3" * 64}, {}, 2.0, WIDTH),
    "text": SPECS["text"],
}


def test_what_was_imported_is_set_aside_named_and_comes_back_with_the_next_import(tmp_path: Path) -> None:
    features = make_features(tmp_path, IMPORTED_SPECS)
    whole, folder = contents(features), store(features, "video")
    flip(folder / "shard-00001.h5", 0.05)
    for _ in range(2):  # it says so until it is put right
        report = mend(features)
        (video,) = (s for s in report.stores if s.folder == folder)
        assert "import them again with `rdmf store import`" in str(video.problem)
        assert [failure.id for failure in video.lost] == ["v3", "v4", "v5"]
        assert set(FeatureStore.open(folder).ids) == {"v0", "v1", "v6", "v7"}
        told = {row["id"]: row for row in pq.read_table(folder / "failures.parquet").to_pylist()}
        assert {told[vid]["stage"] for vid in ("v3", "v4", "v5")} == {"damaged"}
        assert "imported" in told["v3"]["reason"]
        assert [problem.ids for problem in verify_store(folder)] == [("v3", "v4", "v5")]
    sources = [Source(path.stem, str(path)) for path in sorted((tmp_path / "videos").iterdir())]
    extract_store(folder, IMPORTED_SPECS["video"], sources, Extraction())
    (folder / "damaged-shard-00001.h5").unlink()
    assert contents(features) == whole


def test_the_encoder_must_be_the_very_one_that_made_the_features(tmp_path: Path) -> None:
    from rdmf.extract.extractors import TextExtraction, VideoExtraction

    video = VideoExtraction("swin_nano", None, 2.0).spec()
    text = TextExtraction("bert_nano").spec()
    assert extraction_for(video).spec() == video
    assert extraction_for(text).spec() == text
    other = {**video.weights, "sha256": "f" * 64}
    fed_differently = {**video.preprocessing, "frames": 4}
    for spec in (
        StoreSpec("video", "swin_nano", other, video.preprocessing, 2.0, video.dim),
        StoreSpec("video", "swin_nano", video.weights, fed_differently, 2.0, video.dim),
    ):
        with pytest.raises(ValueError, match=r"swin_nano here has .* or is fed differently; .* --video-weights FILE"):
            extraction_for(spec)
    local = StoreSpec("video", "swin_t", {"source": "local file my.pth", "sha256": "a"}, {}, 2.0, 768)
    with pytest.raises(ValueError, match=r"of a local file my\.pth; give it with --video-weights FILE"):
        extraction_for(local)
    with pytest.raises(NotComputable, match="were imported from slowfast, rdmf cannot compute them"):
        extraction_for(IMPORTED_SPECS["video"])


def test_real_videos_and_sentences_are_extracted_again_to_the_same_bytes(tmp_path: Path) -> None:
    from rdmf.manifests.demo.dataset import DemoConfig, make_demo
    from rdmf.pipeline.features import extract_features

    make_demo(tmp_path / "demo", DemoConfig(seed=3, videos={"train": 4}), workers=1)
    extract_features(
        "own", tmp_path / "demo/videos", tmp_path / "demo/annotations", tmp_path / "features", clip_seconds=1.0,
        video_encoder="swin_nano", text_encoder="bert_nano", workers="0",
    )  # fmt: skip
    before = contents(tmp_path / "features")
    for kind in ("video", "text"):
        flip(store(tmp_path / "features", kind) / "shard-00001.h5")
    report = repair(tmp_path / "features", Means(videos=tmp_path / "demo/videos"), "0")
    assert report.complete
    assert all(s.extracted for s in report.stores)
    assert contents(tmp_path / "features") == before


def test_the_commands_say_what_is_wrong_and_mend_it(
    features: Path, again: Extraction, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from rdmf import cli

    def rdmf(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["rdmf", "store", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out + captured.err

    assert rdmf("verify", features) == (0, f"{features}: every bit is as it was written\n")
    flip(store(features, "video") / "shard-00001.h5")
    (store(features, "video") / "index.parquet").unlink()
    code, told = rdmf("verify", features)
    assert code == 1
    assert "shard-00001.h5 is damaged" in told
    assert "(it holds v3, v4, v5)" in told
    assert "index.parquet is not there" in told
    code, told = rdmf("repair", features, "--videos", features.parent / "videos", "--workers", 0)
    assert (code, "made again: index.parquet, the features of 3 sources" in told) == (0, True), told
    assert rdmf("verify", store(features, "video"))[0] == 0
    assert rdmf("verify", features.parent / "videos")[0] == 1
    assert rdmf("repair", features, "--workers", "many")[0] == 2


def test_what_the_system_does_not_let_read_is_not_taken_for_damage(
    features: Path, again: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = contents(features), Path.open

    def broken_disk(path: Path, *mode: str, **more: str):
        if path.name == "shard-00001.h5":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *mode, **more)

    monkeypatch.setattr(Path, "open", broken_disk)
    assert any("cannot be read (Input/output error)" in problem.what for problem in verify_features(features))
    with pytest.raises(OSError, match=r"shard-00001\.h5 cannot be read \(Input/output error\)"):
        mend(features)
    monkeypatch.undo()
    assert contents(features) == before
