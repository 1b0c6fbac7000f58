"""Feature folders for the folds of a cross-validation: other splits on the very same stores.

<out>/folds.json              which source videos are tested together (manifests/folds.py)
<out>/folds/fold-<k>/         a feature folder like any other: train, evaluate and report work on it
    manifest.parquet          the queries that have features and annotations, as train, val and test of this fold
    video/<store>, text/<store>   links to the stores; no feature is copied
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ...manifests.files import read_manifest, write_manifest
from ...manifests.folds import Folds, relabel
from ...manifests.schema import Finding, Manifest
from ..loading.dataset import FeatureSet


def judged_queries(features: FeatureSet) -> Manifest:
    """What a cross-validation is about: the queries that have features and something to judge by, of all splits.

    The findings say how many of each split were left out. Raises ValueError where none is left.
    """
    stores, manifest = (*features.video, features.text), features.manifest
    featured = {q.qid for q in manifest.queries if q.qid in features.text and all(q.vid in s for s in features.video)}
    kept = tuple(q for q in manifest.queries if q.qid in featured and (q.windows or q.saliency))
    if not kept:
        names = ", ".join(store.folder.name for store in stores)
        raise ValueError(f"expected queries with features in {names} and annotations, got none; run `rdmf features`")
    left_out = []
    for split in manifest.splits:
        of_split = manifest.split(split)
        lacking = sum(query.qid not in featured for query in of_split)
        unknown = len(of_split) - lacking - sum(query.split == split for query in kept)
        if lacking or unknown:
            detail = f"{lacking} without features and {unknown} without annotations, of {len(of_split)}"
            left_out.append(Finding(split, "", "dropped query", detail))
    asked = {query.vid for query in kept}
    videos = {vid: video for vid, video in manifest.videos.items() if vid in asked}
    said = (finding for finding in manifest.findings if finding.action != "missing video")  # the counts tell
    return replace(manifest, videos=videos, queries=kept, findings=(*said, *left_out))


def write_fold(folder: Path, features: FeatureSet, judged: Manifest, folds: Folds, fold: int) -> Path:
    """The feature folder of a fold; one that is there is left as it is, so that its runs go on.

    judged: what `judged_queries` gave. Raises ValueError where the folder holds another fold.
    """
    manifest, path = relabel(judged, folds, fold), folder / "manifest.parquet"
    if not path.is_file():
        write_manifest(manifest, path)
    elif read_manifest(path) != manifest:
        raise ValueError(f"{folder} holds a fold of other features or annotations, or another fold; give another --out")
    for store in (*features.video, features.text):
        _link(folder / store.spec.kind / store.folder.name, store.folder.resolve())
    return folder


def _link(link: Path, store: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and Path(os.readlink(link)) != store:
        link.unlink()  # the features were moved
    if not link.exists():  # a copy in its place, of a folder that was copied with what links lead to, does as well
        link.symlink_to(store, target_is_directory=True)
