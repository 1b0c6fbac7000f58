"""Charades-STA (Gao et al., ICCV 2017, arXiv 1705.02101): 12,408 train and 3,720 test sentences on home
videos of 30 s.

Two forms, and a folder may hold either. The raw one, preferred: charades_sta_{train,test}.txt with lines of
`VID start end##sentence`, and the lengths of the videos in the `length` column of
Charades_v1_{train,test}.csv. Every line becomes a query, 'charades-test-00017' by its number; windows past
the end of the video are clipped, the four reversed ones of train dropped, all reported. Else
charades_{train,test}_release.jsonl, the common form (see `jsonl`), which left those four out. There is no
validation split: carve one from train (see `split`), never pick on test.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from .jsonl import read_files, read_jsonl, split_files
from .records import (
    MAX_SECONDS,
    absent,
    located,
    moments_inside,
    number,
    problem,
    read_text,
    sentence,
    shown,
    text_lines,
)
from .schema import AnnotationError, Finding, Manifest, Query, Video

CLIP_SECONDS = 1.0
SENTENCES = {"train": "charades_sta_train.txt", "test": "charades_sta_test.txt"}
LENGTHS = {"train": "Charades_v1_train.csv", "test": "Charades_v1_test.csv"}
_LINE = re.compile(r"(\S+)\s+(\S+)\s+(\S+?)\s*##(.*)")


def read_charades(path: str | Path) -> Manifest:
    """Read the splits that a folder has, in either form, or one of the files.

    Raises AnnotationError where there is none, or for a line that cannot be used.
    """
    path = Path(path)
    if path.name in SENTENCES.values() and not path.is_dir():
        return _read_raw(path.parent, {split: path for split, name in SENTENCES.items() if name == path.name})
    if path.is_file():
        return read_jsonl(path, "charades", CLIP_SECONDS)
    files = {split: path / name for split, name in SENTENCES.items() if (path / name).exists()}
    if files:
        return _read_raw(path, files)
    try:
        files = split_files(path, "charades")
    except AnnotationError as error:
        if any(path.glob("charades*.jsonl")):
            raise
        wanted = "charades_sta_train.txt, charades_sta_test.txt and the Charades_v1_*.csv (or charades_*.jsonl)"
        raise absent(path, wanted) from error
    return read_files(files, "charades", CLIP_SECONDS)


def _read_raw(folder: Path, files: dict[str, Path]) -> Manifest:
    lengths: dict[str, float] = {}
    for name in LENGTHS.values():
        if (folder / name).exists():
            lengths |= read_lengths(folder / name)
    videos: dict[str, Video] = {}
    queries: list[Query] = []
    findings: list[Finding] = []
    for split, file in files.items():
        unknown: set[str] = set()
        for line, text in text_lines(file):
            source, qid = f"{file.name}:{line}", f"charades-{split}-{line:05d}"
            with located(source):
                vid, pair, query = _parse(text, source)
                if vid not in videos:
                    videos[vid] = Video(vid, lengths.get(vid))
                windows, found = moments_inside([pair], lengths.get(vid), qid, source)
                queries.append(Query(qid, vid, query, split, windows))
            findings += found
            if vid not in lengths:
                unknown.add(vid)
        if unknown:
            findings.append(_no_length(folder, file.name, LENGTHS[split], unknown))
    return Manifest("charades", CLIP_SECONDS, videos, tuple(queries), tuple(findings))


def _no_length(folder: Path, file: str, lengths: str, unknown: set[str]) -> Finding:
    why = "does not have them" if (folder / lengths).exists() else "is absent"
    few = ", ".join(sorted(unknown)[:3]) + (", ..." if len(unknown) > 3 else "")
    detail = f"{lengths} {why}: the lengths of {len(unknown)} videos ({few}) count once they are measured"
    return Finding(file, "", "no duration", detail)


def _parse(text: str, source: str) -> tuple[str, tuple[float, float], str]:
    """(video, (start, end) in seconds, sentence) of 'VID start end##sentence'."""
    match = _LINE.fullmatch(text)
    if not match:
        raise problem(source, "'VID start end##sentence'", shown(text))
    return match[1], (_seconds(match[2], source), _seconds(match[3], source)), sentence(match[4], source)


def _seconds(text: str, source: str, low: float = -MAX_SECONDS) -> float:
    try:
        value = float(text)
    except ValueError:
        raise problem(source, "seconds as a number", shown(text)) from None
    return number(value, "seconds", source, low, MAX_SECONDS)


def read_lengths(file: Path) -> dict[str, float]:
    """The length in seconds of every video of a Charades_v1_*.csv."""
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""))
    lengths: dict[str, float] = {}
    try:
        missing = {"id", "length"} - set(rows.fieldnames or ())
        if missing:
            raise problem(f"{file.name}:1", "the columns id and length", f"none named {' or '.join(sorted(missing))}")
        for row in rows:
            source = f"{file.name}:{rows.line_num}"
            length = _seconds(row["length"] or "", source, low=0)
            if length == 0:
                raise problem(source, "a length above 0 s", "0")
            lengths[row["id"]] = length
    except csv.Error as error:
        raise problem(f"{file.name}:{rows.line_num}", "a row of a CSV file", f"{error}") from None
    return lengths
