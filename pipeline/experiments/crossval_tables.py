"""The tables of a cross-validation: all folds' test queries pooled, so that every query counts once for each model.

A model's result with one seed is the union of what its runs scored on their folds' test parts. What follows is what
an ablation and `rdmf compare` do with results (ablation_tables.py, comparison/compare.py), with source videos as the
units that are resampled: segments of one video lie in one fold and are drawn together. The p-values of a metric are
corrected by Holm's method over all comparisons. Fractions in, percent in text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..comparison import comparison_text
from ..comparison.compare import ALPHA, Comparison, compare
from ..comparison.systems import System
from ..evaluation import remarks
from ..evaluation.evaluate import Results
from ..evaluation.official import official_numbers
from ..evaluation.significance import holm
from .ablation_tables import (
    AblationTable,
    Number,
    Row,
    corrected,
    cost_method,
    markdown_table,
    problems,
    stacked,
    tabulate,
)

Pair = tuple[str, str]
CORRECTION = "Holm over all compared pairs, for each metric and test"


@dataclass(frozen=True)
class Tuned:
    """What tuning found for one model on one fold."""

    scores: tuple[float | None, ...]
    """Of each trial on the fold's validation part; None where it failed."""
    chosen: int | None
    """The place of the best one, the first of equals; None where all failed."""


@dataclass(frozen=True)
class CrossvalTable:
    """All models on the folds that are finished."""

    numbers: AblationTable
    """Its rows have no differences: those are below."""
    folds: int
    folds_asked: tuple[int, ...]
    folds_in: tuple[int, ...]
    """The folds that every number is on."""
    differences: dict[Pair, dict[str, Number]]
    """Of each comparison, over the seeds that both have; p-values corrected over all of them."""
    tests: tuple[Comparison, ...]
    """What `rdmf compare` says of the same pairs, corrected likewise."""
    tuned: dict[str, dict[int, Tuned]]
    """By model and fold."""
    trials: dict[str, tuple[str, ...]]
    """What each trial of each model sets."""
    select_by: str
    """The score that chose epochs and trials."""
    runs: int
    """Trainings that are finished."""
    planned_runs: int
    """Of the whole plan."""
    failures: tuple[str, ...]
    """Of trainings, a sentence each."""

    @property
    def name(self) -> str:
        """Of its files: what is asked of some folds does not overwrite what was told of all."""
        some = len(self.folds_asked) < self.folds
        return "table" + f"-of-fold-{'-'.join(map(str, self.folds_asked))}" * some

    @property
    def lacking(self) -> list[str]:
        """What was asked for and is not in the numbers."""
        out = [number for number in self.folds_asked if number not in self.folds_in]
        unfinished = [f"folds {', '.join(map(str, out))} are not finished"] if out else []
        return [*unfinished, *problems(self.numbers), *self.failures]

    def seeds_of(self, *names: str) -> list[int]:
        """Those that all these models have."""
        return sorted(set.intersection(*(set(row.seeds) for row in self.numbers.rows if row.name in names)))

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1, "folds": self.folds, "folds_in": list(self.folds_in), "method": method(self),
            "table": {key: value for key, value in self.numbers.to_json().items() if key != "method"},
            "differences": [
                {"model": a, "minus": b, "seeds": self.seeds_of(a, b),
                 "numbers": {n: asdict(d) | {"verdict": d.verdict} for n, d in of.items()}}
                for (a, b), of in self.differences.items()
            ],
            "tests": [each.to_json() | {"correction": CORRECTION} for each in self.tests],
            "tuned": {name: {str(k): asdict(found) for k, found in of.items()} for name, of in self.tuned.items()},
            "trials": {name: list(said) for name, said in self.trials.items()}, "select_by": self.select_by,
            "runs": self.runs, "planned_runs": self.planned_runs, "lacking": self.lacking,
        }  # fmt: skip


class Shown(NamedTuple):
    """A table of text; a cell may have several lines."""

    title: str
    head: list[str]
    body: list[list[str]]


