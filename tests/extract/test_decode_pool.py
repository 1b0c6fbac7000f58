"""Decoding in child processes: the same clips as here, and no file or decoder that ends the run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rdmf.extract.clips import clip_bounds, clip_frame_times
from rdmf.extract.decode_pool import ATTEMPTS, Clip, ClipForm, DecodeLimits, DecodePool, Ended, Failed, Opened, Video
from rdmf.extract.encoders import load_video_encoder
from rdmf.extract.extractors import VideoExtraction, VideoExtractor
from rdmf.extract.frames import open_video, read_clips
from rdmf.extract.layout import Item, Source
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import extract_store
from rdmf.extract.workers import Workers

FORM = ClipForm(clip_seconds=1.0, frames=4, span_s=1.0, size=32)

# The real program with a decoder that goes wrong, for real, by the name of the file
FAULTY = """
import ctypes, os, signal, sys, time
from pathlib import Path
import numpy as np
from rdmf.extract import decode_process, decoders

real_open, real_picture = decode_process.open_video, decoders.PyAVFrames.picture
decoders.DecordFrames.__init__ = lambda self, *_: (_ for _ in ()).throw(decoders.DecoderFailed("not here"))

def open_video(path):
    if path.name.startswith("segfault"):
        ctypes.string_at(0)
    if path.name.startswith("once") and not (mark := path.with_suffix(".tried")).exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if path.name.startswith("sleeps"):
        time.sleep(1000)
    if path.name.startswith("loops"):
        ctypes.PyDLL(None).pause()  # holds the interpreter, as a decoder that never comes back
    if path.name.startswith("explodes"):
        hoard = []
        while True:
            hoard.append(np.ones(1 << 24))
    if path.name.startswith("babbles"):
        os.write(PIPE, b"{ no message\\n")
    if path.name.startswith("exits"):
        sys.exit("what an encoder library may do")
    return real_open(path)

def picture(self, frame):
    if self._path.name.startswith("late") and frame > 20:
        os.abort()
    return real_picture(self, frame)

PIPE = os.dup(1)
decode_process.open_video, decoders.PyAVFrames.picture = open_video, picture
decode_process.main()
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    script = tmp_path_factory.mktemp("faulty") / "faulty.py"
    script.write_text(FAULTY)
    return (str(script),)


def sources(paths: Sequence[Path]) -> list[Source]:
    return [Source(path.stem, str(path)) for path in paths]


def named(video: Path, folder: Path, *names: str) -> list[Path]:
    return [Path(shutil.copy(video, folder / f"{name}.mp4")) for name in names]


def run(pool: DecodePool, paths: Sequence[Path]) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, str]]]:
    """Clips of the videos that ended, stage and reason of those that failed; checks the order of events."""
    clips: dict[Video, list[np.ndarray]] = {}
    ended, failed = {}, {}
    for event in pool.decode(sources(paths)):
        match event:
            case Opened(video):
                clips[video] = []
            case Clip(video, number, pixels):
                assert number == len(clips[video])
                clips[video].append(pixels.copy())
            case Ended(video):
                assert len(clips[video]) == video.clips
                ended[video.source.id] = np.stack(clips[video])
            case Failed(source, stage, reason):
                failed[source.id] = (stage, reason)
    assert len(ended) + len(failed) == len(paths)
    return ended, failed


def decoded_here(path: Path, form: ClipForm = FORM) -> np.ndarray:
    with open_video(path) as reader:
        duration_s = reader.info.duration_s
        times = clip_frame_times(clip_bounds(duration_s, form.clip_seconds), form.frames, form.span_s, duration_s)
        return np.stack(list(read_clips(reader, times, form.size)))


@pytest.mark.parametrize(("processes", "slots"), [(1, 1), (2, 3), (3, 50)])
def test_the_clips_are_those_of_this_process(short_videos: list[Path], processes: int, slots: int) -> None:
    pool = DecodePool(FORM, DecodeLimits(processes), slots)
    for _ in range(2):  # the second call finds the processes of the first
        ended, failed = run(pool, short_videos)
        assert failed == {}
        for path in short_videos:
            np.testing.assert_array_equal(ended[path.stem], decoded_here(path))
    pool.close()
    assert pool.cpu_s > 0


