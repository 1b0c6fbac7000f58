"""The tables of an ablation: every variant's numbers over seeds and queries, and its differences from the baseline.

Intervals and p-values are those of evaluation/seed_intervals.py; differences pair queries, and seeds by their number.
The p-values of a metric are corrected by Holm's method over the variants. Fractions in, percent in text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..comparison.compare import ALPHA, FEW_VIDEOS
from ..evaluation.columns import columns
from ..evaluation.evaluate import Results
from ..evaluation.headline import headings
from ..evaluation.seed_intervals import Estimates, estimate
from ..evaluation.significance import holm

if TYPE_CHECKING:
    from .cost import Cost


Key = TypeVar("Key")
COSTS = ("FLOPs/query", "step", "memory")
"""Headings of what Cost adds."""


@dataclass(frozen=True)
class Number:
    """A mean over seeds and queries; or a difference of two, paired."""

    value: float
    low: float | None
    high: float | None
    """The 95% interval; None where all is about one video."""
    deviation: float | None
    """Over the seeds (n - 1); None with one."""
    p: float
    """Of the value being 0, which is of interest for differences."""
    p_holm: float = 1.0

    @property
    def verdict(self) -> str:
        """Of a difference: one of 'better', 'worse', 'not shown'."""
        if self.p_holm >= ALPHA:
            return "not shown"
        return "better" if self.value > 0 else "worse"


@dataclass(frozen=True)
class Row:
    """One variant."""

    name: str
    folder: str
    settings: dict[str, Any]
    """What it sets otherwise than the base."""
    seeds: tuple[int, ...] = ()
    """Those that are finished."""
    numbers: dict[str, Number] | None = None
    """By the names of `columns`; None where no seed is finished."""
    differences: dict[str, Number] | None = None
    """From the baseline, over the seeds that both have; None for itself."""
    parameters: int | None = None
    train_seconds: float | None = None
    """The mean over the seeds."""
    missing: dict[int, str] | None = None
    """Seeds that are not finished, and why."""
    refused: str | None = None
    """What the model says to these settings."""
    cost: Cost | None = None
    """None where it was not measured."""

    def to_json(self) -> dict[str, Any]:
        tree = asdict(self)
        for name, difference in (self.differences or {}).items():
            tree["differences"][name]["verdict"] = difference.verdict
        return tree


@dataclass(frozen=True)
class AblationTable:
    """All variants of a sweep."""

    dataset: str
    split: str
    protocol: str
    queries: int
    videos: int
    baseline: str | None
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    costs_on: dict[str, Any] | None = None
    """Device, threads and torch that costs were measured on; None where they were not."""

    @property
    def headings(self) -> dict[str, str]:
        """Heading -> name, of the numbers that the field reports."""
        return headings(self.protocol, next((row.numbers for row in self.rows if row.numbers), {}))

    def to_json(self) -> dict[str, Any]:
        tree = self.__dict__ | {"seeds": list(self.seeds), "notes": list(self.notes)}
        return tree | {
            "format": 1,
            "alpha": ALPHA,
            "method": method(self),
            "rows": [row.to_json() for row in self.rows],
        }


def tabulate(
    rows: Sequence[Row], results: Mapping[str, Mapping[int, Results]], baseline: str | None, seeds: Sequence[int],
    notes: Sequence[str] = (),
) -> AblationTable:  # fmt: skip
    """Fill the rows in. results: at least one, by folder and seed, all on the same queries. baseline: None for none."""
    every = [each for of in results.values() for each in of.values()]
    first = every[0]
    assert all(each.table["qid"].tolist() == first.table["qid"].tolist() for each in every), "on the same queries"
    names = [name for name in columns(first.table) if all(name in columns(each.table) for each in every)]
    videos = first.table["source"]
    stacks = {
        folder: {seed: np.stack([columns(found.table)[name] for name in names], 1) for seed, found in of.items()}
        for folder, of in results.items()
    }
    base = stacks.get(next((row.folder for row in rows if row.name == baseline), ""), {})
    filled, comparable = [], {}
    for row in rows:
        own = stacks.get(row.folder, {})
        if own:
            found = estimate(np.stack([own[seed] for seed in sorted(own)]), videos)
            found = found._replace(low=found.low.clip(0, 1), high=found.high.clip(0, 1))  # they are shares
            numbers = _numbers(names, found)
            row = replace(row, seeds=tuple(sorted(own)), numbers=numbers)
        both = sorted(own.keys() & base.keys())
        if own is not base and both:
            if row.folder not in comparable:
                paired = np.stack([own[seed] - base[seed] for seed in both])
                comparable[row.folder] = _numbers(names, estimate(paired, videos))
            row = replace(row, differences=comparable[row.folder])
        filled.append(row)
    told = corrected(comparable)
    filled = [row if row.differences is None else replace(row, differences=told[row.folder]) for row in filled]
    said = list(notes)
    if len(np.unique(videos)) < FEW_VIDEOS:
        said.append(f"fewer than {FEW_VIDEOS} videos: intervals are narrower than they should be")
    if alone := [row.name for row in filled if len(row.seeds) == 1]:
        all_alone = max(len(of) for of in results.values()) == 1
        which = "one seed each" if all_alone else f"one seed of {', '.join(alone)}"
        said.append(f"{which}: intervals are about other videos, not about other seeds")
    ours = first.rdmf
    return AblationTable(
        ours["dataset"], ours["split"], first.protocol, len(videos), len(np.unique(videos)), baseline, tuple(seeds),
        tuple(filled), tuple(said),
    )  # fmt: skip


def stacked(table: AblationTable) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the numbers for a terminal, each interval under its number."""
    costs = COSTS if table.costs_on else ()
    head = ["variant", *table.headings, "weights", *costs, "training"]
    return head, [_number_cells(table, row) for row in table.rows if row.numbers is not None]


