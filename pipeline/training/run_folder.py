"""Who may train into a folder: one process at a time, a run of its own, or nobody's.

A run that never reached a checkpoint has nothing to lose, so the next command takes its folder over. Any other is gone
on with (`resume`) by the same settings, or left alone.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..config import Config, flat
from .checkpoint import RunInfo, load_run_info, save_run_info
from .tensor_files import begun

LOCK = ".lock"
CHECKPOINTS = ("best.safetensors", "last.safetensors", "result.json")
OURS = ("run.json", "log.jsonl", "steps.jsonl", "diverged.safetensors", *CHECKPOINTS)
SAME = ("config", "video_specs", "text_spec", "dataset", "splits", "manifest_sha256")
"""What a run must have in common with one that goes on with it."""
A_LOOK_S = 1.0
"""Whoever merely looks (`is_locked`) holds the lock for an instant; who wants it tries for so long."""


@contextmanager
def claimed(out: Path, info: RunInfo, resume: bool, on_note: Callable[[str], None]) -> Iterator[None]:
    """The folder, ready for this run and locked for as long as it takes.

    Raises ValueError where it is somebody else's, another run's, or this one's and `resume` is not given.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give --out another folder")
    said = out / "run.json"
    if out.is_dir() and not said.is_file() and set(out.iterdir()) - {out / LOCK, *begun(said)}:
        raise ValueError(f"{out} is not empty and holds no run; give --out another folder")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        for leftover in out.glob(".*.part"):
            leftover.unlink(missing_ok=True)
        if not holds_checkpoint(out):
            if said.is_file():
                on_note(f"{out} holds a run that ended before its first checkpoint; it is started anew")
            for name in OURS:
                (out / name).unlink(missing_ok=True)
            save_run_info(out, info)
        elif not resume:
            raise ValueError(f"{out} holds a run already; give --out another folder, or --resume to go on with it")
        else:
            _refuse_another(out, info)
            (out / "diverged.safetensors").unlink(missing_ok=True)
        yield


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Raises ValueError where another process has the folder. The lock goes with the process, however it ends."""
    with (out / LOCK).open("a") as lock:
        until = time.monotonic() + A_LOOK_S
        while not _lock(lock, fcntl.LOCK_EX):
            if time.monotonic() > until:
                raise ValueError(f"another process trains into {out} at this moment; give --out another folder")
            time.sleep(0.01)
        yield


def is_locked(out: Path) -> bool:
    """Whether a process trains into the folder at this moment."""
    try:
        with (out / LOCK).open() as lock:
            return not _lock(lock, fcntl.LOCK_SH)
    except OSError:
        return False


def holds_checkpoint(out: Path) -> bool:
    return any((out / name).is_file() for name in CHECKPOINTS)


def _lock(file: TextIO, kind: int) -> bool:
    """Whether it was to be had."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_another(out: Path, info: RunInfo) -> None:
    there = load_run_info(out)
    for what in SAME:
        old, new = getattr(there, what), getattr(info, what)
        if old != new and old != "":  # older runs say nothing of their annotations
            raise ValueError(
                f"{out} holds a run with another {what}: {_difference(old, new)}; "
                "give --out another folder, or delete it"
            )


def _difference(old: Any, new: Any) -> str:
    """The first place where two settings differ."""
    if isinstance(old, Config) and isinstance(new, Config):
        a, b = flat(old.model_dump()), flat(new.model_dump())
        key = next(k for k in {**a, **b} if a.get(k) != b.get(k))
        return f"{key} is {a.get(key)} there, {b.get(key)} here"
    return f"{old} there, {new} here" if len(f"{old}{new}") < 200 else "they differ"
