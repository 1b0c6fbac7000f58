"""Features that other tools extracted, as the folder of features that training reads.

    <out>/manifest.parquet    <out>/video/<name>-<fingerprint>/    <out>/text/<name>-<fingerprint>/

What is there already stays: one kind can be imported beside stores that exist, and the manifest of a features folder
is kept. The fingerprint covers the content of the files, so changed files make another store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...extract.alignment import Fit, Grid
from ...extract.extractors import TextExtraction
from ...extract.foreign import parse_stream
from ...extract.imports import Combine, FeatureImport, Located, Normalise, Recipe, locate_files, survey
from ...extract.layout import Failure, Source, StoreSpec
from ...extract.reader import FeatureStore
from ...extract.schedule import Receipt, extract_store
from ...manifests import dataset as find_dataset
from ...manifests.files import read_manifest, write_manifest
from ...manifests.schema import Finding, Manifest

OnProgress = Callable[[str, int, int], None]
"""Called with what is done ('reading video features', ...), items done, items in all."""
MANIFEST = "manifest.parquet"


@dataclass(frozen=True)
class VideoFiles:
    """Folders of video features, and how they become one feature per clip."""

    folders: Sequence[str | Path]
    """DIR, or DIR/{id}_rgb.npy; put together in this order."""
    clip_seconds: float
    stride_seconds: float | None = None
    """From clip to clip; None: clips do not overlap."""
    normalise: Normalise = "streams"
    combine: Combine = "concatenate"
    row_tolerance: int = 1
    key: str | None = None
    """The array to read out of files that have several."""
    name: str | None = None
    """Of the encoder; None: the folders' names."""

    def recipe(self) -> Recipe:
        streams = tuple(parse_stream(folder, self.key) for folder in self.folders)
        grid = Grid(self.clip_seconds, self.stride_seconds or self.clip_seconds)
        return Recipe("video", streams, grid, self.normalise, self.combine, self.row_tolerance, self.name)


@dataclass(frozen=True)
class TextFiles:
    """A folder of token features, one file for each query."""

    folder: str | Path
    normalise: Normalise = "streams"
    key: str | None = None
    name: str | None = None

    def recipe(self) -> Recipe:
        return Recipe("text", (parse_stream(self.folder, self.key),), None, self.normalise, name=self.name)


@dataclass(frozen=True)
class ImportedStore:
    """What became of one store."""

    folder: Path
    spec: StoreSpec
    receipt: Receipt
    failures: tuple[Failure, ...]
    """Items without features, those without a file included."""
    fits: Mapping[str, Fit]
    """How the rows of each video became clips."""
    unused: tuple[int, ...]
    """Feature files per folder that belong to nothing in the annotations."""
    others: tuple[str, ...]
    """Other stores of the kind in the same folder: training has to be told which to read."""


@dataclass(frozen=True)
class ImportReport:
    """What `import_features` did."""

    manifest: Manifest
    kept_manifest: bool
    """Whether the manifest was there before."""
    stores: tuple[ImportedStore, ...]
    lacks: tuple[str, ...]
    """Kinds that have no store in the folder yet, so that it cannot be trained on."""

    @property
    def complete(self) -> bool:
        """Whether every video and sentence of the stores has features."""
        return not any(store.failures for store in self.stores)