def test_a_decoder_that_dies_costs_its_video_and_nothing_else(
    short_videos: list[Path], faulty: tuple[str, ...], tmp_path: Path
) -> None:
    bad = named(short_videos[5], tmp_path, "segfault", "late", "exits", "babbles")
    pool = DecodePool(FORM, DecodeLimits(2), 2, faulty)
    ended, failed = run(pool, [short_videos[0], *bad, short_videos[1], short_videos[2]])
    pool.close()
    assert ended.keys() == {"v0", "v1", "v2"}
    for path in short_videos[:3]:
        np.testing.assert_array_equal(ended[path.stem], decoded_here(path))
    assert {id_: stage for id_, (stage, _) in failed.items()} == {path.stem: "crash" for path in bad}
    assert failed["segfault"][1] == f"its decoder died (SIGSEGV) each of {ATTEMPTS} times"
    assert "SIGABRT" in failed["late"][1]


def test_a_decoder_that_was_killed_once_is_tried_again(
    short_videos: list[Path], faulty: tuple[str, ...], tmp_path: Path
) -> None:
    (video,) = named(short_videos[3], tmp_path, "once")
    pool = DecodePool(FORM, DecodeLimits(), 2, faulty)
    ended, failed = run(pool, [video])
    pool.close()
    assert failed == {}
    np.testing.assert_array_equal(ended["once"], decoded_here(video))


def test_a_decoder_that_hangs_is_ended(short_videos: list[Path], faulty: tuple[str, ...], tmp_path: Path) -> None:
    bad = named(short_videos[0], tmp_path, "sleeps", "loops")
    pool = DecodePool(FORM, DecodeLimits(2, seconds=6), 2, faulty)
    ended, failed = run(pool, [*bad, short_videos[1]])
    pool.close()
    assert ended.keys() == {"v1"}
    assert failed == dict.fromkeys(("sleeps", "loops"), ("timeout", "its decoder gave nothing for 6 s"))


def test_a_decoder_that_takes_all_memory_fails_within_its_limit(
    short_videos: list[Path], faulty: tuple[str, ...], tmp_path: Path
) -> None:
    (bad,) = named(short_videos[0], tmp_path, "explodes")
    pool = DecodePool(FORM, DecodeLimits(memory_gib=0.5), 2, faulty)
    ended, failed = run(pool, [bad, short_videos[1]])
    pool.close()
    assert ended.keys() == {"v1"}
    assert failed == {"explodes": ("memory", "decoding takes more than 0.5 GiB")}


def test_a_program_that_cannot_start_blames_no_video(short_videos: list[Path], tmp_path: Path) -> None:
    pool = DecodePool(FORM, DecodeLimits(), 2, ("-c", "import no_such_module"))
    with pytest.raises(OSError, match="cannot start here: ModuleNotFoundError: No module named 'no_such_module'"):
        run(pool, short_videos[:1])


