"""Annotation files as checked values: bytes to lines, lines to JSON, JSON to text, numbers and windows.

Files come from anywhere, so nothing is believed. Every complaint is an AnnotationError of one sentence that
names the file and line: 'train.jsonl:17: expected a query as text, got 5'. White space in sentences is
collapsed, a byte order mark and CRLF are accepted, blank lines are skipped, everything else unexpected is
refused.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .schema import AnnotationError, Finding, Moment, fit_windows

MAX_SECONDS = 1e7  # 115 days: more is a mistake in the unit, and would ask for millions of clips

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def shown(value: object) -> str:
    """A value as it appears in a complaint: its repr, kept short."""
    return _short.repr(value)


def problem(source: str, expected: str, got: str, advice: str = "") -> AnnotationError:
    """The one form of complaint."""
    return AnnotationError(f"{source}: expected {expected}, got {got}" + (f"; {advice}" if advice else ""))


def absent(folder: Path, files: str) -> AnnotationError:
    """The complaint about a folder without the files that a reader wants; `files` names them in words."""
    got = "none of them" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
    return problem(str(folder), f"a folder with {files}", got, "put them there, or name the folder they are in")


@contextmanager
def located(source: str) -> Iterator[None]:
    """Put the file and line before what the schema says about a value."""
    try:
        yield
    except AnnotationError:
        raise
    except ValueError as error:
        raise AnnotationError(f"{source}: {error}") from error


def read_text(path: Path) -> str:
    """A whole file as text. Raises AnnotationError unless it is a readable, not empty file of UTF-8."""
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise problem(str(path), "a file", "a folder") from None
    except FileNotFoundError:
        raise problem(str(path), "a file", "nothing of that name", "put it there") from None
    except OSError as error:
        raise problem(str(path), "a readable file", str(error.strerror)) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"the byte 0x{data[error.start]:02x}"
        raise problem(f"{path.name}:{line}", "UTF-8 text", byte, "save the file as UTF-8") from None
    if not text.strip():
        raise problem(path.name, "annotations", "an empty file", "put the complete file there")
    return text


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of every line that is not blank. Only newlines end one: JSON may hold U+2028."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line := line.strip():
            yield number, line


def _refuse_constant(name: str) -> None:
    raise ValueError(f"expected finite numbers, got {name}; write a number, or leave the value out")


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"expected every key once, got {shown(twice)} twice")
    return values


def parse_json(text: str, name: str, line: int = 1) -> Any:
    """One JSON value, on `line` of the file `name`. NaN, Infinity and repeated keys are refused."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct_keys)
    except json.JSONDecodeError as error:
        where = f"{name}:{line + error.lineno - 1}"
        got = f"{error.msg!r} at column {error.colno}"
        raise problem(where, "valid JSON", got, "the line is damaged or cut off: write it again") from None
    except RecursionError:
        raise problem(f"{name}:{line}", "a flat JSON object", "one nested too deeply") from None
    except ValueError as error:  # our two hooks, and integers of thousands of digits
        raise AnnotationError(f"{name}:{line}: {error}") from None


def number(value: object, what: str, source: str, low: float, high: float) -> float:
    """A JSON number from low to high as float; booleans, text, NaN and infinities are refused."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise problem(source, f"{what} as a number from {low:g} to {high:g}", shown(value))
    return float(value)


def identifier(value: object, what: str, source: str) -> str:
    """An id: text, or an integer that is taken as its digits."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise problem(source, f"{what} as text or an integer", shown(value))
    return str(value)


def sentence(value: object, source: str) -> str:
    """A sentence with runs of white space made single spaces."""
    if not isinstance(value, str):
        raise problem(source, "a query as text", shown(value))
    return " ".join(value.split())


def listed(value: object, what: str, source: str) -> list[Any]:
    """A JSON list."""
    if not isinstance(value, list):
        raise problem(source, f"{what} as a list", shown(value))
    return value


def window_pair(value: object, source: str) -> tuple[float, float]:
    """A [start, end] of numbers, in whatever order; `moments_inside` decides what becomes of it."""
    if not isinstance(value, list) or len(value) != 2:
        raise problem(source, "a window as [start, end] in seconds", shown(value))
    start, end = (number(v, "seconds of a window", source, -MAX_SECONDS, MAX_SECONDS) for v in value)
    return start, end


def moments_inside(
    pairs: Iterable[tuple[float, float]], duration_s: float | None, qid: str, source: str
) -> tuple[tuple[Moment, ...], list[Finding]]:
    """[start, end] pairs as moments of a video of `duration_s` (None: unknown, only the start is known to be
    0).

    What sticks out is clipped; what is reversed, empty or wholly outside is dropped. Either comes back as a
    finding.
    """
    moments, findings = [], []
    for start, end in pairs:
        if end <= start:
            findings.append(Finding(source, qid, "dropped window", f"[{start:g}, {end:g}] s is empty or reversed"))
        elif end <= 0:
            findings.append(Finding(source, qid, "dropped window", f"[{start:g}, {end:g}] s ends before the video"))
        else:
            if start < 0:
                findings.append(Finding(source, qid, "clipped", f"[{start:g}, {end:g}] s starts before the video"))
            moments.append(Moment(max(start, 0.0), end))
    if duration_s is None:
        return tuple(moments), findings
    kept, fitted = fit_windows(moments, duration_s, qid, source)
    return kept, findings + fitted


def note_duration(durations: dict[str, float | None], vid: str, duration_s: float | None, source: str) -> list[Finding]:
    """Enter what one record says of a video's length. The first counts; another one is a finding."""
    known = durations.setdefault(vid, duration_s)
    if known is None:
        durations[vid] = duration_s
    elif duration_s is not None and duration_s != known:
        detail = f"{duration_s:g} s for video {vid}, which had {known:g} s before; the first counts"
        return [Finding(source, "", "changed duration", detail)]
    return []


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object of a .jsonl file."""

    file: str
    line: int
    values: dict[str, Any]

    @property
    def source(self) -> str:
        """'train.jsonl:17'"""
        return f"{self.file}:{self.line}"

    def get(self, key: str) -> Any:
        """The value of a key, None where it is absent or null."""
        return self.values.get(key)

    def required(self, key: str) -> Any:
        """The value of a key that must be there."""
        value = self.values.get(key)
        if value is None:
            have = ", ".join(map(str, self.values)) or "an empty object"
            raise problem(self.source, f"the key {key!r}", shown(have) if len(have) > 60 else have)
        return value


def json_records(path: Path) -> Iterator[Record]:
    """The objects of a .jsonl file, one a line."""
    for line, text in text_lines(path):
        value = parse_json(text, path.name, line)
        if not isinstance(value, dict):
            raise problem(f"{path.name}:{line}", "a JSON object {...}", shown(value))
        yield Record(path.name, line, value)
