"""Feature files that other tools wrote: which file is whose, and the numbers in it.

    <vid>.npz                   `features` [rows, dim]              Moment-DETR, Lighthouse, UniVTG and their kin
    qid<qid>.npz, <qid>.npz     `last_hidden_state` [tokens, dim]   the sentences beside them
    <vid>.pt, qid<qid>.pt       one tensor                          InternVideo2
    <vid>.npy, <vid>_rgb.npy    one array                           I3D, VGGish, PANNs

Files are data and may be hostile: pickled objects are refused, sizes are looked at before memory is taken, and ids are
compared with the names in a folder, never joined to a path. A file that rdmf exported also has its clips' times.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .export import read_export_index
from .layout import Kind

ENDINGS = (".npz", ".pt", ".npy")
KEYS: dict[Kind, tuple[str, ...]] = {
    "video": ("features",),
    "text": ("last_hidden_state", "token", "features"),  # `token` in the files of TVSum
}
"""Names of the array that is read where none is asked for; else the only array of a file."""
BESIDE = ("times_s", "duration_s")  # what an export of rdmf has beside the features
EPSILON = 1e-5
BEFORE_ID: dict[Kind, tuple[str, ...]] = {"video": ("",), "text": ("", "qid")}
MAX_BYTES = 4 << 30  # of what a file unpacks to: a day of clips of 2 s, and far from all memory


class FeatureFileError(ValueError):
    """A feature file that cannot be used. The message names the file, what was expected, and what came."""


@dataclass(frozen=True)
class Stream:
    """One kind of features: a folder with one file for each item."""

    folder: Path
    name: str
    """What the encoder is called: the folder's name where nobody says otherwise."""
    pattern: tuple[str, str] | None = None
    """What a file's name has before and after the id; None: the id and any of ENDINGS."""
    key: str | None = None
    """The array to read out of files with several; None: see KEYS."""


class FileFeatures(NamedTuple):
    """What one file holds."""

    values: np.ndarray
    """float32 [rows, dim], finite."""
    times_s: np.ndarray | None
    """Start and end of each row, where the file says so."""
    duration_s: float | None


def parse_stream(where: str | Path, key: str | None = None) -> Stream:
    """A stream from `DIR`, or from `DIR/{id}_rgb.npy` where the names of files hold more than the id.

    The stream is named after the folder, 'slowfast' for slowfast_features, and what a pattern adds to the id.
    Raises ValueError where there is no such folder, or the pattern is none.
    """
    path = Path(where)
    pattern = None
    folder = path
    if "{" in path.name or "}" in path.name:
        before, mark, after = path.name.partition("{id}")
        if not mark or "{" in before + after or "}" in before + after or not after.lower().endswith(ENDINGS):
            raise ValueError(
                f"expected a pattern such as DIR/{{id}}_rgb.npy, with {{id}} once and an ending out of "
                f"{', '.join(ENDINGS)}, got {str(where)!r}"
            )
        folder, pattern = path.parent, (before, after)
    if not folder.is_dir():
        raise ValueError(f"expected a folder of feature files, got {str(folder)!r}, which is not one")
    parts = [re.sub(r"^features?_|_features?$", "", folder.resolve().name)]
    if pattern:
        parts += [part.strip("_-.") for part in (pattern[0], pattern[1].rpartition(".")[0])]
    return Stream(folder, "_".join(filter(None, parts)) or "features", pattern, key)