def pooled(results: Sequence[Results]) -> Results:
    """One model's results with one seed on several folds as one."""
    first = results[0]
    assert all(each.protocol == first.protocol for each in results)
    names = [name for name in first.table if all(name in each.table for each in results)]
    table = {name: np.concatenate([each.table[name] for each in results]) for name in names}
    assert len(np.unique(table["qid"])) == len(table["qid"]), "every query is tested once"
    missing = [qid for each in results for qid in each.rdmf["missing"]]
    ours = {
        "protocol": first.protocol, "dataset": first.rdmf["dataset"], "split": f"{len(results)} folds",
        "counts": remarks.counts(table, len(missing)), "missing": missing,
        "notes": list(dict.fromkeys(note for each in results for note in each.rdmf["notes"])),
    }  # fmt: skip
    return Results(first.protocol, official_numbers(table, first.protocol), ours, table)


def compared(
    rows: Sequence[Row], results: Mapping[str, Mapping[int, Results]], pairs: Sequence[Pair], seeds: Sequence[int],
    notes: Sequence[str],
) -> tuple[AblationTable, dict[Pair, dict[str, Number]], tuple[Comparison, ...]]:  # fmt: skip
    """Numbers, differences and tests of pooled results, by the folders of the rows and by seed."""
    table = tabulate(rows, results, None, seeds, notes)
    folder = {row.name: row.folder for row in rows}
    own = {name: results.get(at, {}).keys() for name, at in folder.items()}
    ready = [(a, b) for a, b in pairs if own.get(a, set()) & own.get(b, set())]
    differences: dict[Pair, dict[str, Number]] = {}
    for base in dict.fromkeys(b for _, b in ready):
        names = {base, *(a for a, b in ready if b == base)}
        judged = {folder[name]: results[folder[name]] for name in names}
        found = tabulate([row for row in rows if row.name in names], judged, base, seeds)
        differences |= {(row.name, base): row.differences for row in found.rows if row.differences is not None}
    tests = []
    for a, b in ready:
        both = sorted(results[folder[a]].keys() & results[folder[b]].keys())
        ours, theirs = (System(name, tuple(results[folder[name]][seed] for seed in both)) for name in (a, b))
        tests.append(compare(ours, [theirs], list(table.headings.values())))
    return table, corrected({pair: differences[pair] for pair in ready}), _corrected_tests(tests)


def tables(found: CrossvalTable) -> list[Shown]:
    """What is shown of them, in order."""
    columns = found.numbers.headings
    head, body = stacked(found.numbers)
    head[0], most = "model", 1 + len(columns)
    shown = [
        Shown(f"{_folds_said(found)}: means over seeds, in percent", head[:most], [row[:most] for row in body]),
        Shown("what they take", ["model", *head[most:]], [[row[0], *row[most:]] for row in body]),
    ]
    if found.differences:
        cells = [
            [f"{a} minus\n{b}{_with_seeds(found, a, b)}", *(_difference(of.get(name)) for name in columns.values())]
            for (a, b), of in found.differences.items()
        ]
        shown.append(Shown("differences, for other videos and other seeds", ["difference", *columns], cells))
        stacks = [(each.system, *comparison_text.stacked(each)) for each in found.tests]
        head = ["metric", "model\nagainst", "model's\nother's", *stacks[0][1][3:]]
        tests = [
            [row[0], f"{system}\n{row[1]}{_with_seeds(found, system, row[1])}", *row[2:]]
            for system, _, body in stacks
            for row in body
        ]
        shown.append(Shown("paired tests of `rdmf compare`: these models on other videos", head, tests))
    folds = sorted({fold for of in found.tuned.values() for fold in of})
    wins = [[name, *(_tuned(of.get(fold)) for fold in folds)] for name, of in found.tuned.items()]
    title = f"the trial that won on each fold, of {len(next(iter(found.trials.values())))}, and its {found.select_by}"
    shown.append(Shown(f"{title} on the fold's validation part", ["model", *(f"fold {k}" for k in folds)], wins))
    return shown


