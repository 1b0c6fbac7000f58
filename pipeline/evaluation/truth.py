"""The annotations to judge by, from whatever the user has: a manifest, one jsonl file, or a dataset's own
folder."""

from __future__ import annotations

from pathlib import Path

from ...manifests import dataset as known_dataset
from ...manifests.files import read_manifest
from ...manifests.schema import Manifest

FILES = {
    "qvhighlights": "highlight_*_release.jsonl",
    "charades": "charades_*",
    "activitynet": "val_[12].json",
    "tacos": "tacos_*.jsonl",
    "tvsum": "tvsum_*.jsonl",
    "youtube_highlights": "youtube_highlight*.jsonl",
}
"""File names that tell whose form a file or folder has."""


def read_truth(path: Path | str, dataset: str | None = None) -> Manifest:
    """Annotations from a manifest (.parquet, or a folder with manifest.parquet), a .jsonl file, or a folder.

    dataset: whose form it is; None tells by the file names (FILES), or takes it as the user's own in the
    common form. Raises ValueError where a folder holds several datasets, and what the readers raise.
    """
    path = Path(path)
    stored = path / "manifest.parquet" if (path / "manifest.parquet").is_file() else path
    if stored.suffix == ".parquet":
        return read_manifest(stored)
    if dataset is None:
        found = [name for name, pattern in FILES.items() if path.match(pattern) or any(path.glob(pattern))]
        if len(found) > 1:
            raise ValueError(f"{path}: expected annotations of one dataset, got {', '.join(found)}; name one")
        dataset = found[0] if found else "own"
    return known_dataset(dataset).read(path)
