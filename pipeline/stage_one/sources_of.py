"""Where the sources of a store are: sentences in the manifest, videos or captions in a folder of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...extract.captions import RECORDED_PREFIX, caption_sources
from ...extract.frames import find_videos
from ...extract.layout import Failure, Kind, Source, StoreSpec
from ...manifests.schema import Manifest

MANIFEST = "manifest.parquet"


def ids_of(manifest: Manifest, kind: Kind) -> list[str]:
    """The ids of all that the queries of a dataset are about, or of the queries."""
    return list(dict.fromkeys(query.vid if kind == "video" else query.qid for query in manifest.queries))


def find_sources(
    spec: StoreSpec, ids: Sequence[str], manifest: Manifest | None, videos: Path | None
) -> tuple[list[Source], list[Failure]]:
    """The sources of the ids, and those ids that have none.

    videos: a folder; None: data/<dataset>/videos. Raises ValueError where not one source is to be found.
    """
    captions = spec.encoder.startswith(RECORDED_PREFIX)
    if manifest is None and (spec.kind == "text" or captions or videos is None):
        raise ValueError("manifest.parquet, which says what the sources are, cannot be read")
    if spec.kind == "text":
        assert manifest is not None
        where, found = MANIFEST, {query.qid: Source(query.qid, query.text) for query in manifest.queries}
    else:
        folder = videos or Path("data") / (manifest.dataset if manifest else "") / "videos"
        if not folder.exists():
            raise ValueError(f"there is no folder {folder} of the videos; give --videos DIR")
        where = str(folder)
        if captions:
            assert manifest is not None
            found = {source.id: source for source in caption_sources(folder, manifest).sources}
        else:
            found = {vid: Source(vid, str(path)) for vid, path in find_videos(folder, ids).items()}
    sources = [found[id_] for id_ in ids if id_ in found]
    gone = [Failure(id_, "missing", f"no source of this name in {where}") for id_ in ids if id_ not in found]
    if not sources:
        raise ValueError(
            f"{where} has none of the sources, such as {ids[0]}; give the folder that has with --videos DIR"
        )
    return sources, gone
