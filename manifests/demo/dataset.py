"""Write the demo dataset: a folder of H.264 videos and their annotations, the same for the same seed.

<folder>/videos/demo<seed>-<split>-0000.mp4 ...
<folder>/annotations/train.jsonl, val.jsonl, test.jsonl    (the common jsonl form, on a 1 s grid)
<folder>/demo.json                                         (what made it; written last)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from .render import write_video
from .sentences import Meaning, say, when
from .world import Interval, Scene, Script, Track, write_script

VERSION = 1  # of the world, the drawing and the grammar together: another version draws other videos
CLIP_SECONDS = 1.0
ANNOTATOR_BIAS = (0.12, 0.0, -0.15)  # a lenient, a neutral and a strict annotator
MAX_WINDOWS = 3
MAX_COVERAGE = 0.45  # windows that fill the video would be found without looking
MIN_WINDOW_S = 2.0
KINDS = {"action": 4, "object": 2, "scene": 1}  # sentences of each kind wanted per video
OPEN_TRAIT = 0.2  # how often a sentence leaves the colour or the shape open


@dataclass(frozen=True)
class DemoConfig:
    """What to render."""

    seed: int = 7
    videos: dict[str, int] = field(default_factory=lambda: {"train": 220, "val": 40, "test": 60})
    """Videos per split."""
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.seed < 0 or not self.videos or min(self.videos.values()) < 1:
            raise ValueError(f"expected a seed >= 0 and at least one video per split, got {self}")


def script_of(seed: int, split: str, index: int) -> Script:
    """The script of one video. It depends on nothing but its three names, so splits never share a video."""
    return write_script(_rng(seed, split, index, 0))


def queries_of(
    script: Script, rng: np.random.Generator
) -> list[tuple[Meaning, str, list[tuple[Interval, Track | Scene]]]]:
    """Sentences about one video, each with what it means and where it is true."""
    chosen: list[tuple[Meaning, str, list[tuple[Interval, Track | Scene]]]] = []
    meanings = _meanings(script, rng)
    for kind, wanted in KINDS.items():
        usable = []
        for meaning in (m for m in meanings if m.kind == kind):
            found = when(meaning, script)
            covered = sum(i.end_s - i.start_s for i, _ in found)
            if (
                0 < len(_merge([i for i, _ in found])) <= MAX_WINDOWS
                and covered <= MAX_COVERAGE * script.duration_s
                and all(i.end_s - i.start_s >= MIN_WINDOW_S for i, _ in found)
            ):
                usable.append((meaning, found))
        for pick in rng.permutation(len(usable))[:wanted]:
            meaning, found = usable[pick]
            chosen.append((meaning, say(meaning, rng), found))
    return chosen


def record(qid: str, vid: str, script: Script, query: tuple, rng: np.random.Generator) -> dict:
    """One line of the annotations: sentence, merged windows, graded saliency of three annotators."""
    meaning, text, found = query
    windows = _merge([interval for interval, _ in found])
    clips, scores = [], []
    for clip in range(int(np.ceil(script.duration_s / CLIP_SECONDS))):
        start = clip * CLIP_SECONDS
        end = min(start + CLIP_SECONDS, script.duration_s)
        covered = sum(w.overlap_s(start, end) for w in windows) / (end - start)
        if covered < 0.5:
            continue
        strength = max(_strength(what, i, (start + end) / 2) * (i.overlap_s(start, end) > 0) for i, what in found)
        noise = rng.normal(0, 0.05, len(ANNOTATOR_BIAS))
        grades = 4.4 * (covered * strength + np.array(ANNOTATOR_BIAS) + noise)
        clips.append(clip)
        scores.append([int(g) for g in np.clip(np.rint(grades), 0, 4)])
    return {
        "qid": qid, "query": text, "vid": vid, "duration": script.duration_s,
        "relevant_windows": [[w.start_s, w.end_s] for w in windows],
        "relevant_clip_ids": clips, "saliency_scores": scores, "kind": meaning.kind,
    }  # fmt: skip


def make_demo(
    folder: Path,
    config: DemoConfig | None = None,
    workers: int = 2,
    on_video: Callable[[int, int], None] | None = None,
) -> bool:
    """Render the dataset into `folder` unless it is there already; returns whether anything was rendered.

    Raises ValueError when the folder holds a demo dataset of another seed, size or version.
    """
    config = config or DemoConfig()
    stamp = folder / "demo.json"
    if stamp.is_file():
        there = json.loads(stamp.read_text("utf-8"))
        if there == asdict(config):
            return False
        raise ValueError(
            f"{folder} holds demo videos of another kind ({there}), expected {asdict(config)}; "
            "choose another folder or delete it"
        )
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    jobs = [(config.seed, split, i, folder) for split, count in config.videos.items() for i in range(count)]
    lines: dict[str, list[str]] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_make_video, *job) for job in jobs]
        for done, _ in enumerate(as_completed(futures), 1):
            if on_video is not None:
                on_video(done, len(jobs))
        for (_, split, _, _), future in zip(jobs, futures, strict=True):
            lines.setdefault(split, []).extend(future.result())
    shutil.rmtree(folder / "annotations", ignore_errors=True)
    (folder / "annotations").mkdir()
    for split, records in lines.items():
        (folder / "annotations" / f"{split}.jsonl").write_text("".join(f"{r}\n" for r in records), "utf-8")
    temporary = stamp.with_suffix(f".{os.getpid()}.part")
    temporary.write_text(json.dumps(asdict(config), indent=2) + "\n", "utf-8")
    os.replace(temporary, stamp)
    return True


def _make_video(seed: int, split: str, index: int, folder: Path) -> list[str]:
    script = script_of(seed, split, index)
    vid = f"demo{seed}-{split}-{index:04d}"
    path = folder / "videos" / f"{vid}.mp4"
    if not path.is_file():  # a killed run goes on where it was: files appear whole or not at all
        write_video(script, path)
    rng = _rng(seed, split, index, 1)
    queries = queries_of(script, rng)
    return [json.dumps(record(f"{vid}-{n}", vid, script, query, rng)) for n, query in enumerate(queries)]


def _meanings(script: Script, rng: np.random.Generator) -> list[Meaning]:
    """What could be asked about a video, without repeats."""
    found: dict[Meaning, None] = {}
    for track in script.tracks:
        left_open = rng.random() < OPEN_TRAIT
        colour = None if left_open and rng.random() < 0.5 else track.colour
        shape = None if left_open and colour is not None else track.shape
        found[Meaning("object", colour, shape)] = None
        if track.action is not None:
            found[Meaning("action", colour, shape, track.action)] = None
    for scene in script.scenes:
        found[Meaning("scene", scene=scene.name)] = None
    return list(found)


def _strength(what: Track | Scene, interval: Interval, time_s: float) -> float:
    """How striking it is at this time, 0..1: large objects and the middle of a span strike more."""
    length = interval.end_s - interval.start_s
    middle = 1 - abs(2 * (time_s - interval.start_s) / length - 1)
    prominence = 1.0 if isinstance(what, Scene) else min(1.0, what.size / 0.17)
    return prominence * (0.55 + 0.45 * min(1.0, 2 * middle))


def _merge(intervals: Sequence[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for interval in sorted(intervals, key=lambda i: i.start_s):
        if merged and interval.start_s <= merged[-1].end_s:
            merged[-1] = Interval(merged[-1].start_s, max(merged[-1].end_s, interval.end_s))
        else:
            merged.append(interval)
    return merged


def _rng(seed: int, split: str, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, int.from_bytes(split.encode(), "big"), index, stream])
