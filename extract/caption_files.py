"""Caption files, one per video, in a folder or a zip file: the caption of each clip in order.

They are named `<video id>.jsonl`, `.json` or `.txt`. A .txt has a caption a line; a .jsonl an object a line, its
caption under 'description', 'caption' or 'text'; a .json a list of such objects, or of texts. Files come from
anywhere: names are compared and never joined to a path, a zip file is read in place and never further than
MAX_BYTES into one of its files, and what cannot be used is one sentence.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from ..manifests.records import parse_json, shown

ENDINGS = (".jsonl", ".json", ".txt")
CAPTION_KEYS = ("description", "caption", "text")
MAX_BYTES = 8 << 20
"""Of one video's captions: a day of 2 s clips at 190 bytes each. A zip file may unpack to any length."""
UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Captions(NamedTuple):
    """What `read_captions` found of the videos it was asked for."""

    read: dict[str, list[str]]
    """The captions of a video in the order of its clips; one may be empty."""
    unusable: dict[str, str]
    """Why a video's captions cannot be used."""
    missing: list[str]
    """Videos without a file."""


def read_captions(place: Path, vids: Sequence[str]) -> Captions:
    """The captions of the videos `vids` in `place`, a folder or a zip file. Raises ValueError for anything else."""
    found = Captions({}, {}, [])
    with _opened(place) as files:
        held: dict[str, list[_File]] = {vid: [] for vid in vids}
        for file in files:
            vid, ending = os.path.splitext(PurePosixPath(file.name).name)
            if vid in held and ending.lower() in ENDINGS:
                held[vid].append(file)
        for vid, candidates in held.items():
            if not candidates:
                found.missing.append(vid)
                continue
            try:
                found.read[vid] = _read(candidates)
            except ValueError as error:
                found.unusable[vid] = str(error)
    return found


class _File(NamedTuple):
    """A file of a folder or a zip file."""

    name: str
    open: Callable[[], IO[bytes]]


@contextmanager
def _opened(place: Path) -> Iterator[list[_File]]:
    if place.is_dir():
        with os.scandir(place) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
        yield [_File(name, partial(_stored, place / name)) for name in names]
        return
    if not place.is_file():
        raise ValueError(f"expected captions at {place}, a folder or a zip file, there is nothing of that name")
    try:
        archive = zipfile.ZipFile(place)
    except UNREADABLE as error:
        raise ValueError(f"expected captions in a folder or a zip file, {place} is neither ({error})") from None
    with archive:
        yield [_File(i.filename, partial(_unpack, archive, i)) for i in archive.infolist() if not i.is_dir()]


def _stored(path: Path) -> IO[bytes]:
    return path.open("rb")


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile("it is neither stored nor deflated")  # LZMA, say, asks for memory as it likes
    return archive.open(info)


def _read(files: list[_File]) -> list[str]:
    """The captions in the one file of a video. Raises ValueError where they cannot be read."""
    if len(files) > 1:
        raise ValueError(f"expected one caption file, got {' and '.join(shown(file.name) for file in files[:2])}")
    name = files[0].name
    try:
        with files[0].open() as stream:
            data = stream.read(MAX_BYTES + 1)
    except UNREADABLE as error:
        raise ValueError(f"{name} cannot be read: {str(error) or type(error).__name__}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"expected captions of at most {MAX_BYTES >> 20} MB in {name}, got more")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8 text in {name}, got the byte 0x{data[error.start]:02x}") from None
    return _parse(text, name)


def _parse(text: str, name: str) -> list[str]:
    if name.lower().endswith(".json"):
        values = parse_json(text, name)
        if not isinstance(values, list):
            raise ValueError(f"{name}: expected a list of captions, got {shown(values)}")
        return [_caption(value, clip, f"{name}: caption {clip + 1}") for clip, value in enumerate(values)]
    lines = text.removesuffix("\n").split("\n") if text else []  # only newlines end one: JSON may hold U+2028
    if name.lower().endswith(".txt"):
        return [_caption(line, clip, f"{name}:{clip + 1}") for clip, line in enumerate(lines)]
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    return [_caption(parse_json(line, name, n), clip, f"{name}:{n}") for clip, (n, line) in enumerate(numbered)]


def _caption(value: object, clip: int, source: str) -> str:
    """A text, or an object with one under a known key; a 'moment' beside it is the number of the clip, from 0."""
    if isinstance(value, dict):
        if value.get("moment", clip) != clip:
            raise ValueError(f"{source}: expected the caption of moment {clip}, got moment {shown(value['moment'])}")
        value = next((value[key] for key in CAPTION_KEYS if key in value), value)
    if not isinstance(value, str):
        keys = " or ".join(map(repr, CAPTION_KEYS))
        raise ValueError(f"{source}: expected a caption as text, or an object with {keys}, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{source}: expected whole characters, got {shown(value)}") from None
    return " ".join(value.split())
