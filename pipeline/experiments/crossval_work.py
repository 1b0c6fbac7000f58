"""What a cross-validation has done and what is left, in the order in which it is to be done.

All trials of all models on a fold come first; the trial that won is tested, and trained and tested with the other
seeds, one seed of all models after the other; then comes the next fold. What earlier commands left counts as done. Only
the part of the plan that is asked for waits; what is there of the rest is found all the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..evaluation.evaluate import Results
from ..training.checkpoint import load_result
from ..training.validation import deciding
from .ablation_plan import Plan, Run
from .crossval_plan import CrossvalPlan, Part
from .crossval_tables import Tuned
from .kept_results import find_kept
from .known_results import OnFold, Trained
from .training_jobs import Job, train_seconds

FAILED_THERE = "it failed where it was trained before (--known)"


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
    done: int
    """Trainings that were asked for and have ended, earlier commands' included."""
    left: int
    """Those that have not."""


class Work:
    """What is done and what is to do."""

    def __init__(
        self,
        plan: CrossvalPlan,
        folds: Sequence[Plan],
        part: Part,
        known: Mapping[tuple[int, int], OnFold] = MappingProxyType({}),
    ) -> None:
        """known: by fold and model, what need not be trained."""
        self.plan, self.folds, self.part, self.known = plan, folds, part, known
        self.waiting = [
            Task(fold, 0, model, trial)
            for fold in range(len(folds)) for model in range(len(plan.models)) for trial in range(plan.trials)
        ]  # fmt: skip
        self.scores: dict[tuple[int, int], dict[int, float | None]] = {}
        self.tuned: dict[tuple[int, int], Tuned] = {}
        self.results: dict[tuple[int, int], dict[int, Results | str]] = {}
        """By fold, model and seed; or why there are none."""
        self.failures: dict[Path, str] = {}
        self.trained: dict[Path, Trained] = {}
        """What trainings came to, by the folders that they have or would have."""
        self._ended_runs: set[Path] = set()
        self._run = {(fold, run.variant, run.seed): run for fold, each in enumerate(folds) for run in each.runs}
        self._at: dict[Path, Task] = {}

    @property
    def planned_runs(self) -> int:
        """Of the whole plan."""
        return len(self.folds) * len(self.plan.models) * (self.plan.trials + len(self.plan.seeds) - 1)

    @property
    def done(self) -> int:
        """Trainings that were asked for and have ended."""
        return len(self._ended_runs)

    @property
    def left(self) -> int:
        """Those that have not: of a model whose trials all failed, none."""
        left = 0
        for at in self._asked_at():
            tuned, more = self.tuned.get(at), len(self.part.seeds) - 1
            if tuned is None:
                left += self.plan.trials - len(self.scores.get(at, {})) + more
            elif tuned.chosen is not None:
                rounds = (Task(at[0], 1 + n, at[1], tuned.chosen) for n in range(len(self.plan.seeds)))
                left += sum(self.asked(task) and self.run(task).folder not in self._ended_runs for task in rounds)
        return left

    def asked(self, task: Task) -> bool:
        """Whether it is in the part of the plan that is asked for."""
        part = self.part
        asked = self.plan.models[task.model].name in part.models and self._seed(task) in part.seeds
        return asked and task.fold in part.folds

    def run(self, task: Task) -> Run:
        trial = self.plan.models[task.model].trials[task.trial]
        return self._run[task.fold, trial.name, self._seed(task)]

    def find(self) -> None:
        """Go through what earlier commands left; what is asked for and not there waits."""
        lacking = []
        while self.waiting:
            task = heapq.heappop(self.waiting)
            if (kept := find_kept(self.run(task).folder, _split(task))) is not None:
                self._ended(task, kept, _trained(self.run(task)))
            elif (found := self._known(task)) is not None:
                self._ended(task, *found)
            else:
                lacking += [task] * self.asked(task)
        self.waiting = lacking  # popped in order, so they are a heap

    def _known(self, task: Task) -> tuple[Results | str | None, Trained | None] | None:
        """What is known of a task from elsewhere; of a trial, that is no results but what it came to."""
        on = self.known.get((task.fold, task.model))
        if on is None:
            return None
        if task.round == 0 and on.scores[task.trial] is None:
            return FAILED_THERE, None
        trained, results = on.trained.get((task.trial, self._seed(task))), on.results.get(self._seed(task))
        if trained is None or (task.round and results is None):
            return None
        return results if task.round else None, trained

    def next_job(self) -> Job | None:
        while self.waiting and not self.asked(self.waiting[0]):
            heapq.heappop(self.waiting)
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
        self._ended(task, found, _trained(job.run) if isinstance(found, Results) else None)
        return Progress(task, job.run, found, self.done, self.left)

    def finished_folds(self) -> tuple[int, ...]:
        """The folds on which nothing is left to do that is asked for."""

        def done(at: tuple[int, int]) -> bool:
            seeds = self.results.get(at, {}).keys()
            return at in self.tuned and (self.tuned[at].chosen is None or seeds >= self.part.seeds)

        unfinished = {fold for fold, model in self._asked_at() if not done((fold, model))}
        return tuple(fold for fold in sorted(self.part.folds) if fold not in unfinished)

    def _asked_at(self) -> Iterator[tuple[int, int]]:
        """Fold and model of all that is asked for."""
        for fold in sorted(self.part.folds):
            yield from ((fold, i) for i, model in enumerate(self.plan.models) if model.name in self.part.models)

    def _seed(self, task: Task) -> int:
        return self.plan.seeds[max(task.round - 1, 0)]

    def on_fold(self, fold: int, model: int) -> OnFold | None:
        """All that is there of a tuned model, known or trained here."""
        if (fold, model) not in self.tuned:
            return None
        seeds = [(trial, seed) for trial in range(self.plan.trials) for seed in self.plan.seeds]
        run = {each: self._run[fold, self.plan.models[model].trials[each[0]].name, each[1]].folder for each in seeds}
        trained = {each: self.trained[folder] for each, folder in run.items() if folder in self.trained}
        results = {s: r for s, r in self.results.get((fold, model), {}).items() if not isinstance(r, str)}
        return OnFold(self.tuned[fold, model].scores, trained, results)

    def _ended(self, task: Task, found: Results | str | None, trained: Trained | None) -> None:
        run, at = self.run(task), (task.fold, task.model)
        if self.asked(task):
            self._ended_runs.add(run.folder)
        if isinstance(found, str):
            self.failures[run.folder] = f"{run.name}, fold {task.fold}: {found}"
        elif trained is not None:
            self.trained[run.folder] = trained
        if task.round:
            assert found is not None, "a test has results, or failed"
            self.results.setdefault(at, {})[run.seed] = found
            return
        scores = self.scores.setdefault(at, {})
        scores[task.trial] = None if trained is None else trained.score
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


def _trained(run: Run) -> Trained:
    """What a run that has ended came to: its best epoch on the validation part, by what training chose it by."""
    result = load_result(run.folder)
    judge, score = deciding(result.best, run.config.training.select_by)
    return Trained(score, judge, result.parameters, train_seconds(run.folder))