def import_features(
    name: str,
    annotations: Path | None,
    out: Path,
    *,
    video: VideoFiles | None = None,
    text: TextFiles | None = None,
    text_encoder: str | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> ImportReport:
    """Write the features of other tools as stores in `out`, or bring those stores up to date.

    annotations: as for `rdmf features`; not needed where `out` has a manifest, which is kept.
    text_encoder: encode the sentences here (a BERT, as for `rdmf features`) instead of importing them.
    Raises ValueError on annotations or folders that cannot be used. A file that cannot be used is a failure of its
    item, in the report and in the store's failures.parquet, and the rest goes on.
    """
    if video is None and text is None and text_encoder is None:
        raise ValueError("expected features to import: give --video-features DIR, --text-features DIR, or both")
    if text is not None and text_encoder is not None:
        raise ValueError("expected --text-features or --text-encoder, got both")
    recipes = [files.recipe() for files in (video, text) if files is not None]
    manifest, kept = _manifest(name, annotations, out, video.clip_seconds if video else None)
    ids = {"video": [q.vid for q in manifest.queries], "text": [q.qid for q in manifest.queries]}
    found = [(recipe, locate_files(recipe, ids[recipe.kind])) for recipe in recipes]
    # all that can be wrong as a whole shows before the first store is written
    planned = [_survey(recipe, located, manifest, on_progress) for recipe, located in found]
    if text_encoder is not None:
        encoding = TextExtraction(text_encoder)
        planned.append(_Planned(encoding, encoding.spec(), [Source(q.qid, q.text) for q in manifest.queries]))
    stores = [_write(store, out, on_progress) for store in planned]
    if not kept:
        lost = [
            Finding(recipe.encoder, "", "missing video", f"{vid} has {why}")
            for recipe, located in found
            if recipe.kind == "video"
            for vid, why in located.missing.items()
        ]
        manifest = replace(manifest, findings=(*manifest.findings, *lost))
        write_manifest(manifest, out / MANIFEST)
    lacks = tuple(kind for kind in ("video", "text") if not _stores_in(out / kind))
    return ImportReport(manifest, kept, tuple(stores), lacks)


def _manifest(name: str, annotations: Path | None, out: Path, clip_seconds: float | None) -> tuple[Manifest, bool]:
    """The manifest of the features folder, else the annotations', and whether it was there."""
    dataset = find_dataset(name, clip_seconds)
    if not (out / MANIFEST).is_file():
        if annotations is None:
            raise ValueError(f"expected the annotations of {name}: {out} has no {MANIFEST}; give --annotations DIR")
        return dataset.read(annotations), False
    kept = read_manifest(out / MANIFEST)
    if kept.dataset != name:
        raise ValueError(f"{out} holds features of {kept.dataset}, not of {name}; give --out another folder")
    if annotations is not None:
        given = dataset.read(annotations)
        ours, theirs = ({(q.qid, q.vid, q.split, q.text) for q in m.queries} for m in (kept, given))
        if ours != theirs:
            raise ValueError(
                f"{out / MANIFEST} was made from other annotations ({len(ours - theirs)} of its queries are not in "
                f"{annotations}, {len(theirs - ours)} there are not in it); give --out another folder, or delete the "
                "manifest, and the stores stay"
            )
    return kept, True


@dataclass(frozen=True)
class _Planned:
    """A store before it is written."""

    extraction: FeatureImport | TextExtraction
    spec: StoreSpec
    sources: Sequence[Source]
    missing: Sequence[Failure] = ()
    fits: Mapping[str, Fit] = field(default_factory=dict)
    unused: tuple[int, ...] = ()


def _survey(recipe: Recipe, located: Located, manifest: Manifest, on_progress: OnProgress) -> _Planned:
    durations = {vid: s for vid, video in manifest.videos.items() if (s := video.duration_s) is not None}
    extraction = survey(recipe, located, durations, lambda *at: on_progress(f"reading {recipe.kind} features", *at))
    missing = [Failure(id_, "missing", reason) for id_, reason in located.missing.items()]
    return _Planned(extraction, extraction.spec(), extraction.sources(), missing, extraction.fits, located.unused)


def _write(store: _Planned, out: Path, on_progress: OnProgress) -> ImportedStore:
    kind, folder = store.spec.kind, out / store.spec.kind / store.spec.folder_name
    receipt = extract_store(
        folder, store.spec, store.sources, store.extraction, None, missing=store.missing,
        in_parts=False, retry_failures=True,  # what failed by its rows may not, with another tolerance
        on_progress=lambda at: on_progress(f"writing {kind} features", at.done, at.total),
    )  # fmt: skip
    others = tuple(name for name in _stores_in(folder.parent) if name != folder.name)
    failures = FeatureStore.open(folder).failures
    return ImportedStore(folder, store.spec, receipt, failures, store.fits, store.unused, others)


def _stores_in(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/store.json"))
