"""Several runs of one config: the mean and the deviation of every number over their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import Config, flat
from ..evaluation.evaluate import Results


@dataclass(frozen=True)
class Spread:
    """One number over several runs, as fractions."""

    mean: float
    deviation: float
    """Of the sample (n - 1): how far another seed would come out."""

    def to_json(self) -> dict[str, float]:
        return {"mean": self.mean, "deviation": self.deviation}


@dataclass(frozen=True)
class Several:
    """Several evaluations beside each other."""

    trees: dict[str, dict[str, Any]]
    """The JSON of each."""
    spread: dict[str, Spread]
    notes: list[str]
    """What keeps the deviation from being one over seeds."""

    def to_json(self) -> dict[str, Any]:
        numbers = {name: spread.to_json() for name, spread in self.spread.items()}
        return {
            "evaluations": self.trees,
            "over_runs": {"runs": len(self.trees), "numbers": numbers, "notes": self.notes},
        }


def several(
    results: Mapping[str, Results], trees: Mapping[str, dict[str, Any]], configs: Mapping[str, Config] | None = None
) -> Several:
    """Put evaluations together; configs: of the runs, None for files of predictions, which do not say theirs."""
    notes = ["files do not say their config: whether they are seeds of one is for you to know"]
    return Several(dict(trees), over_runs(list(results.values())), notes if configs is None else differences(configs))


def over_runs(results: Sequence[Results]) -> dict[str, Spread]:
    """Mean and deviation of every named number (see `columns`) that all of at least two results have.

    Raises ValueError where the results are not on the same queries by the same protocol.
    """
    if len(results) < 2:
        raise ValueError(f"expected at least two runs for a deviation, got {len(results)}")
    first = results[0]
    for other in results[1:]:
        if other.protocol != first.protocol or other.table["qid"].tolist() != first.table["qid"].tolist():
            raise ValueError(
                f"expected results on the same queries by the same protocol, got {described(first)} and "
                f"{described(other)}; evaluate all runs on the same features and split"
            )
    numbers = [result.numbers for result in results]
    out = {}
    for name in numbers[0]:
        values = [n[name] for n in numbers if n.get(name) is not None]
        if len(values) == len(results):
            column = np.array(values, np.float64)
            out[name] = Spread(float(column.mean()), float(column.std(ddof=1)))
    return out


def differences(configs: Mapping[str, Config]) -> list[str]:
    """What keeps runs from being one config with several seeds, one sentence each; empty if nothing does."""
    trees = {name: flat(config.model_dump()) for name, config in configs.items()}
    keys = dict.fromkeys(key for tree in trees.values() for key in tree)
    seeds = [tree["training.seed"] for tree in trees.values()]
    differing = [k for k in keys if k != "training.seed" and len({repr(t.get(k)) for t in trees.values()}) > 1]
    found = []
    if differing:
        found.append(f"the runs differ in {', '.join(differing)}, so this is no deviation over seeds alone")
    if len(set(seeds)) < len(seeds):
        found.append(f"some runs have the same seed ({', '.join(map(str, seeds))}), so the deviation is too small")
    return found


def described(result: Results) -> str:
    """'1550 queries of qvhighlights val by protocol qvhighlights'"""
    ours = result.rdmf
    return f"{ours['counts']['queries']} queries of {ours['dataset']} {ours['split']} by protocol {result.protocol}"
