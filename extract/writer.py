"""Writing a store: features are checked first, files are whole or not there, one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .layout import (
    LOCK_FILE,
    SPEC_FILE,
    TEMPORARY,
    Failure,
    Item,
    StoreError,
    StoreSpec,
    read_spec,
    shard_files,
)
from .shard import encode_shard

FLOAT16_MAX = 65504
WAIT_S = 0.5  # between two looks at a lock that another extraction has


def check_item(item: Item, spec: StoreSpec) -> Item:
    """The item with float16 values, or a ValueError that says what training should never see."""
    values = np.asarray(item.values)
    if values.ndim != 2 or values.shape[1] != spec.dim or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"expected float features of shape [rows, {spec.dim}], got {values.dtype} {values.shape}")
    if not len(values):
        raise ValueError("expected at least one row of features, got none")
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite features, got {np.sum(~np.isfinite(values))} values that are not")
    with np.errstate(over="ignore", under="ignore"):
        halves = np.ascontiguousarray(values, "<f2")
    if not np.isfinite(halves).all():
        raise ValueError(f"expected features of at most {FLOAT16_MAX} in size (float16), got {np.abs(values).max():g}")
    if len(item.source_sha256) != 64:
        raise ValueError(f"expected the sha256 of the source in 64 hex digits, got {item.source_sha256!r}")
    if spec.kind == "text":
        if item.times_s is not None or item.duration_s is not None:
            raise ValueError("expected no times and no duration for text")
        return Item(item.id, halves, None, None, item.source_sha256)
    if item.duration_s is None or not 0 < item.duration_s < math.inf:
        raise ValueError(f"expected a duration > 0 s, got {item.duration_s}")
    return Item(item.id, halves, _check_times(item.times_s, len(halves)), item.duration_s, item.source_sha256)


def _check_times(times_s: np.ndarray | None, rows: int) -> np.ndarray:
    times = np.ascontiguousarray(() if times_s is None else times_s, "<f8")
    if times.shape != (rows, 2):
        raise ValueError(f"expected start and end of each clip as [{rows}, 2], got {times.shape}")
    if not np.isfinite(times).all() or (times < 0).any() or (times[:, 0] >= times[:, 1]).any():
        raise ValueError("expected clips with 0 <= start < end in finite seconds")
    if (np.diff(times[:, 0]) < 0).any():
        raise ValueError("expected clips in the order of their start")
    return times


def write_shard(
    path: Path,
    spec: StoreSpec,
    number: int,
    items: Sequence[Item],
    failures: Sequence[Failure],
    stamps: dict[str, str],
    sync: bool = True,
) -> None:
    """Write a whole shard, or nothing. OSError where that fails: a matter of the run, not of one source.

    Without `sync` a crash of the machine (not of the program) may leave it damaged.
    """
    try:
        image = encode_shard(spec, number, items, failures, stamps)
    except MemoryError as error:
        raise _unwritten(path, OSError(errno.ENOMEM, "out of memory")) from error
    atomic_write(path, *image, sync=sync)


def atomic_write(path: Path, *chunks: bytes, sync: bool = True) -> None:
    """Write a temporary name, sync, rename, sync the folder: whole or as before, even on a crash or a full disk."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        with temporary.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
        if sync:
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritten(path, error) from error
        raise


def _unwritten(path: Path, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"{path} cannot be written ({error.strerror or error}); what is in {path.parent} is whole: "
        f"put that right and run the same command again",
    )


@contextmanager
def locked_store(folder: Path, spec: StoreSpec, on_wait: Callable[[], None] | None = None) -> Iterator[str]:
    """The folder made ready for one writer: locked, its spec settled, leftovers of killed runs removed.

    Gives what the lock now says (see `holds_lock`). Where another extraction has the lock, waits until that
    has ended; on_wait is called once before. The lock goes with the process, however it ends. Raises
    StoreError where the store was made with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if on_wait is not None:
                    on_wait()
                    on_wait = None
                time.sleep(WAIT_S)
        try:
            token = secrets.token_hex(16)
            lock.truncate(0)
            lock.write(token)
            lock.flush()
            _settle_spec(folder, spec)
            for leftover in folder.glob(f"{TEMPORARY}*"):
                if not leftover.is_dir():  # a folder of that name is not ours
                    leftover.unlink(missing_ok=True)
            yield token
        finally:  # closing alone leaves the lock to a child process that was being started meanwhile
            lock.truncate(0)
            fcntl.flock(lock, fcntl.LOCK_UN)


def holds_lock(folder: Path, token: str) -> bool:
    """Whether no later extraction has locked the store: the workers of one that was killed may outlive it."""
    try:
        return (folder / LOCK_FILE).read_text() == token
    except OSError:
        return True  # what is wrong with the folder, writing to it says better


def _settle_spec(folder: Path, spec: StoreSpec) -> None:
    if not (folder / SPEC_FILE).exists() and not shard_files(folder):
        atomic_write(folder / SPEC_FILE, spec.to_json().encode())
    elif (found := read_spec(folder)).fingerprint != spec.fingerprint:
        raise StoreError(
            f"expected a store of fingerprint {spec.fingerprint} in {folder}, got {found.fingerprint} "
            f"({found.encoder}): features of other settings go to another folder, such as {spec.folder_name}"
        )
