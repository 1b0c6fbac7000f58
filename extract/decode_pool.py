"""Videos decoded ahead by child processes, several at once, as a stream of clips.

A child that dies is replaced and its video tried again; one that hangs is killed and its video fails. So no file
ends the run, whatever its decoder does. The pixels pass through shared memory, and a child waits when the ring
that it fills is full: memory does not grow with the length of a video.

F frames of S x S pixels a clip.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np

from .clips import MAX_CLIPS
from .layout import Source

PROGRAM = ("-P", "-m", "rdmf.extract.decode_process")
ATTEMPTS = 3  # of a video whose decoder dies: the system may have killed it for another's memory
LOOK_S = 1.0


@dataclass(frozen=True)
class DecodeLimits:
    """What decoding may take."""

    processes: int = 1
    """Videos decoded at once."""
    memory_gib: float = 4.0
    """Of each process, beyond the libraries it loads."""
    seconds: float = 300.0
    """Without a further clip, until a video counts as hanging."""

    def __post_init__(self) -> None:
        if self.processes < 1 or not 0 < self.memory_gib < math.inf or not 0 < self.seconds < math.inf:
            raise ValueError(
                f"expected at least 1 decoding process, memory > 0 GiB and a time > 0 s, got {self.processes}, "
                f"{self.memory_gib} and {self.seconds}"
            )


@dataclass(frozen=True)
class ClipForm:
    """What a clip is: [frames, size, size, 3] uint8 over span_s seconds around the middle of each clip_seconds."""

    clip_seconds: float
    frames: int
    span_s: float
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.frames, self.size, self.size, 3


@dataclass(eq=False)
class Video:
    """One attempt at a video."""

    source: Source
    clips: int
    duration_s: float
    sha256: str = ""
    """Of the file; known at the end."""


class Opened(NamedTuple):
    """The first event of an attempt. One of the same source before it came to nothing."""

    video: Video


class Clip(NamedTuple):
    video: Video
    number: int
    pixels: np.ndarray
    """uint8 [F, S, S, 3], valid until the next event is asked for."""


class Ended(NamedTuple):
    """All clips have come; sha256 is set."""

    video: Video


class Failed(NamedTuple):
    source: Source
    stage: str
    """'open', 'probe', 'decode', 'memory', 'timeout' or 'crash'."""
    reason: str


Event = Opened | Clip | Ended | Failed


class DecodePool:
    """Child processes, started when there is work and kept for the next call. For one thread."""

    def __init__(self, form: ClipForm, limits: DecodeLimits, slots: int, program: Sequence[str] = PROGRAM) -> None:
        """slots: clips that each process may be ahead."""
        self.form, self.limits, self.slots, self.program = form, limits, slots, tuple(program)
        self._idle: list[_Process] = []
        self.cpu_s = 0.0
        """Processor seconds that ended videos took to decode."""

    def decode(self, sources: Sequence[Source], length_only: bool = False) -> Iterator[Event]:
        """The events of all sources, those of several videos mixed; of `length_only` without clips.

        Raises OSError where no process starts.
        """
        waiting = deque((source, 1) for source in sources)
        busy: list[_Process] = []
        try:
            with selectors.DefaultSelector() as selector:
                while waiting or busy:
                    while waiting and len(busy) < self.limits.processes:
                        process = self._idle.pop() if self._idle else _Process(self)
                        process.begin(*waiting.popleft(), length_only)
                        busy.append(process)
                        selector.register(process.out, selectors.EVENT_READ, process)
                    ready = {key.data for key, _ in selector.select(LOOK_S)}
                    for process in list(busy):
                        finished = False
                        if process in ready:
                            for event in process.events():
                                finished = finished or isinstance(event, (Ended, Failed))
                                yield event
                        elif process.hangs():
                            process.kill()
                            finished = True
                            yield Failed(
                                process.source, "timeout", f"its decoder gave nothing for {self.limits.seconds:g} s"
                            )
                        if not (finished or process.dead):
                            continue
                        selector.unregister(process.out)
                        busy.remove(process)
                        if not process.dead:
                            self._idle.append(process)
                        elif not finished and process.attempt < ATTEMPTS:
                            waiting.appendleft((process.source, process.attempt + 1))
                        elif not finished:
                            yield Failed(process.source, "crash", f"{process.death()} each of {ATTEMPTS} times")
        finally:
            for process in busy:  # in the middle of a video
                process.kill()

    def close(self) -> None:
        for process in self._idle:
            process.kill()
        self._idle.clear()


class _Process:
    """One child: its pipes, its ring, and the video it is at."""

    source: Source
    attempt: int

    def __init__(self, pool: DecodePool) -> None:
        self.pool = pool
        self.dead = self._ready = False
        self._unread = b""
        self._next_slot = 0
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 -- open until the child is ready
        with _shared_memory(math.prod(pool.form.shape) * pool.slots) as memory:
            self._slots = np.frombuffer(mmap.mmap(memory.fileno(), 0), np.uint8).reshape(-1, *pool.form.shape)
            path = os.pathsep.join(entry for entry in sys.path if entry)  # the very packages of this process
            numbers = memory.fileno(), pool.slots, int(pool.limits.memory_gib * 2**30)
            self._child = subprocess.Popen(
                [sys.executable, *pool.program, *map(str, numbers)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, bufsize=0,
                pass_fds=[memory.fileno()], env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._in, self.out = self._child.stdin, self._child.stdout

    def begin(self, source: Source, attempt: int, length_only: bool) -> None:
        form = self.pool.form
        self.source, self.attempt, self._length_only = source, attempt, length_only
        self._video: Video | None = None
        self._clips = 0
        self._heard = time.monotonic()
        self._write({
            "path": source.content, "clip_seconds": form.clip_seconds, "frames": form.frames, "span_s": form.span_s,
            "size": form.size, "length_only": length_only,
        })  # fmt: skip

    def events(self) -> Iterator[Event]:
        """What the child has said by now; `dead` is set where that was its last word."""
        data = os.read(self.out.fileno(), 1 << 16)
        *lines, self._unread = (self._unread + data).split(b"\n")
        self._heard = time.monotonic()
        try:
            for line in lines:
                if (event := self._event(json.loads(line))) is not None:
                    yield event
                    if isinstance(event, Clip):
                        self._write(None)
        except (ValueError, KeyError, TypeError, OverflowError):  # no process of ours writes so: it was taken over
            data = b""
        if not data:
            self.kill()
            if not self._ready:
                raise OSError(f"the process that decodes cannot start here: {self._last_complaint()}")

    def hangs(self) -> bool:
        return time.monotonic() - self._heard > self.pool.limits.seconds

    def kill(self) -> None:
        self.dead = True
        self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a disk that does not answer
            self._child.wait(5)
        self._in.close()
        self.out.close()

    def death(self) -> str:
        code = self._child.returncode or 0
        return f"its decoder died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def _event(self, message: dict[str, Any]) -> Event | None:
        """Raises ValueError, KeyError or TypeError for what `decode_process` does not say."""
        video = self._video
        if "ready" in message:
            self._ready = True
            self._complaints.close()
        elif "stage" in message:
            return Failed(self.source, str(message["stage"])[:40], str(message["reason"]))
        elif "clips" in message:
            self._video = Video(self.source, int(message["clips"]), float(message["duration_s"]))
            if video is not None or not 0 < self._video.clips <= MAX_CLIPS:
                raise ValueError("a video is opened once and has clips")
            return Opened(self._video)
        elif "sha256" in message and video is not None:
            if self._clips != video.clips and not self._length_only:
                raise ValueError("a video ends after its last clip")
            video.sha256 = str(message["sha256"])
            self.pool.cpu_s += float(message["cpu_s"])
            return Ended(video)
        elif not message and video is not None:
            if self._clips == video.clips:
                raise ValueError("a video has no more clips than it said")
            clip = Clip(video, self._clips, self._slots[self._next_slot])
            self._next_slot = (self._next_slot + 1) % self.pool.slots
            self._clips += 1
            return clip
        return None

    def _last_complaint(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), self.death())

    def _write(self, message: dict[str, Any] | None) -> None:
        """A request, or None: the oldest slot is free."""
        with contextlib.suppress(BrokenPipeError):  # it is dead; its output says so next
            self._in.write(b"+\n" if message is None else json.dumps(message).encode() + b"\n")
        self._heard = time.monotonic()


def _shared_memory(size: int) -> IO[bytes]:
    """An open file of memory that has no name, so that nothing is left of it however the processes end."""
    if hasattr(os, "memfd_create"):
        memory: IO[bytes] = os.fdopen(os.memfd_create("rdmf-clips"), "r+b")
    else:
        memory = tempfile.TemporaryFile()  # noqa: SIM115
    memory.truncate(size)
    return memory
