"""Whether a video file was cut short, judged by what the file itself says of its layout.

A claimed duration alone proves nothing: such claims are often wrong in good files. A table of samples that
lie beyond the end of the file, or a Matroska segment that is longer than the file, is proof.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def missing_seconds(path: Path, container: Any, stream: Any, frames: int, end_s: float) -> float:
    """About how many seconds lie beyond the physical end of the file; 0 where it is whole or does not say.

    container and stream are PyAV's, `frames` were read from it, the last of them ending at end_s.
    """
    form, size = container.format.name, path.stat().st_size
    rate = float(stream.average_rate or 25)
    if form.startswith("mov") and frames < stream.frames:
        return sum(entry.pos + entry.size > size for entry in stream.index_entries) / rate
    if form.startswith("avi"):
        return max(0, stream.frames - frames) / rate
    if form.startswith("matroska") and container.duration and _segment_end(path) > size:
        return max(0.0, container.duration / 1e6 - end_s)
    return 0.0


def _segment_end(path: Path) -> int:
    """The byte where the Matroska segment says it ends; 0 where it does not say, as in live recordings."""
    with path.open("rb") as file:
        head = file.read(4096)
    at = 0
    while at + 12 <= len(head):
        segment = head[at : at + 4] == b"\x18\x53\x80\x67"  # ids at this level have four bytes
        at += 4
        length = 9 - head[at].bit_length()  # of the size: the zeros that its first byte starts with, plus one
        if length > 8:
            return 0
        unknown = (1 << 7 * length) - 1
        size = int.from_bytes(head[at : at + length], "big") & unknown
        at += length
        if segment:
            return 0 if size == unknown else at + size
        at += size
    return 0