def stacked_differences(table: AblationTable) -> tuple[list[str], list[list[str]]]:
    """The same of the differences from the baseline, each verdict under its interval."""
    head = [f"minus {table.baseline}", *table.headings]
    return head, [_difference_cells(table, row) for row in table.rows if row.differences is not None]


def method(table: AblationTable) -> str:
    """How the numbers came about, in one paragraph."""
    return (
        f"{table.dataset} {table.split}: {table.queries} queries about {table.videos} source videos, "
        f"protocol {table.protocol}; means over the seeds {', '.join(map(str, table.seeds))} and over queries, in "
        "percent. In brackets the 95% interval for other videos and other seeds (bootstrap over source videos and "
        "deviation over seeds, added as variances; Student's t with Satterthwaite's degrees of freedom). Differences "
        f"from {table.baseline} are paired query by query and seed by seed; 'better' and 'worse' where the p-value, "
        f"corrected by Holm's method over the variants of a metric, is below {ALPHA:g}. Weights: the learned numbers; "
        f"training: a run's seconds, mean over seeds.{cost_method(table)}"
    )


def cost_method(table: AblationTable) -> str:
    costs, on = [row.cost for row in table.rows if row.cost is not None], table.costs_on
    if not costs or on is None:
        return ""
    batches = " or ".join(map(str, sorted({cost.batch for cost in costs})))
    threads = f"{on['threads']} thread{'s' * (on['threads'] > 1)}"
    return (
        " Costs were measured in turn, one model's step after another's, on one machine "
        f"({on['device']}, {threads}, torch {on['torch']}). FLOPs: additions and multiplications of one answer "
        f"(matrix products, attention, the reaction), on a query of {costs[0].clips} clips and {costs[0].words} "
        f"words. Step: median [fastest, slowest] of a training step of {batches} queries with the data there, not "
        "compiled. Memory: the most that such a step holds beyond weights, optimizer and batch."
    )


