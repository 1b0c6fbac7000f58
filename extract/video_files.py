"""Video files of a folder, by video id."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..manifests.schema import Finding
from .layout import Failure, Source

VIDEO_ENDINGS = (
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv", ".3gp",
)  # fmt: skip
"""Known endings, the preferred first, in any case (.MP4 is .mp4)."""


class VideoSources(NamedTuple):
    """The videos of a dataset, for `extract_store`: files, or what stands for them."""

    place: str
    """Where they were looked for."""
    sources: list[Source]
    failures: list[Failure]
    """Videos that are not there (stage 'missing') or cannot be used."""
    findings: list[Finding]
    """What was fitted."""


def find_videos(folder: Path, vids: Iterable[str]) -> dict[str, Path]:
    """The file of each video id: the one directly in `folder` whose name without a known ending is the id.

    Ids without a file are left out. Links to files count as files. An id with several files takes the first
    of VIDEO_ENDINGS (then by name), with one warning for all such ids. Ids are compared with names and never
    joined to a path, so they cannot reach outside the folder. Raises ValueError when there is no such folder.
    """
    folder, wanted = Path(folder), set(vids)
    if not folder.is_dir():
        raise ValueError(f"expected a folder of videos, got {str(folder)!r}, which is not one")
    found: dict[str, list[tuple[int, str]]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            vid, ending = os.path.splitext(entry.name)
            if vid in wanted and ending.lower() in VIDEO_ENDINGS and entry.is_file():
                found.setdefault(vid, []).append((VIDEO_ENDINGS.index(ending.lower()), entry.name))
    several = sorted(vid for vid, files in found.items() if len(files) > 1)
    if several:
        names = [name for _, name in sorted(found[several[0]])]
        warnings.warn(
            f"{len(several)} videos have several files in {folder}, such as {' and '.join(names)}; "
            f"the first of {', '.join(VIDEO_ENDINGS)} is used",
            stacklevel=2,
        )
    return {vid: folder / min(files)[1] for vid, files in sorted(found.items())}
