"""What a cross-validation has done and what is left, in the order in which it is to be done.

All trials of all models on a fold come first; the trial that won is tested, and trained and tested with the other
seeds, one seed of all models after the other; then comes the next fold. What earlier commands left counts as done.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..evaluation.evaluate import Results
from ..training.checkpoint import load_result
from .ablation_plan import Plan, Run
from .crossval_plan import CrossvalPlan
from .crossval_tables import Tuned
from .kept_results import find_kept
from .training_jobs import Job


class Task(NamedTuple):
    """One training or test; in the order of their tuples."""

    fold: int
    round: int
    """0: tuning, judged on val; n: the n-th seed of the trial that won, judged on test."""
    model: int
    trial: int


class Progress(NamedTuple):
    """How a task ended."""

    task: Task
    run: Run
    results: Results | str
    """Or why it failed."""
    runs: int
    """Trainings that have ended, earlier commands' included."""
    planned_runs: int


class Work:
    """What is done and what is to do."""

    def __init__(self, plan: CrossvalPlan, folds: Sequence[Plan]) -> None:
        self.plan, self.folds = plan, folds
        self.waiting = [
            Task(fold, 0, model, trial)
            for fold in range(len(folds)) for model in range(len(plan.models)) for trial in range(plan.trials)
        ]  # fmt: skip
        self.scores: dict[tuple[int, int], dict[int, float | None]] = {}
        self.tuned: dict[tuple[int, int], Tuned] = {}
        self.results: dict[tuple[int, int], dict[int, Results | str]] = {}
        """By fold, model and seed; or why there are none."""
        self.failures: dict[Path, str] = {}
        self.trained: set[Path] = set()
        self._run = {(fold, run.variant, run.seed): run for fold, each in enumerate(folds) for run in each.runs}
        self._at: dict[Path, Task] = {}

    @property
    def runs(self) -> int:
        return len(self.trained)

    @property
    def planned_runs(self) -> int:
        return len(self.folds) * len(self.plan.models) * (self.plan.trials + len(self.plan.seeds) - 1)

    def run(self, task: Task) -> Run:
        trial = self.plan.models[task.model].trials[task.trial]
        return self._run[task.fold, trial.name, self.plan.seeds[max(task.round - 1, 0)]]

    def find(self) -> None:
        """Go through what earlier commands left; what is not there waits."""
        lacking = []
        while self.waiting:
            task = heapq.heappop(self.waiting)
            kept = find_kept(self.run(task).folder, _split(task))
            if kept is None:
                lacking.append(task)
            else:
                self._ended(task, kept)
        self.waiting = lacking  # popped in order, so they are a heap

    def next_job(self) -> Job | None:
        if not self.waiting:
            return None
        task = heapq.heappop(self.waiting)
        run = self.run(task)
        self._at[run.folder] = task
        return Job(replace(self.folds[task.fold].shared, split=_split(task)), run)

    def end(self, job: Job, failure: str) -> Progress:
        task = self._at.pop(job.run.folder)
        found: Results | str | None = failure or find_kept(job.run.folder, job.shared.split)
        if found is None:
            found = f"the workers write to a {job.run.folder} that is not the one here"
        self._ended(task, found)
        return Progress(task, job.run, found, self.runs, self.planned_runs)

    def finished_folds(self) -> tuple[int, ...]:
        """The folds on which nothing is left to do for any model."""
        models, seeds = range(len(self.plan.models)), set(self.plan.seeds)

        def done(at: tuple[int, int]) -> bool:
            return at in self.tuned and (self.tuned[at].chosen is None or self.results.get(at, {}).keys() >= seeds)

        return tuple(fold for fold in range(len(self.folds)) if all(done((fold, model)) for model in models))

    def _ended(self, task: Task, found: Results | str) -> None:
        run, at = self.run(task), (task.fold, task.model)
        if isinstance(found, str):
            self.failures[run.folder] = f"{run.name}, fold {task.fold}: {found}"
        else:
            self.trained.add(run.folder)
        if task.round:
            self.results.setdefault(at, {})[run.seed] = found
            return
        scores = self.scores.setdefault(at, {})
        scores[task.trial] = None if isinstance(found, str) else _score(run)
        if len(scores) == self.plan.trials:
            self.tuned[at] = tuned = choose([scores[trial] for trial in range(self.plan.trials)])
            if tuned.chosen is not None:
                for number in range(len(self.plan.seeds)):
                    heapq.heappush(self.waiting, Task(task.fold, 1 + number, task.model, tuned.chosen))


def choose(scores: Sequence[float | None]) -> Tuned:
    """The best trial, the first of equals; one that failed is never chosen."""
    finished = [trial for trial, score in enumerate(scores) if score is not None]
    return Tuned(tuple(scores), max(finished, key=lambda trial: (scores[trial], -trial), default=None))


def _split(task: Task) -> str:
    return "test" if task.round else "val"


def _score(run: Run) -> float:
    """Of its best epoch on the validation part: what training chose the epoch by."""
    best = load_result(run.folder).best
    return best.get(run.config.training.select_by, best.get("HL-mAP", float("-inf")))
