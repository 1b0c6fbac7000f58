"""A features folder checked, and mended: tables from the shards, broken shards from their sources, nothing else.

Shards are the truth: store.json, plan, index and failures are made again from them, without any encoder. A shard that
is damaged or lost is set aside and extracted again from the sources that were planned for it, by the very encoder that
the spec names. What cannot be extracted again is named, in the report and in failures.parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...extract.index import build_index, missing_sources, write_index, written_index
from ...extract.layout import SPEC_FILE, Failure, Source, StoreError, StoreSpec, shard_name
from ...extract.mend import ASIDE, assigned_sources, restore_spec, set_aside
from ...extract.parts import clear_parts
from ...extract.plan import Assigned, read_plan, refused_sources, write_plan
from ...extract.reader import FeatureStore, find_stores
from ...extract.schedule import Progress, extract_store
from ...extract.verify import TABLES, OnBytes, Problem, absent_shards, check_shards, verify_store
from ...extract.workers import Workers, visible_gpus
from ...extract.writer import locked_store
from ...manifests.files import read_manifest
from ...manifests.schema import Manifest
from .encoder_of import Extraction, NotComputable, extraction_for
from .sources_of import MANIFEST, find_sources, ids_of

LOST = "damaged"  # the stage of a source whose features are lost and cannot be computed


@dataclass(frozen=True)
class Means:
    """What broken shards are extracted again with."""

    videos: Path | None = None
    """None: data/<dataset>/videos."""
    video_weights: str | None = None
    """Where the encoder of the videos is now; None: where it came from."""
    text_encoder: str | None = None
    """The same of the sentences."""
    device: str = "cpu"
    on_bytes: OnBytes = lambda done, total: None
    on_progress: Callable[[str, Progress], None] = lambda kind, progress: None
    on_wait: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class StoreRepair:
    """What was done for one store."""

    folder: Path
    rebuilt: tuple[str, ...] = ()
    """Files other than shards that were made again."""
    extracted: int = 0
    """Sources that were extracted again and have features."""
    lost: tuple[Failure, ...] = ()
    """Sources that had features, as far as is known, and have none now; failures.parquet says so too."""
    problem: str | None = None
    """What is still to be done; None where nothing is."""


@dataclass(frozen=True)
class RepairReport:
    """What `repair` did."""

    stores: tuple[StoreRepair, ...]
    manifests: tuple[Problem, ...]
    """Manifests that cannot be made again from what is in the folder."""

    @property
    def complete(self) -> bool:
        """Whether everything is as it was."""
        return not self.manifests and not any(store.problem or store.lost for store in self.stores)


def verify_features(folder: Path, on_bytes: OnBytes = lambda done, total: None) -> list[Problem]:
    """What is not as written in the stores below a folder and in their manifests, to the single bit.

    Raises ValueError where there are no stores.
    """
    stores = _stores(folder)
    return _manifest_problems(folder, stores) + [p for store in stores for p in verify_store(store, on_bytes)]


def repair(folder: Path, means: Means | None = None, workers: str | None = None) -> RepairReport:
    """Mend the stores below a folder, or the one that it is. Sound shards are not touched.

    Raises ValueError where there are no stores, OSError where they cannot be written.
    """
    means, stores = means or Means(), _stores(folder)
    with Workers.parse(workers, gpus=visible_gpus(means.device)) as crew:
        mended = tuple(_repair_store(store, means, crew) for store in stores)
    return RepairReport(mended, tuple(_manifest_problems(folder, stores)))


class _Damage(NamedTuple):
    """What is wrong with a store, and what is known of what it held."""

    broken: list[int]
    """Shards that are damaged or not there."""
    assigned: Assigned
    """Broken shards without what newer ones have."""
    wanted: list[str]
    """The sources that were in broken shards."""
    untold: bool
    """Nothing tells what some of the broken shards held."""
    missing: list[Failure]
    """Of sources that no shard knows."""
    refused: list[Failure]
    failed: frozenset[str]
    """Sources that are known to have had no features before."""


class _Again(NamedTuple):
    """How the sources of broken shards are extracted again."""

    extraction: Extraction | None = None
    """None: not at all."""
    sources: Sequence[Source] = ()
    gone: Sequence[Failure] = ()
    """The sources that cannot be."""
    problem: str | None = None


def _repair_store(folder: Path, means: Means, crew: Workers) -> StoreRepair:
    before = _contents(folder)
    try:
        spec = restore_spec(folder)
    except StoreError as error:
        return StoreRepair(folder, problem=str(error))
    with locked_store(folder, spec, means.on_wait):
        manifest = _manifest(folder)
        damage = _diagnose(folder, spec, manifest, means.on_bytes)
        shards = ", ".join(map(shard_name, damage.broken))
        try:
            again = _again(spec, damage, manifest, means)
        except ValueError as error:
            problem = f"{shards} in {folder} cannot be extracted again and was left as it is: {error}"
            return StoreRepair(folder, _changed(folder, before), problem=problem)
        for name in (*map(shard_name, damage.broken), *TABLES):
            if name not in TABLES or not (folder / name).is_file():
                set_aside(folder / name)
        _write_tables(folder, spec, damage.assigned, damage.refused, [*damage.missing, *again.gone])
        if not damage.broken:
            clear_parts(folder, spec)
    if again.extraction is not None:
        extract_store(
            folder, spec, again.sources, again.extraction, crew, retry_failures=True, rehash=True,
            on_progress=partial(means.on_progress, spec.kind), on_wait=means.on_wait,
        )  # fmt: skip
        with locked_store(folder, spec, means.on_wait):
            plan, missing = read_plan(folder, spec), [*missing_sources(folder, spec), *damage.refused]
            _write_tables(folder, spec, plan, damage.refused, missing)
    store = FeatureStore.open(folder)
    failures = {failure.id: failure for failure in store.failures}
    lost = tuple(failures[id_] for id_ in damage.wanted if id_ not in store and id_ not in damage.failed)
    if not lost:
        for number in damage.broken:
            for path in folder.glob(f"{ASIDE}{shard_name(number)}*"):
                if not path.is_dir():
                    path.unlink()
    extracted = sum(id_ in store for id_ in damage.wanted)
    return StoreRepair(folder, _changed(folder, before), extracted, lost, again.problem)


def _diagnose(folder: Path, spec: StoreSpec, manifest: Manifest | None, on_bytes: OnBytes) -> _Damage:
    _, damaged = check_shards(folder, spec, on_bytes)
    for error in damaged.values():
        if isinstance(error, OSError):
            raise error  # not known to be damaged
    assigned = assigned_sources(folder, spec, damaged)
    broken = sorted(damaged.keys() | absent_shards(folder, assigned).keys())
    untold = not damaged.keys() <= assigned.keys()
    newest = {id_: number for number, sources in assigned.items() for id_, _ in sources}
    for number in broken:
        assigned[number] = [source for source in assigned.get(number, ()) if newest[source[0]] == number]
    wanted = [id_ for number in broken for id_, _ in assigned[number]]
    index, missing = written_index(folder, spec), missing_sources(folder, spec)
    if manifest is not None:
        told = newest.keys() | {failure.id for failure in missing}
        nowhere = [id_ for id_ in ids_of(manifest, spec.kind) if id_ not in told]
        if untold:
            wanted, untold = wanted + nowhere, False
        elif index is None and spec.kind == "video":
            missing += _missing_videos(manifest, nowhere)
    return _Damage(
        broken,
        {number: sources for number, sources in assigned.items() if sources},
        wanted,
        untold,
        missing,
        refused_sources(folder, spec),
        frozenset(() if index is None else (failure.id for failure, _ in index.failures if failure.stage != LOST)),
    )


def _again(spec: StoreSpec, damage: _Damage, manifest: Manifest | None, means: Means) -> _Again:
    """Raises ValueError where the sources or the encoder are not to be had here."""
    if damage.untold:
        raise ValueError(f"neither plan nor index tells what was in it, nor does {MANIFEST}; run `rdmf features` again")
    if not damage.wanted:
        return _Again()
    try:
        extraction = extraction_for(spec, means.video_weights, means.text_encoder, means.device)
    except NotComputable as error:
        what = f"{error}; import them again with `rdmf store import`"
        gone = [Failure(id_, LOST, f"its shard was damaged or lost: {what}") for id_ in damage.wanted]
        return _Again(gone=gone, problem=what)
    sources, gone = find_sources(spec, damage.wanted, manifest, means.videos)
    return _Again(extraction, sources, gone)


def _missing_videos(manifest: Manifest, vids: Iterable[str]) -> list[Failure]:
    """The failures of videos that no shard knows, as `rdmf features` had told them."""
    folders = {finding.detail: finding.source for finding in manifest.findings if finding.action == "missing video"}
    return [
        Failure(
            vid, "missing", f"no video file of this name in {folders.get(f'{vid} has no file', 'the folder given')}"
        )
        for vid in vids
    ]


def _write_tables(
    folder: Path, spec: StoreSpec, plan: Assigned, refused: Sequence[Failure], missing: Sequence[Failure]
) -> None:
    write_plan(folder, spec, plan, refused)
    write_index(folder, spec, build_index(folder, spec, missing))


def _stores(folder: Path) -> list[Path]:
    stores = find_stores(folder)
    if not stores:
        raise ValueError(f"{folder} holds no feature stores; make them with `rdmf features`")
    return stores


def _manifest_problems(folder: Path, stores: Sequence[Path]) -> list[Problem]:
    problems = []
    for path in dict.fromkeys(_manifest_of(store) for store in stores):
        if stores == [folder] and not path.exists():
            continue  # a store on its own
        try:
            read_manifest(path)
        except ValueError as error:
            problems.append(Problem(path, f"{error} (with the same settings it reuses the features)", mendable=False))
    return problems


def _manifest_of(store: Path) -> Path:
    return store.parent.parent / MANIFEST


def _manifest(store: Path) -> Manifest | None:
    try:
        return read_manifest(_manifest_of(store))
    except ValueError:
        return None


def _contents(folder: Path) -> dict[str, bytes | None]:
    paths = ((name, folder / name) for name in (SPEC_FILE, *TABLES))
    return {name: path.read_bytes() if path.is_file() else None for name, path in paths}


def _changed(folder: Path, before: dict[str, bytes | None]) -> tuple[str, ...]:
    return tuple(name for name, content in _contents(folder).items() if content != before[name])
