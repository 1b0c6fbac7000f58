"""The common form: one JSON object a line, as QVHighlights has it and most tools share; your own data too.

A record needs `vid` (the video's file name without ending) and `query`; the rest may be missing or null:

    {"vid": "kitchen", "query": "she opens the fridge", "relevant_windows": [[3.5, 9.0]]}

    qid                 integer or text; made of file and line, 'train-00017', where missing
    duration            seconds; unknown until the video is measured where missing
    relevant_windows    [[start, end], ...] in seconds; missing or null where the truth is not known
    relevant_clip_ids   clips that are scored, on the grid of `clip_seconds`
    saliency_scores     a row of annotators' scores from 0 to 4 for each of them
    clip_seconds        that grid; the reader's `clip_seconds` where missing
    label               instead of them: a row of annotators' scores for every clip (see `labels`)
    kind                'action', 'object', 'scene' or any word to report results by

Query ids are unique in a manifest: the first record keeps an id, a later one with the same id, of whatever
split, becomes '<qid>-<split>-<line>', and that is reported. 7 and "7" are the same id. The split of a record
is in the name of its file: train.jsonl, mine_val_release.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .labels import ZERO_TO_ONE, Labels, duration_of, saliency_of
from .records import (
    Record,
    absent,
    identifier,
    json_records,
    listed,
    located,
    moments_inside,
    note_duration,
    problem,
    sentence,
    shown,
    window_pair,
)
from .schema import Finding, Manifest, Query, Video

SPLITS = ("train", "val", "test")
_SPLIT_IN_NAME = re.compile(r"(?:^|[_.-])(train|val|test)(?=[_.-]|$)")


def read_jsonl(
    path: str | Path,
    dataset: str = "own",
    clip_seconds: float = 2.0,
    labels: Labels = ZERO_TO_ONE,
) -> Manifest:
    """Read a folder (`split_files` says what of it) or one file (split 'all' if its name says none).

    Raises AnnotationError, which names file and line, for anything that cannot be used.
    """
    path = Path(path)
    if path.is_file() or (path.suffix == ".jsonl" and not path.is_dir()):
        files = {split_of(path) or "all": path}
    else:
        files = split_files(path, dataset)
    return read_files(files, dataset, clip_seconds, labels)


def split_of(path: Path) -> str | None:
    """'val' for tacos_val_release.jsonl or val.jsonl; None where the name says none."""
    match = _SPLIT_IN_NAME.search(path.stem)
    return match[1] if match else None


def split_files(folder: Path, dataset: str) -> dict[str, Path]:
    """The file of each split: <dataset>_train*.jsonl and so on, else train.jsonl, val.jsonl, test.jsonl.

    Before the split, the name may lack the dataset's plural s (youtube_highlight_train_release.jsonl) or go
    on after it (mine_v2_train.jsonl).
    """
    named: dict[str, list[Path]] = {}
    plain: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if match := _SPLIT_IN_NAME.search(path.stem):
            prefix = path.stem[: match.start()]
            if prefix in (dataset, dataset.removesuffix("s")) or prefix.startswith(f"{dataset}_"):
                named.setdefault(match[1], []).append(path)
            elif not prefix:
                plain.setdefault(match[1], []).append(path)
    found = named or plain
    if not found:
        raise absent(folder, f"train.jsonl, val.jsonl or test.jsonl (or {dataset}_train.jsonl, ...)")
    for split, paths in found.items():
        if len(paths) > 1:
            got = ", ".join(path.name for path in paths)
            raise problem(str(folder), f"one {split} file of {dataset}", got, "move all but one of them away")
    return {split: found[split][0] for split in SPLITS if split in found}


def read_files(
    files: Mapping[str, Path],
    dataset: str,
    clip_seconds: float,
    labels: Labels = ZERO_TO_ONE,
) -> Manifest:
    """Read one .jsonl file for each split into one manifest."""
    records = [(split, record) for split, path in files.items() for record in json_records(path)]
    findings: list[Finding] = []
    durations: dict[str, float | None] = {}
    for _, record in records:
        vid = identifier(record.required("vid"), "a vid", record.source)
        duration_s, corrected = duration_of(record, labels)
        findings += corrected + note_duration(durations, vid, duration_s, record.source)

    queries: list[Query] = []
    taken: set[str] = set()
    for split, record in records:
        with located(record.source):
            query, found = _query(record, split, taken, durations, clip_seconds, labels)
        taken.add(query.qid)
        queries.append(query)
        findings += found
    return Manifest(dataset, clip_seconds, _videos(durations, records), tuple(queries), tuple(findings))


def _videos(durations: Mapping[str, float | None], records: list[tuple[str, Record]]) -> dict[str, Video]:
    try:
        return {vid: Video(vid, duration_s) for vid, duration_s in durations.items()}
    except ValueError:
        for _, record in records:  # again, slowly, to name the line
            with located(record.source):
                vid = str(record.get("vid"))
                Video(vid, durations[vid])
        raise


def _query(
    record: Record,
    split: str,
    taken: set[str],
    durations: Mapping[str, float | None],
    clip_seconds: float,
    labels: Labels,
) -> tuple[Query, list[Finding]]:
    source = record.source
    findings: list[Finding] = []
    vid = str(record.get("vid"))
    if record.get("qid") is None:
        qid = f"{Path(record.file).stem}-{record.line:05d}"
    else:
        qid = identifier(record.get("qid"), "a qid", source)
    if qid in taken:
        wanted = qid
        while qid in taken:
            qid = f"{qid}-{split}-{record.line}"
        findings.append(Finding(source, qid, "renamed query", f"the query id {wanted!r} is taken by an earlier line"))
    windows, fitted = moments_inside(_window_pairs(record), durations[vid], qid, source)
    kind = record.get("kind")
    if kind is not None and not isinstance(kind, str):
        raise problem(source, "kind as text", shown(kind))
    query = Query(
        qid,
        vid,
        sentence(record.required("query"), source),
        split,
        windows,
        saliency_of(record, durations[vid], clip_seconds, labels),
        kind,
    )
    return query, findings + fitted


def _window_pairs(record: Record) -> list[tuple[float, float]]:
    windows = record.get("relevant_windows")
    if windows is None:
        return []
    return [window_pair(w, record.source) for w in listed(windows, "relevant_windows", record.source)]
