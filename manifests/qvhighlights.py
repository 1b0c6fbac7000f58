"""QVHighlights (Lei et al., NeurIPS 2021, arXiv 2107.09609): 10,310 queries on videos of up to 150 s.

Files, from the release in jayleicn/moment_detr: highlight_{train,val,test}_release.jsonl, one record a line
in the common form (see `jsonl`), windows in multiples of 2 s. Three annotators score every clip of the
windows from 0 (very bad) to 4 (very good), on the 2 s grid. The test release has no truth;
highlight_test_with_gt.jsonl, published later with the same 1,542 queries, takes its place where it is there.
"""

from __future__ import annotations

from pathlib import Path

from .jsonl import read_files, read_jsonl
from .records import absent
from .schema import Manifest

CLIP_SECONDS = 2.0
FILES = {
    "train": ("highlight_train_release.jsonl",),
    "val": ("highlight_val_release.jsonl",),
    "test": ("highlight_test_with_gt.jsonl", "highlight_test_release.jsonl"),
}
"""The files of each split; the first that is there is read."""


def read_qvhighlights(path: str | Path) -> Manifest:
    """Read the splits that a folder has, or one of the files.

    Raises AnnotationError where there is none, or for a bad record.
    """
    path = Path(path)
    if path.is_file():
        return read_jsonl(path, "qvhighlights", CLIP_SECONDS)
    present = {split: [path / n for n in names if (path / n).exists()] for split, names in FILES.items()}
    files = {split: paths[0] for split, paths in present.items() if paths}
    if not files:
        raise absent(path, ", ".join(names[-1] for names in FILES.values()))
    return read_files(files, "qvhighlights", CLIP_SECONDS)
