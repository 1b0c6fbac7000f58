"""The profile of an extraction: what two rates allow together, and rates that are measured at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdmf.extract.extractors import VideoExtraction
from rdmf.extract.layout import Source
from rdmf.extract.profile import Profile, profile
from rdmf.extract.workers import Workers


@pytest.mark.parametrize(
    ("decode", "encode", "workers", "decoders", "cores", "own", "possible"),
    [
        (30.0, 10.0, 1, 4, 8, True, 10.0),  # a GPU encodes: the slower of the two
        (30.0, 60.0, 2, 1, 2, False, 20.0),  # all cores do both: 1 / (1/30 + 1/60)
        (30.0, 60.0, 1, 1, 2, False, 30.0),  # a core for each: the slower of the two
        (30.0, 30.0, 3, 1, 4, False, 20.0),  # 0.2 core seconds a clip on 4 cores
    ],
)
def test_the_possible_rate_follows_from_the_two_and_the_cores(
    decode: float, encode: float, workers: int, decoders: int, cores: int, own: bool, possible: float
) -> None:
    measured = Profile(decode, encode, 9.0, workers, decoders, cores, own)
    assert measured.possible == pytest.approx(possible)
    assert measured.reached == pytest.approx(9.0 / possible)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_rate_is_measured_by_every_worker(short_videos: list[Path], workers: int) -> None:
    sources = [Source(path.stem, str(path)) for path in short_videos]
    with Workers(workers) as crew:
        measured = profile(VideoExtraction("swin_nano", None, 1.0), sources, crew, seconds=0.5)
    assert measured.workers == max(1, workers)
    assert min(measured.decode, measured.encode, measured.end_to_end, measured.possible) > 0


def test_videos_of_which_none_decodes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"no video")
    with Workers(0) as crew, pytest.raises(ValueError, match="expected a video that decodes"):
        profile(VideoExtraction("swin_nano", None, 1.0), [Source("v", str(tmp_path / "v.mp4"))], crew, seconds=0.5)
