"""The first bytes of a shard: where each of its parts is, and the SHA-256 of each, as text.

They are compared before HDF5 sees a file, since a flipped bit in its structure can make it wait for ever; and what a
damaged shard still says of itself is read without it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .layout import FORMAT_VERSION

BLOCK_BYTES = 4096
STRUCTURE = "structure"  # all that is no part: HDF5's own bytes
CHUNK_BYTES = 1 << 20
_LINE = re.compile(rb"^([a-z0-9_]{1,40}) ([0-9]{1,15}) ([0-9]{1,15}) ([0-9a-f]{64})$", re.MULTILINE)


class Extent(NamedTuple):
    """Where a part is in the file."""

    start: int
    end: int
    sha256: str


def block_of(image: bytes, extents: Mapping[str, tuple[int, int]]) -> bytes:
    """The first BLOCK_BYTES of a file of which `image` is the rest, with parts at these bytes of the file."""
    size = BLOCK_BYTES + len(image)
    found = {name: Extent(start, end, "") for name, (start, end) in extents.items()}
    found[STRUCTURE] = Extent(BLOCK_BYTES, size, "")
    view = memoryview(image)
    for name in found:
        digest = hashlib.sha256()
        for start, end in _ranges(found, name, size):
            digest.update(view[start - BLOCK_BYTES : end - BLOCK_BYTES])
        found[name] = found[name]._replace(sha256=digest.hexdigest())
    return _block(found)


def read_extents(file: BinaryIO) -> dict[str, Extent]:
    """What the first bytes of a file say. Raises ValueError where they are not, to the bit, what `block_of` gave."""
    file.seek(0)
    block = file.read(BLOCK_BYTES)
    found = {m[1].decode(): Extent(int(m[2]), int(m[3]), m[4].decode()) for m in _LINE.finditer(block)}
    if block != _block(found) or STRUCTURE not in found:
        raise ValueError("its first bytes are not those of a shard, or were changed")
    return found


def changed_parts(path: Path, unseen: Collection[str] = ()) -> list[str] | None:
    """The parts that are not as written, None where all are; those `unseen` are not looked at.

    Reads the file as a stream.
    """
    with path.open("rb") as file:
        try:
            extents = read_extents(file)
        except ValueError:
            return ["checksums"]
        size = path.stat().st_size
        changed = [
            name
            for name, extent in extents.items()
            if name not in unseen and _sha256(file, _ranges(extents, name, size)) != extent.sha256
        ]
    return changed or None


def read_part(path: Path, name: str) -> bytes:
    """The bytes of one part. Raises ValueError where they are not as written."""
    with path.open("rb") as file:
        extent = read_extents(file).get(name)
        if extent is None or _sha256(file, [(extent.start, extent.end)]) != extent.sha256:
            raise ValueError(f"its {name} was changed")
        file.seek(extent.start)
        return file.read(extent.end - extent.start)


def _block(extents: Mapping[str, Extent]) -> bytes:
    lines = [f"rdmf shard {FORMAT_VERSION}, HDF5 after {BLOCK_BYTES} bytes: part, first byte, end, sha256"]
    lines += [f"{name} {start} {end} {sha256}" for name, (start, end, sha256) in extents.items()]
    text = "\n".join(lines) + "\n"
    text += f"sha256 of the lines above {hashlib.sha256(text.encode()).hexdigest()}\n"
    return text.encode().ljust(BLOCK_BYTES, b"\0")


def _ranges(extents: Mapping[str, Extent], name: str, size: int) -> Iterator[tuple[int, int]]:
    """The bytes of a part; of the structure: those in a file of this size that are in no part."""
    if name != STRUCTURE:
        yield extents[name][:2]
        return
    at = BLOCK_BYTES
    for start, end, _ in sorted(extent for part, extent in extents.items() if part != STRUCTURE):
        if start > at:
            yield at, start
        at = max(at, end)
    if size > at:
        yield at, size


def _sha256(file: BinaryIO, ranges: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> str:
    digest = hashlib.sha256()
    for start, end in ranges:
        file.seek(start)
        while start < end and (chunk := file.read(min(CHUNK_BYTES, end - start))):
            digest.update(chunk)
            start += len(chunk)
    return digest.hexdigest()