def markdown(table: AblationTable) -> str:
    """Tables, method and notes as a Markdown document."""
    parts = [markdown_table(*stacked(table))]
    if any(row.differences is not None for row in table.rows):
        parts.append(markdown_table(*stacked_differences(table)))
    parts.append(method(table))
    if notes := [*table.notes, *problems(table)]:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of text; what stands in several lines of a cell comes in one."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    cells = ([cell.replace("\n", " ").replace("|", "\\|") for cell in row] for row in (head, rule, *body))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def problems(table: AblationTable) -> list[str]:
    """What is not in the numbers, a sentence each."""
    refused = [f"{row.name} is refused: {row.refused}" for row in table.rows if row.refused is not None]
    folders = {row.folder: row for row in reversed(table.rows)}.values()
    missing = [f"{r.name}, seed {seed}: {why}" for r in folders for seed, why in (r.missing or {}).items()]
    return refused + missing


def _numbers(names: Sequence[str], found: Estimates) -> dict[str, Number]:
    def some(value: np.ndarray) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {
        name: Number(float(found.mean[i]), some(found.low[i]), some(found.high[i]), some(found.deviation[i]),
                     float(found.p[i]))
        for i, name in enumerate(names) if np.isfinite(found.mean[i])
    }  # fmt: skip


def corrected(differences: Mapping[Key, dict[str, Number]]) -> dict[Key, dict[str, Number]]:
    """With the p-values of each metric corrected over all that was compared."""
    out: dict[Key, dict[str, Number]] = {key: {} for key in differences}
    for name in dict.fromkeys(name for of in differences.values() for name in of):
        family = {key: of[name] for key, of in differences.items() if name in of}
        for (key, number), p in zip(family.items(), holm([each.p for each in family.values()]), strict=True):
            out[key][name] = replace(number, p_holm=p)
    return out


def _number_cells(table: AblationTable, row: Row) -> list[str]:
    numbers = [_cell((row.numbers or {}).get(name), ".2f", ".1f") for name in table.headings.values()]
    parameters = "-" if row.parameters is None else f"{row.parameters / 1e6:.2f} M"
    seconds = "-" if row.train_seconds is None else f"{row.train_seconds:,.0f} s"
    return [
        _title(table, row, row.seeds),
        *numbers,
        parameters,
        *(_cost_cells(row.cost) if table.costs_on else ()),
        seconds,
    ]


def _cost_cells(cost: Cost | None) -> list[str]:
    if cost is None:
        return ["-"] * len(COSTS)
    median, *ends = (f"{1e3 * s:,.{1 if cost.step_seconds < 0.1 else 0}f}" for s in (
        cost.step_seconds, cost.step_fastest, cost.step_slowest,
    ))  # fmt: skip
    flops = f"{cost.flops_per_query / 1e9:,.3g} G"
    return [flops, f"{median} ms\n[{', '.join(ends)}]", f"{cost.peak_bytes / 1e6:,.0f} MB"]


def _difference_cells(table: AblationTable, row: Row) -> list[str]:
    base = next((each.seeds for each in table.rows if each.name == table.baseline), ())
    cells = [_title(table, row, [seed for seed in row.seeds if seed in base])]
    for name in table.headings.values():
        number = (row.differences or {}).get(name)
        verdict = "" if number is None else f"\n{number.verdict}"
        cells.append(_cell(number, "+.2f", "+.1f") + verdict)
    return cells


def _title(table: AblationTable, row: Row, seeds: Sequence[int]) -> str:
    if len(seeds) == len(table.seeds):
        return row.name
    return f"{row.name} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"


def _cell(number: Number | None, fine: str, coarse: str) -> str:
    if number is None:
        return "-"
    text = f"{100 * number.value:{fine}}"
    if number.low is None or number.high is None:
        return text
    return f"{text}\n[{100 * number.low:{coarse}}, {100 * number.high:{coarse}}]"
