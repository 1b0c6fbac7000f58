"""One file for tensors and what is said of them: safetensors with a JSON state and the SHA-256 of all of it inside.

Tensors and state are written at once and renamed into place, so there is no moment at which they do not fit, and no
changed bit goes unseen. The digest counts as zeros in what is digested; to other tools the file is plain safetensors.
The same tensors and state give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ...manifests.files import written_as

_KEY = "rdmf"  # the only key of the metadata: safetensors keeps several in no order
_NO_DIGEST = b"0" * 64
_MARK = b'"rdmf":"{\\"sha256\\": \\"'  # then come the 64 digits; the key is unescaped nowhere else
_HEADER_LIMIT = 100_000_000  # bytes, as safetensors has it


class TensorFile(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any] | None = None) -> None:
    """Write tensors and a JSON-able state, whole or not at all."""
    said = json.dumps({"sha256": _NO_DIGEST.decode(), "state": dict(state or {})})
    data = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, {_KEY: said})
    at = data.index(_MARK) + len(_MARK)
    assert data[at : at + 64] == _NO_DIGEST
    publish(path, (data[:at], hashlib.sha256(data).hexdigest().encode(), memoryview(data)[at + 64 :]))


def read_file(path: Path, if_missing: str, *, sealed: bool = True) -> TensorFile:
    """Raises ValueError where the file is missing (saying `if_missing`) or any bit of it has changed.

    sealed=False also takes a file without a digest, as rdmf wrote them before.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(if_missing) from None
    at = data.find(_MARK, 0, _header_end(data)) + len(_MARK)
    if at >= len(_MARK):
        digest = hashlib.sha256(memoryview(data)[:at])
        digest.update(_NO_DIGEST)
        digest.update(memoryview(data)[at + 64 :])
        if data[at : at + 64] != digest.hexdigest().encode():
            raise ValueError(f"{path} is damaged (its checksum does not fit); restore it from a copy, or train again")
    elif sealed:
        raise ValueError(f"{path} is damaged (it has no checksum); restore it from a copy, or train again")
    try:
        tensors = {name: value.clone() for name, value in load(data).items()}  # out of the file's bytes: those lie at
        return TensorFile(tensors, _state(data[8 : _header_end(data)]))  # any address, and not all code bears that
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a copy, or train again") from None


def read_state(path: Path, if_missing: str) -> dict[str, Any]:
    """Only what is said of the tensors: quick, and with no checksum compared. Raises ValueError as `read_file`."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return _state(file.read(min(length, _HEADER_LIMIT)))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(if_missing) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a copy, or train again") from None


def publish(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write, sync and rename, so that a crash leaves the old file or the new one.

    Raises OSError saying that `path` cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with written_as(path, temporary):
        try:
            with temporary.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new name, too, is on the disk
            finally:
                os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)


def begun(path: Path) -> list[Path]:
    """What writers of `path` that were killed have left beside it."""
    return list(path.parent.glob(f".{path.name}.*.part"))


def _header_end(data: bytes) -> int:
    return min(8 + int.from_bytes(data[:8], "little"), len(data), _HEADER_LIMIT)


def _state(header: bytes) -> dict[str, Any]:
    """The state in a header; {} where there is none. Raises ValueError."""
    tree = json.loads(header)
    said = tree.get("__metadata__", {}) if isinstance(tree, dict) else None
    if not isinstance(said, dict):
        raise ValueError("expected a header with metadata")
    state = json.loads(said.get(_KEY, '{"state": {}}'))
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        raise ValueError("expected a state in the header")
    return dict(state["state"])