def find_files(stream: Stream, kind: Kind, ids: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """The file of each id that has one, and the names of feature files that are nobody's.

    The id as a name goes before qid<id>, so that an item called 'qid7' and one called '7' both find their own. A
    folder that rdmf exported is read by its own index. Raises ValueError where an id has two files.
    """
    with os.scandir(stream.folder) as entries:
        names = {entry.name for entry in entries if entry.is_file() and entry.name.lower().endswith(ENDINGS)}
    ids = list(ids)
    if stream.pattern is not None:
        before, after = stream.pattern
        rounds = [{id_: [f"{before}{id_}{after}"] for id_ in ids}]
        names = {name for name in names if name.startswith(before) and name.endswith(after)}
    elif (exported := read_export_index(stream.folder)) is not None:
        rounds = [{id_: [exported[id_]] for id_ in ids if id_ in exported}]
    else:
        rounds = [{id_: [f"{before}{id_}{e}" for e in ENDINGS] for id_ in ids} for before in BEFORE_ID[kind]]
    found: dict[str, Path] = {}
    for options in rounds:
        for id_ in options.keys() - found.keys():
            there = [name for name in options[id_] if name in names]
            if len(there) > 1:
                raise ValueError(
                    f"{stream.folder} has {' and '.join(there)} for one item; say which to read with a pattern such "
                    f"as {stream.folder}/{there[0].replace(id_, '{id}', 1)}"
                )
            if there:
                found[id_] = stream.folder / there[0]
        names -= {path.name for path in found.values()}
    return {id_: found[id_] for id_ in ids if id_ in found}, sorted(names)


def read_features(path: Path, kind: Kind, key: str | None = None) -> FileFeatures:
    """The features of one file. Raises FeatureFileError where they are not finite floats [rows, dim].

    A single vector counts as one row for text (`pooler_output`), never for video.
    """
    where = str(Path(path.parent.name, path.name))
    pick = _Pick(kind, key, where)
    try:
        _check_size(path.stat().st_size, where)
        values, beside = READERS[path.suffix.lower()](path, pick)
        times_s, duration_s = (beside.get(name) for name in BESIDE)
        duration_s = None if duration_s is None else float(duration_s)
    except FeatureFileError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        reason = "".join(c if c.isprintable() else "?" for c in reason)  # it may quote the file
        if isinstance(error, pickle.UnpicklingError) or "allow_pickle" in reason or "Python objects" in reason:
            reason = "it holds pickled objects, which are never loaded"
        raise FeatureFileError(
            f"{where} cannot be read ({reason}); expected an array of floats saved by numpy, or a tensor saved by torch"
        ) from None
    if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.floating):
        raise FeatureFileError(f"expected floats in {where}, got {getattr(values, 'dtype', type(values).__name__)}")
    if values.ndim == 1 and kind == "text":
        values = values[None]
    if values.ndim != 2 or not values.size:
        raise FeatureFileError(f"expected features [rows, dim] in {where}, got shape {values.shape}")
    with np.errstate(over="ignore"):
        values = np.array(values, np.float32)
    if not np.isfinite(values).all():
        raise FeatureFileError(f"expected finite features in {where}, got {np.sum(~np.isfinite(values))} that are not")
    return FileFeatures(values, times_s, duration_s)


def l2_normalised(values: np.ndarray) -> np.ndarray:
    """Every row x as x / (|x| + EPSILON), as the Moment-DETR family feeds its models."""
    return values / (np.linalg.norm(values, axis=-1, keepdims=True) + EPSILON)


@dataclass(frozen=True)
class _Pick:
    """Which of the arrays of a file is the one that is wanted."""

    kind: Kind
    key: str | None
    where: str

    def __call__(self, names: Sequence[str]) -> str:
        if self.key is None:
            others = [name for name in names if name not in BESIDE]
            known = [name for name in KEYS[self.kind] if name in others]
            if known or len(others) == 1:
                return (known or others)[0]
        elif self.key in names:
            return self.key
        wanted = repr(self.key) if self.key else " or ".join(map(repr, KEYS[self.kind]))
        raise FeatureFileError(
            f"expected an array {wanted} in {self.where}, got {', '.join(names) or 'none'}; "
            f"name the one to read with --{self.kind}-key"
        )


_Read = tuple[Any, dict[str, Any]]


def _read_npz(path: Path, pick: _Pick) -> _Read:
    _check_size(_unpacked_bytes(path), pick.where)
    with np.load(path, allow_pickle=False) as archive:
        beside = {name: archive[name] for name in BESIDE if name in archive.files}
        return archive[pick(archive.files)], beside


def _read_npy(path: Path, pick: _Pick) -> _Read:
    return np.load(path, allow_pickle=False, mmap_mode="r"), {}  # mapped: a header that lies about its size fails


def _read_pt(path: Path, pick: _Pick) -> _Read:
    import torch

    if zipfile.is_zipfile(path):
        _check_size(_unpacked_bytes(path), pick.where)
    held = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(held, dict):
        held = held[pick([name for name in held if isinstance(name, str)])]
    if not isinstance(held, torch.Tensor) or held.layout != torch.strided or not held.is_floating_point():
        what = held.dtype if isinstance(held, torch.Tensor) else type(held).__name__
        raise FeatureFileError(f"expected a tensor of floats in {pick.where}, got {what}")
    return held.detach().float().numpy(), {}


READERS: dict[str, Callable[[Path, _Pick], _Read]] = {".npz": _read_npz, ".npy": _read_npy, ".pt": _read_pt}


def _unpacked_bytes(path: Path) -> int:
    """What the parts of a zip file say of their sizes; the readers take no more than that out of it."""
    with zipfile.ZipFile(path) as archive:
        return sum(part.file_size for part in archive.infolist())


def _check_size(size: int, where: str) -> None:
    if size > MAX_BYTES:
        raise FeatureFileError(f"expected the features of one item in {where}, got {size / 1e9:.0f} GB")
