"""Finding the video files of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdmf.extract.video_files import find_videos


def test_files_are_found_by_their_name_without_the_ending(tmp_path: Path) -> None:
    for name in ("abc_60.0_210.0.mp4", "-x.MKV", "notes.txt", "other.mp4", "a.b.webm", "noending"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    found = find_videos(tmp_path, ["abc_60.0_210.0", "-x", "a.b", "notes", "folder", "noending", "absent"])
    names = {"-x": "-x.MKV", "a.b": "a.b.webm", "abc_60.0_210.0": "abc_60.0_210.0.mp4"}
    assert found == {vid: tmp_path / name for vid, name in names.items()}


def test_an_id_cannot_reach_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").touch()
    inner = tmp_path / "inner"
    inner.mkdir()
    assert find_videos(inner, ["../secret", str(tmp_path / "secret"), "secret"]) == {}


def test_a_link_to_a_file_counts_and_a_dangling_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "real.bin").touch()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "real.bin")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "gone")
    assert set(find_videos(tmp_path, ["a", "b"])) == {"a"}


def test_of_several_files_the_preferred_ending_is_taken_and_said(tmp_path: Path) -> None:
    for name in ("a.webm", "a.mp4", "a.MP4", "b.avi"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"1 videos have several files .*a\.MP4 and a\.mp4 and a\.webm"):
        found = find_videos(tmp_path, ["a", "b"])
    assert found == {"a": tmp_path / "a.MP4", "b": tmp_path / "b.avi"}


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a folder of videos, got .*nowhere"):
        find_videos(tmp_path / "nowhere", ["a"])