def test_nothing_outlives_a_parent_that_is_killed(
    short_videos: list[Path], faulty: tuple[str, ...], tmp_path: Path
) -> None:
    (video,) = named(short_videos[0], tmp_path, "sleeps")
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\nfrom rdmf.extract.decode_pool import *\nfrom rdmf.extract.layout import Source\n"
        "pool = DecodePool(ClipForm(1.0, 4, 1.0, 32), DecodeLimits(), 2, (sys.argv[1],))\n"
        "list(pool.decode([Source('v', sys.argv[2])]))\n"
    )
    parent = subprocess.Popen([sys.executable, script, *faulty, video])
    children: list[int] = []
    until = time.monotonic() + 30
    while not children and time.monotonic() < until:
        children = [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
        time.sleep(0.05)
    time.sleep(2)  # into the decoder
    parent.kill()
    parent.wait()
    (child,) = children
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_call_that_is_left_early_leaves_the_pool_usable(short_videos: list[Path]) -> None:
    pool = DecodePool(FORM, DecodeLimits(2), 1)
    events = pool.decode(sources(short_videos))
    for _ in range(3):
        next(events)
    events.close()
    ended, failed = run(pool, short_videos)
    pool.close()
    assert failed == {}
    np.testing.assert_array_equal(ended["v4"], decoded_here(short_videos[4]))


@pytest.mark.parametrize("limits", [{"processes": 0}, {"memory_gib": 0}, {"memory_gib": float("inf")}, {"seconds": -1}])
def test_limits_that_make_no_sense_are_refused(limits: dict) -> None:
    with pytest.raises(ValueError, match="expected at least 1 decoding process"):
        DecodeLimits(**limits)


def test_features_are_those_of_each_video_alone_whatever_shared_its_batches(short_videos: list[Path]) -> None:
    encoder = load_video_encoder("swin_nano")
    together = VideoExtractor(encoder, 1.0, DecodeLimits(3))
    found = {outcome.id: outcome for outcome in together(sources(short_videos))}
    together.pool.close()
    alone = VideoExtractor(encoder, 1.0, DecodeLimits())
    sampling = encoder.sampling
    form = ClipForm(1.0, sampling.frames, sampling.span_s, sampling.size)
    for path in short_videos:
        (want,) = alone(sources([path]))
        got = found[path.stem]
        assert isinstance(got, Item)
        assert isinstance(want, Item)
        np.testing.assert_array_equal(got.values, want.values)  # to the bit: a resumed run mixes clips otherwise
        np.testing.assert_array_equal(got.times_s, want.times_s)
        np.testing.assert_allclose(got.values, encoder.encode(decoded_here(path, form)), rtol=1e-5, atol=1e-6)
        assert (got.duration_s, got.source_sha256) == (want.duration_s, want.source_sha256)
    alone.pool.close()


@pytest.mark.slow
def test_killers_end_in_the_failures_of_the_store_and_are_tried_again_on_request(
    short_videos: list[Path], faulty: tuple[str, ...], tmp_path: Path
) -> None:
    bad = named(short_videos[2], tmp_path, "segfault", "sleeps", "once")
    given = sources([*short_videos[:3], *bad])
    limits = DecodeLimits(seconds=8)
    extraction = VideoExtraction("swin_nano", None, 1.0, limits=limits, program=faulty)
    told: list[int] = []
    with Workers(2) as workers:
        receipt = extract_store(
            tmp_path / "s", extraction.spec(), given, extraction, workers, on_progress=lambda at: told.append(at.done)
        )
    assert (receipt.written, receipt.failed) == (4, 2)
    assert told == [0, 1, 2, 3, 4, 5, 6]  # each video as soon as it is done
    store = FeatureStore.open(tmp_path / "s")
    assert {f.id: f.stage for f in store.failures} == {"segfault": "crash", "sleeps": "timeout"}
    assert store.verify() == []
    assert not list((tmp_path / "s").glob(".part-*"))
    extraction = VideoExtraction("swin_nano", None, 1.0)  # the decoder was mended
    assert extract_store(tmp_path / "s", extraction.spec(), given, extraction).shards == 0
    receipt = extract_store(tmp_path / "s", extraction.spec(), given, extraction, retry_failures=True)
    assert (receipt.written, receipt.reused, receipt.failed) == (2, 4, 0)


def test_a_run_that_ends_in_the_middle_keeps_the_videos_it_has_done(short_videos: list[Path], tmp_path: Path) -> None:
    extraction, log = VideoExtraction("swin_nano", None, 1.0), tmp_path / "log"

    def make(stop_after: int):
        def until(given):
            for i, outcome in enumerate(extraction()(given)):
                if i == stop_after:
                    raise KeyboardInterrupt
                with log.open("a") as file:
                    file.write(f"{outcome.id}\n")
                yield outcome

        return lambda: until

    given = sources(short_videos)
    with pytest.raises(KeyboardInterrupt):
        extract_store(tmp_path / "s", extraction.spec(), given, make(4), shard_items=6)
    assert not list((tmp_path / "s").glob("shard-*"))
    receipt = extract_store(tmp_path / "s", extraction.spec(), given, make(99), shard_items=6)
    assert receipt.written == 6
    assert sorted(log.read_text().split()) == [path.stem for path in short_videos]  # each once
    extract_store(tmp_path / "whole", extraction.spec(), given, extraction, shard_items=6)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "s" / path.name).read_bytes(), path.name
    assert {p.name for p in (tmp_path / "s").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}
