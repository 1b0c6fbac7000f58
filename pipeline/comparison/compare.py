"""Compare a system with baselines on the same queries: differences, tests, effect sizes, and what they allow to say.

For each metric and baseline: the difference of the means with a 95% interval, the paired t-test over queries, the
paired bootstrap over videos, Cohen's d_z, and both p-values corrected by Holm's method over the baselines. A
difference is called significant when both corrected p-values are below `ALPHA`. Seeds of a system are averaged query
by query first, so the tests are about these trained models on other videos, not about other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..evaluation.intervals import percentiles, resampled_means
from ..evaluation.significance import bootstrap_p, effect_size, holm, paired_t
from .seeds import described
from .systems import System

ALPHA = 0.05
RESAMPLES = 10_000
FEW_VIDEOS = 30
"""With fewer videos the bootstrap finds differences more often than it should."""


@dataclass(frozen=True)
class PairedTest:
    """One metric of the system against one baseline; numbers are fractions."""

    metric: str
    baseline: str
    value: float
    baseline_value: float
    difference: float
    """Of the system over the baseline."""
    low: float
    high: float
    """The 95% interval of the difference, of the bootstrap over videos."""
    effect_size: float | None
    """Cohen's d_z; None where every query differs by the same."""
    t: float | None
    t_p: float
    bootstrap_p: float
    queries: int
    videos: int
    t_p_holm: float = 1.0
    bootstrap_p_holm: float = 1.0

    @property
    def significant(self) -> bool:
        return max(self.t_p_holm, self.bootstrap_p_holm) < ALPHA

    @property
    def verdict(self) -> str:
        """One of 'better', 'worse', 'unsettled' (one test finds a difference, the other does not), 'not shown'."""
        if self.significant:
            return "better" if self.difference > 0 else "worse"
        return "unsettled" if min(self.t_p_holm, self.bootstrap_p_holm) < ALPHA else "not shown"

    def to_json(self) -> dict[str, Any]:
        return self.__dict__ | {"significant": self.significant, "verdict": self.verdict}


@dataclass(frozen=True)
class Comparison:
    """A system against its baselines."""

    system: str
    seeds: dict[str, int]
    """How many seeds of each system were averaged, query by query."""
    dataset: str
    split: str
    tests: tuple[PairedTest, ...]
    """In the order of the metrics, then of the baselines."""
    ap: str
    """Which average precision was compared, and why."""
    resamples: int
    seed: int
    notes: list[str] = field(default_factory=list)

    def sentence(self, test: PairedTest) -> str:
        """What the tests allow to say of one metric and baseline."""
        points = f"{abs(100 * test.difference):.2f} points"
        interval = f"(95% interval of the difference {100 * test.low:+.2f} to {100 * test.high:+.2f})"
        t_p, bootstrap_p = p_values(test, self.resamples)
        p = f"corrected p: t-test {t_p}, bootstrap {bootstrap_p}"
        if test.significant:
            return (
                f"{test.metric}: {self.system} is significantly {test.verdict} than {test.baseline}, by {points} "
                f"{interval}; {p}."
            )
        where = "above" if test.difference > 0 else "below"
        found = f"{self.system} is {points} {where} {test.baseline} {interval}"
        found = found if test.difference else f"{self.system} equals {test.baseline} {interval}"
        if test.verdict == "unsettled":
            return f"{test.metric}: {found}, and the two tests disagree, so the difference is not established; {p}."
        return f"{test.metric}: no significant difference; {found}; {p}."

    def to_json(self) -> dict[str, Any]:
        tree = self.__dict__ | {"tests": [t.to_json() | {"sentence": self.sentence(t)} for t in self.tests]}
        return tree | {"alpha": ALPHA, "correction": "Holm over the baselines, for each metric and test"}


