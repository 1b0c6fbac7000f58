"""ActivityNet Captions (Krishna et al., ICCV 2017, arXiv 1705.00754): sentences on videos of two minutes.

Files train.json, val_1.json, val_2.json: {video: {"duration": s, "timestamps": [[start, end], ...],
"sentences": [...]}}. The official test split was never published, so the field trains on train (37,421
sentences), picks on val_1 (17,505) and reports on val_2 (17,031); here these are the splits train, val and
test. val_2 is a second annotation of videos that are all in val_1 too: val and test share 4,885 videos, with
other sentences and windows, so test is not a test on unseen videos.

Every sentence becomes a query, 'activitynet-val-v_uqiMw7tQ1Cc-0' by split, video and place. Windows past the
end (all by less than a second) are clipped, the four of train that are empty or reversed dropped, all
reported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .records import (
    MAX_SECONDS,
    absent,
    listed,
    located,
    moments_inside,
    note_duration,
    number,
    parse_json,
    problem,
    read_text,
    sentence,
    shown,
    window_pair,
)
from .schema import Finding, Manifest, Query, Video

CLIP_SECONDS = 2.0
FILES = {"train": "train.json", "val": "val_1.json", "test": "val_2.json"}


def read_activitynet(path: str | Path) -> Manifest:
    """Read the splits that a folder has, or one of the files.

    Raises AnnotationError where there is none, or for a bad entry.

    A file is one JSON object on one line, so places are named by video: 'train.json:v_QOlSCBRmfWY'.
    """
    path = Path(path)
    if path.is_file():
        files = {split: path for split, name in FILES.items() if name == path.name}
    else:
        files = {split: path / name for split, name in FILES.items() if (path / name).exists()}
    if not files:
        raise absent(path, ", ".join(FILES.values()))
    durations: dict[str, float | None] = {}
    entries: list[tuple[str, str, str, list[tuple[tuple[float, float], str]]]] = []
    findings: list[Finding] = []
    for split, file in files.items():
        document = parse_json(read_text(file), file.name)
        if not isinstance(document, dict) or not document:
            raise problem(file.name, "an object {video: {...}}", shown(document))
        for vid, entry in document.items():
            source = f"{file.name}:{vid if vid.isprintable() and len(vid) <= 60 else shown(vid)}"
            duration_s, captions = _parse(entry, source)
            with located(source):
                Video(vid, duration_s)
            findings += note_duration(durations, vid, duration_s, source)
            entries.append((split, vid, source, captions))
    queries: list[Query] = []
    for split, vid, source, captions in entries:
        for i, (pair, text) in enumerate(captions):
            qid = f"activitynet-{split}-{vid}-{i}"
            with located(source):
                windows, found = moments_inside([pair], durations[vid], qid, source)
                queries.append(Query(qid, vid, text, split, windows))
            findings += found
    videos = {vid: Video(vid, duration_s) for vid, duration_s in durations.items()}
    return Manifest("activitynet", CLIP_SECONDS, videos, tuple(queries), tuple(findings))


def _parse(entry: Any, source: str) -> tuple[float, list[tuple[tuple[float, float], str]]]:
    """(duration in seconds, [(window, sentence), ...]) of one video."""
    keys = ("duration", "timestamps", "sentences")
    if not isinstance(entry, dict) or any(key not in entry for key in keys):
        raise problem(source, "an object with duration, timestamps and sentences", shown(entry))
    duration_s = number(entry["duration"], "a duration in seconds", source, 0, MAX_SECONDS)
    pairs = [window_pair(pair, source) for pair in listed(entry["timestamps"], "timestamps", source)]
    texts = [sentence(text, source) for text in listed(entry["sentences"], "sentences", source)]
    if len(pairs) != len(texts):
        raise problem(source, "one sentence for each window", f"{len(texts)} for {len(pairs)} windows")
    return duration_s, list(zip(pairs, texts, strict=True))