def markdown(found: CrossvalTable) -> str:
    """Tables, method, tests in sentences, and what is lacking, as a Markdown document."""
    parts = [f"**{s.title[0].upper()}{s.title[1:]}**\n\n{markdown_table(s.head, s.body)}" for s in tables(found)]
    parts.append("\n".join(f"- {said}" for said in trials_said(found)))
    parts.append(method(found))
    if said := [f"- {each.sentence(test)}" for each in found.tests for test in each.tests]:
        parts.append("\n".join(said))
    if notes := [*found.numbers.notes, *found.lacking]:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def trials_said(found: CrossvalTable) -> list[str]:
    """'cross-attention: trial 1: training.lr = 0.001; trial 2: ...'"""
    return [
        f"{name}: " + "; ".join(f"trial {number}: {text}" for number, text in enumerate(said, 1))
        for name, said in found.trials.items()
    ]


def method(found: CrossvalTable) -> str:
    """How the numbers came about, in one paragraph."""
    table, trials = found.numbers, len(next(iter(found.trials.values())))
    return (
        f"{table.dataset}, nested cross-validation, {_folds_said(found)}: {table.queries} queries about {table.videos} "
        "source videos, each tested once, by models that saw no segment of its source video. On each fold every model "
        f"had {trials} trial{'s' * (trials > 1)} (one seed each), judged by {found.select_by} on the fold's own "
        "validation part, which chose the epochs too; the best trial was trained with the seeds "
        f"{', '.join(map(str, table.seeds))} and tested: {found.runs} of {found.planned_runs} trainings. Protocol "
        f"{table.protocol}, percent; in brackets 95% intervals for other source videos and other seeds (bootstrap over "
        "source videos and deviation over seeds, added as variances), given this tuning and training sets that folds "
        "share. Differences are paired query by query and seed by seed; 'better' and 'worse' where the p-value, "
        "corrected by Holm's method over the "
        f"{len(found.differences)} compared pairs of a metric, is below {ALPHA:g}. The paired tests average seeds "
        "query by query and are corrected over the same pairs. Weights: the learned numbers; training: a run's "
        f"seconds, mean over runs.{cost_method(table)}"
    )


def _corrected_tests(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    every = [(i, test) for i, each in enumerate(comparisons) for test in each.tests]
    out: list[list[Any]] = [[] for _ in comparisons]
    for metric in dict.fromkeys(test.metric for _, test in every):
        family = [(i, test) for i, test in every if test.metric == metric]
        t_p, bootstrap = holm([test.t_p for _, test in family]), holm([test.bootstrap_p for _, test in family])
        for (i, test), a, b in zip(family, t_p, bootstrap, strict=True):
            out[i].append(replace(test, t_p_holm=a, bootstrap_p_holm=b))
    return tuple(replace(each, tests=tuple(tests)) for each, tests in zip(comparisons, out, strict=True))


def _folds_said(found: CrossvalTable) -> str:
    if len(found.folds_in) == found.folds:
        return f"all {found.folds} folds"
    which = ", ".join(map(str, found.folds_in))
    return f"ONLY fold{'s' * (len(found.folds_in) > 1)} {which} of {found.folds} (counted from 0)"


def _with_seeds(found: CrossvalTable, *names: str) -> str:
    """Which seeds a pair has in common, where these are not all."""
    both = found.seeds_of(*names)
    if len(both) == len(found.numbers.seeds):
        return ""
    return f"\n(seed{'s' * (len(both) > 1)} {', '.join(map(str, both))})"


def _difference(number: Number | None) -> str:
    if number is None:
        return "-"
    interval = ""
    if number.low is not None and number.high is not None:
        interval = f"\n[{100 * number.low:+.1f}, {100 * number.high:+.1f}]"
    return f"{100 * number.value:+.2f}{interval}\n{number.verdict}"


def _tuned(found: Tuned | None) -> str:
    if found is None:
        return "-"
    if found.chosen is None:
        return "all failed"
    score = found.scores[found.chosen]
    return f"trial {found.chosen + 1}\n{100 * (score or 0):.2f}"
