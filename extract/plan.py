"""Which source goes to which shard: fixed first, so that a killed run resumes to the identical store.

A source is reused where the newest record of its id has its stamp (`layout.source_stamp`), a failure too:
the same file fails again. What is new or changed is appended as new shards. A planned shard that was never
written keeps its number and order. A source whose id no store can keep goes to no shard: the plan says why, and
it is a failure like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from .layout import (
    PLAN_FILE,
    REFUSED,
    Failure,
    Source,
    StoreError,
    StoreSpec,
    check_source_id,
    file_sha256,
    shard_files,
    shown_id,
    source_stamp,
)
from .shard import Record, read_shard
from .tables import read_table, write_table

PLAN_COLUMNS = {"shard": "int32", "id": "string", "stamp": "string"}
Assigned: TypeAlias = dict[int, list[tuple[str, str]]]
"""(id, stamp) of the sources of each shard, by its number."""


class Planned(NamedTuple):
    """A source and the stamp of its content when it was planned."""

    source: Source
    stamp: str


@dataclass(frozen=True)
class Plan:
    to_do: dict[int, tuple[Planned, ...]]
    """The shards to write, by number."""
    reused: int
    """Sources whose features are in the store already."""


def make_plan(
    folder: Path,
    spec: StoreSpec,
    sources: Sequence[Source],
    shard_items: int,
    retry_failures: bool = False,
    rehash: bool = False,
) -> Plan:
    """Compare the sources with what is stored and planned, decide what to do, and store that as plan.parquet.

    Raises StoreError for a damaged shard that `sources` lack.
    """
    if shard_items < 1:
        raise ValueError(f"expected at least 1 item per shard, got {shard_items}")
    given: dict[str, Planned] = {}
    refused: list[Failure] = []
    for source in sources:
        try:
            check_source_id(source.id)
            if source.id in given:
                raise ValueError("expected distinct ids, got this one again; the first source of it counts")
            given[source.id] = Planned(source, source_stamp(spec.kind, source))
        except ValueError as error:
            refused.append(Failure(shown_id(source.id), REFUSED, str(error)))

    plan = read_plan(folder, spec)
    newest: dict[str, Record] = {}
    damaged: dict[int, StoreError] = {}
    for number, path in shard_files(folder).items():
        try:
            records = read_shard(path, number, spec).records
        except StoreError as error:
            damaged[number] = error
            continue
        newest.update((record.id, record) for record in records)
        plan.setdefault(number, [(record.id, record.stamp) for record in records])
    unfinished = [n for n in plan if n in damaged or n not in shard_files(folder)]
    for number, damage in damaged.items():
        lost = [id_ for id_, _ in plan.get(number, ()) if id_ not in given]
        if lost or number not in plan:
            raise StoreError(f"{damage}; {len(lost) or 'some'} of its sources are not among those given here")
        shard_files(folder)[number].unlink()

    def settled(planned: Planned) -> bool:
        record = newest.get(planned.source.id)
        if record is None or record.stamp != planned.stamp or (record.failure and retry_failures):
            return False
        if not rehash or spec.kind == "text" or planned.source.stamp or record.failure:
            return True
        try:
            return record.source_sha256 == file_sha256(Path(planned.source.content))
        except OSError:
            return False  # extraction will say what is wrong with the file

    waiting = {id_: planned for id_, planned in given.items() if not settled(planned)}
    reused = sum(id_ not in waiting and newest[id_].failure is None for id_ in given)
    to_do: dict[int, tuple[Planned, ...]] = {}
    for number in unfinished:
        to_do[number] = tuple(waiting.pop(id_) for id_, _ in plan.pop(number) if id_ in waiting)
    rest, first = list(waiting.values()), max([-1, *plan, *to_do]) + 1
    for i in range(0, len(rest), shard_items):
        to_do[first + i // shard_items] = tuple(rest[i : i + shard_items])
    to_do = {number: to_do[number] for number in sorted(to_do) if to_do[number]}
    planned = {n: [(p.source.id, p.stamp) for p in todo] for n, todo in to_do.items()}
    write_plan(folder, spec, plan | planned, refused)
    return Plan(to_do, reused)


def read_plan(folder: Path, spec: StoreSpec) -> Assigned:
    """The sources of every planned shard; empty where the plan is lost or damaged."""
    plan: Assigned = {}
    table = read_table(folder / PLAN_FILE, spec, PLAN_COLUMNS)
    if table is not None:
        for number, id_, stamp in zip(*table[0].values(), strict=True):
            plan.setdefault(number, []).append((id_, stamp))
    return plan


def refused_sources(folder: Path, spec: StoreSpec) -> list[Failure]:
    """The sources of the last extraction whose ids no store can keep."""
    table = read_table(folder / PLAN_FILE, spec, PLAN_COLUMNS)
    return [] if table is None else [Failure(id_, REFUSED, reason) for id_, reason in table[1]["refused"]]


def write_plan(folder: Path, spec: StoreSpec, plan: Assigned, refused: Sequence[Failure] = ()) -> None:
    rows = [(number, id_, stamp) for number in sorted(plan) for id_, stamp in plan[number]]
    columns = {name: (kind, [row[i] for row in rows]) for i, (name, kind) in enumerate(PLAN_COLUMNS.items())}
    write_table(folder / PLAN_FILE, spec, columns, {"refused": [[f.id, f.reason] for f in refused]})
