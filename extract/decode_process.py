"""The program that decodes one video after another for `decode_pool`, in a process of its own.

Decoders meet hostile files: here they may crash, hang or ask for all memory, and the run goes on without them.
Clips go to a ring of slots in memory shared with the parent; all else is one JSON object per line.

    in    {"path", "clip_seconds", "frames", "span_s", "size",
           "length_only"}                                         a video to decode, or just to measure
          +                                                       a slot of the ring is free again
    out   {"ready": true}                                         after the imports, once
          {"clips": T, "duration_s": D}                           the video is open
          {}                                                      the next slot holds the next clip
          {"alive": true}                                         still at it: hashing a large file
          {"sha256": ..., "cpu_s": ...}                           the end of the video, or
          {"stage": ..., "reason": ...}                           why it failed
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .clips import clip_bounds, clip_frame_times, read_clips
from .frames import VideoError, open_video

HASH_BYTES = 256 << 20  # between two signs of life


class Parent:
    """The other side of the pipes."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)  # what a decoder prints must not get between the lines
        self.requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self.free_slots = threading.Semaphore(0)

    def listen(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def say(self, **message: Any) -> None:
        self._out.write(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            if line == b"+\n":
                self.free_slots.release()
            else:
                self.requests.put(json.loads(line))
        os._exit(0)  # the parent is gone, however it went; a decoder that hangs goes too


class Ring:
    """Slots of `slot_bytes` each, filled in turn."""

    def __init__(self, fd: int, slots: int, parent: Parent) -> None:
        self._memory = np.frombuffer(mmap.mmap(fd, 0), np.uint8)
        self._slots, self._next, self._parent = slots, 0, parent
        for _ in range(slots):
            parent.free_slots.release()

    def put(self, clip: np.ndarray) -> None:
        self._parent.free_slots.acquire()
        at = self._next * clip.nbytes
        self._memory[at : at + clip.nbytes] = clip.reshape(-1)
        self._next = (self._next + 1) % self._slots
        self._parent.say()


def decode(request: dict[str, Any], ring: Ring, parent: Parent) -> None:
    path, began = Path(request["path"]), time.process_time()
    with open_video(path) as reader:
        duration_s = reader.info.duration_s
        bounds = clip_bounds(duration_s, request["clip_seconds"])
        parent.say(clips=len(bounds), duration_s=duration_s)
        if request["length_only"]:
            parent.say(sha256="", cpu_s=time.process_time() - began)
            return
        times_s = clip_frame_times(bounds, request["frames"], request["span_s"], duration_s)
        for clip in read_clips(reader, times_s, request["size"]):
            ring.put(clip)
    digest = hashlib.sha256()
    for i, chunk in enumerate(_chunks(path)):
        digest.update(chunk)
        if i * len(chunk) % HASH_BYTES == 0:
            parent.say(alive=True)
    parent.say(sha256=digest.hexdigest(), cpu_s=time.process_time() - began)


def limit_memory(more_bytes: int) -> None:
    """Allow `more_bytes` of address space beyond what the process has now, where the system can say."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, now + more_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    fd, slots, memory_bytes = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the parent ends this process
    import torch

    torch.set_num_threads(1)
    parent = Parent()
    ring = Ring(fd, slots, parent)
    limit_memory(memory_bytes)
    parent.listen()
    parent.say(ready=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        request = parent.requests.get()
        try:
            decode(request, ring, parent)
        except VideoError as error:
            parent.say(stage=error.stage, reason=error.reason)
        except MemoryError:
            parent.say(stage="memory", reason=f"decoding takes more than {memory_bytes / 2**30:g} GiB")
        except BrokenPipeError:
            return
        except Exception as error:
            parent.say(stage="decode", reason=f"{type(error).__name__}: {error}")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


if __name__ == "__main__":
    main()
