"""A validation split for datasets that have none, so that nobody picks the epoch on the test set."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from .schema import Finding, Manifest


def carve_validation(
    manifest: Manifest, fraction: float = 0.1, seed: int = 0, source: str = "train", target: str = "val"
) -> Manifest:
    """Move all queries of a `fraction` of the videos of split `source` to a new split `target`.

    Whole videos move, so no video is on both sides. Which ones depends on the video ids and the seed alone:
    they are ordered by the SHA-256 of 'seed:vid' and the first round(fraction * videos) of them (at least
    one, never all) taken, the same on every machine and in whatever order the queries come. The move is
    entered in the findings.

    Raises ValueError for a fraction outside (0, 1), an unknown source, a target that exists, or fewer than
    two videos.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction between 0 and 1, got {fraction}")
    if not target or target in manifest.splits:
        raise ValueError(f"expected a new split to carve, got {target!r}, which {manifest.dataset} has already")
    vids = sorted({query.vid for query in manifest.split(source)}, key=lambda vid: _order(vid, seed))
    if len(vids) < 2:
        raise ValueError(f"expected at least 2 videos in split {source!r} to carve {target!r} from, got {len(vids)}")
    taken = set(vids[: min(max(round(fraction * len(vids)), 1), len(vids) - 1)])
    queries = tuple(
        replace(query, split=target) if query.split == source and query.vid in taken else query
        for query in manifest.queries
    )
    detail = f"{target}: all queries of {len(taken)} of {len(vids)} videos of {source}, seed {seed}"
    findings = (*manifest.findings, Finding(source, "", "carved split", detail))
    return replace(manifest, queries=queries, findings=findings)


def _order(vid: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{vid}".encode()).hexdigest()