def compare(
    system: System,
    baselines: Sequence[System],
    metrics: Sequence[str] = (),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare on R1@0.5, mIoU and average precision, and on `metrics` (names of `columns`) besides.

    Raises ValueError where the systems were not judged on the same queries, or lack a metric.
    """
    everyone = [system, *baselines]
    if not baselines:
        raise ValueError(f"expected at least one baseline to compare {system.name} with, got none")
    first = system.results[0]
    for other in (result for each in everyone for result in each.results):
        if other.table["qid"].tolist() != first.table["qid"].tolist() or other.protocol != first.protocol:
            raise ValueError(
                "expected every system judged on the same queries by the same protocol, got "
                f"{described(first)} and {described(other)}"
            )
    columns = {each.name: each.columns for each in everyone}
    shared = [name for name in columns[system.name] if all(name in columns[each.name] for each in everyone)]
    ap, why = _average_precision(columns, shared)
    chosen = list(dict.fromkeys([*(name for name in ("R1@0.5", "mIoU", ap) if name in shared), *metrics]))
    for name in chosen:
        if name not in shared:
            raise ValueError(f"expected metrics that every system has, of {', '.join(shared)}, got {name!r}")

    source = first.table["source"]
    pairs = [(name, each.name) for name in chosen for each in baselines]
    differences = [columns[system.name][name] - columns[other][name] for name, other in pairs]
    means = resampled_means(np.stack(differences, axis=1), source, resamples, seed)  # [R, metrics x baselines]
    found_tests = [
        _test(name, other, columns[system.name][name], columns[other][name], source, means[:, i])
        for i, (name, other) in enumerate(pairs)
    ]
    tests: list[PairedTest] = []
    for name in chosen:
        family = [test for test in found_tests if test.metric == name]
        t_p, bootstrap = holm([test.t_p for test in family]), holm([test.bootstrap_p for test in family])
        tests += [replace(t, t_p_holm=t_p[i], bootstrap_p_holm=bootstrap[i]) for i, t in enumerate(family)]
    found = list(notes)
    if min(t.videos for t in tests) < FEW_VIDEOS:
        found.append(f"fewer than {FEW_VIDEOS} videos: the bootstrap finds differences more often than it should")
    if any(len(each.results) > 1 for each in everyone):
        found.append(
            "seeds were averaged query by query before pairing: the tests are about these models, not new seeds"
        )
    return Comparison(
        system.name, {each.name: len(each.results) for each in everyone}, first.rdmf["dataset"], first.rdmf["split"],
        tuple(tests), why, resamples, seed, found,
    )  # fmt: skip


def p_values(test: PairedTest, resamples: int) -> tuple[str, str]:
    """The corrected p-values of t-test and bootstrap as text: '0.0312', '< 0.0001'; '<= 0.0004' where no smaller one
    can come of so many resamples."""
    least = test.bootstrap_p <= 2 / (resamples + 1)
    t_p, bootstrap_p = (f"{p:.4f}" if p >= 0.0001 else "< 0.0001" for p in (test.t_p_holm, test.bootstrap_p_holm))
    return t_p, f"<= {bootstrap_p}" if least and test.bootstrap_p_holm >= 0.0001 else bootstrap_p


def _average_precision(columns: dict[str, dict[str, np.ndarray]], shared: Sequence[str]) -> tuple[str, str]:
    """The average precision to compare: of highlights where all have them, else of moments; and why."""
    if "HL-VeryGood-mAP" in shared:
        return "HL-VeryGood-mAP", "AP is HL-mAP at VeryGood: there are saliency labels, and every system scores clips"
    if "top-mAP" in shared:
        return "top-mAP", "AP is the highlight mAP of the protocol: there are no windows to judge"
    some = any("HL-VeryGood-mAP" in own for own in columns.values())
    return "mAP", "AP is MR-mAP: " + ("some system does not score clips" if some else "there are no saliency scores")


def _test(
    metric: str, baseline: str, ours: np.ndarray, theirs: np.ndarray, source: np.ndarray, means: np.ndarray
) -> PairedTest:
    counted = np.isfinite(ours) & np.isfinite(theirs)
    if not counted.any():
        raise ValueError(f"expected queries that count for {metric}, got none; choose another metric")
    differences = (ours - theirs)[counted]
    t, t_p = paired_t(differences)
    size = effect_size(differences)
    low, high = percentiles(means[:, None])
    return PairedTest(
        metric, baseline, float(ours[counted].mean()), float(theirs[counted].mean()), float(differences.mean()),
        float(low[0]), float(high[0]), size if np.isfinite(size) else None, t if np.isfinite(t) else None, t_p,
        bootstrap_p(means), int(counted.sum()), len(np.unique(source[counted])),
    )  # fmt: skip
