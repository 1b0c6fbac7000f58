"""Nested cross-validation: tune every model on each fold's validation part, test the winner on the fold's test part.

<out>/crossval.json                        what was asked for
<out>/folds.json, folds/fold-<k>/          the folds, and a feature folder for each (fold_features.py)
<out>/runs/fold-<k>/<model>/trial-<t>/seed-<s>/   a run like any other, and its results on val, and on test if it won
<out>/costs.json                           what each model costs (ablation_costs.py), if that was asked for
<out>/results/<model>.parquet              what all tests of a model scored, to be known elsewhere (known_results.py)
<out>/table.md, table.json                 the folds on which all that is asked for is done, written anew with each;
                                           table-of-fold-0.md and the like where other folds were not asked for

On each fold every trial is trained with the first seed; the one with the best validation score is trained with the
other seeds too, and all these are tested. A fold is finished before the next one begins, as far as there are workers
free, so that a benchmark that is cut short tells something about every model. What is there is found again by its
settings: the same command goes on. Where a part of the plan is asked for, the tables have the rest, too, as far as it
is there on the same folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ...extract.workers import Workers
from ...manifests.files import annotations_sha256, read_manifest
from ...manifests.folds import Folds, make_folds, write_folds
from ...manifests.schema import Manifest
from ..evaluation.evaluate import Results
from ..loading.dataset import FeatureSet, open_features
from ..model import RDMF
from ..training.checkpoint import write_json
from ..training.run_folder import locked
from ..training.tensor_files import publish
from .ablation_costs import with_costs
from .ablation_plan import Plan, prepare
from .ablation_tables import Row
from .crossval_plan import CrossvalPlan, Model, Part
from .crossval_tables import CrossvalTable, compared, markdown, pooled
from .crossval_work import Progress, Task, Work
from .fold_features import judged_queries, write_fold
from .known_results import fitting, read_known, write_results
from .sweep import Variant
from .training_jobs import crew, do_all

FOLD_SEED = 0
"""Of folds that are made here."""


def cross_validate(
    plan: CrossvalPlan,
    features: Path,
    out: Path,
    workers: str | None = None,
    scheduler: str | None = None,
    *,
    part: Part | None = None,
    known: Path | None = None,
    video_stores: Sequence[str] = (),
    text_store: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    command: str = "",
    costs: bool = False,
    on_start: Callable[[Folds, int, int, int], None] = lambda folds, done, left, at_once: None,
    on_end: Callable[[Progress], None] = lambda progress: None,
    on_costs: Callable[[int], None] = lambda models: None,
) -> CrossvalTable:
    """Train and judge what is missing, and tell what there is then. What failed is named in the table.

    workers, scheduler: as in `ablate`. part: what is to be trained now; all, where nothing is said.
    known: a folder of results from elsewhere; the models that they fit are not trained again.
    costs: whether to measure what each model costs at the end (ablation_costs.py), with the settings that won first.
    on_start: the folds, trainings that are there and left, and how many run at once.
    Raises ValueError on folds, features and folders that do not fit, and where no fold is finished, OSError where the
    workers are gone.
    """
    features, out = features.absolute(), out.absolute()
    files = read_known(known) if known is not None else []
    feature_set = open_features(features, video_stores, text_store)
    _refuse_models(plan, feature_set)
    judged = judged_queries(feature_set)
    folds = make_folds(judged, plan.folds, FOLD_SEED) if isinstance(plan.folds, int) else plan.folds
    folds.check(judged)
    _refuse_another(out)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        said, stores = _said(plan, command), [store.folder.name for store in feature_set.video]
        if not (out / "crossval.json").is_file():
            write_json(out / "crossval.json", said)
        on_folds = []
        for k in range(len(folds)):
            folder = write_fold(out / "folds" / f"fold-{k}", feature_set, judged, folds, k)
            on_folds.append(prepare(
                plan.sweep, folder, out / "runs" / f"fold-{k}", video_stores=stores,
                text_store=feature_set.text.folder.name, device=device, threads=threads, command=command,
            ))  # fmt: skip
        write_folds(folds, out / "folds.json")
        write_json(out / "crossval.json", said)
        for each in on_folds:
            each.out.mkdir(parents=True, exist_ok=True)
            write_json(each.out / "sweep.json", each.said)
        names = [*stores, feature_set.text.folder.name]
        manifests = [read_manifest(each.shared.features / "manifest.parquet") for each in on_folds]
        found, notes = fitting(files, plan, manifests, names)
        work = Work(plan, on_folds, part or plan.part(), found)
        work.find()
        to_do = work.left
        tell = _Teller(plan, work, out, manifests, names, notes)
        shared = on_folds[0].shared
        with crew(shared, to_do, on_folds[0].at_once, workers, scheduler) if work.waiting else Workers(0) as hands:
            client = hands.client()
            on_start(folds, work.done, to_do, 1 if client is None else min(to_do or 1, hands.parallel))
            for job, failure in do_all(work.next_job, client, 0 if scheduler else hands.parallel):
                on_end(work.end(job, failure))
                tell.write_if_more()
        table = tell.last()
        return tell.write(table, on_costs) if costs else table


class _Teller:
    """Writes the table whenever one more fold is finished, but none with fewer folds than earlier commands began."""

    def __init__(
        self, plan: CrossvalPlan, work: Work, out: Path, folds: Sequence[Manifest], stores: Sequence[str],
        notes: Sequence[str],
    ) -> None:  # fmt: skip
        self.plan, self.work, self.out, self._stores, self._notes = plan, work, out, stores, notes
        self._annotations = [annotations_sha256(manifest) for manifest in folds]
        self._told: tuple[int, ...] = ()
        self._begun = {fold for fold, _ in work.results if fold in work.part.folds}

    def write_if_more(self) -> None:
        if (folds := self.work.finished_folds()) != self._told:
            self._told = folds
            if self._begun <= set(folds) and (table := self._table(folds)) is not None:
                self.write(table)

    def last(self) -> CrossvalTable:
        folds = self.work.finished_folds()
        if (table := self._table(folds)) is None:
            failures = "; ".join(self.work.failures.values())
            raise ValueError(f"no model is finished on all of the folds {folds}. {failures}")
        return self.write(table)

    def write(self, table: CrossvalTable, on_costs: Callable[[int], None] | None = None) -> CrossvalTable:
        """on_costs: with the costs, which are measured or found."""
        if on_costs is not None:
            table = replace(table, numbers=with_costs(table.numbers, self._as_tested(), on_costs))
        write_json(self.out / f"{table.name}.json", table.to_json())
        publish(self.out / f"{table.name}.md", [markdown(table).encode()])
        for number, model in enumerate(self.plan.models):
            there = {fold: on for fold in range(len(self.work.folds)) if (on := self.work.on_fold(fold, number))}
            if any(on.results for on in there.values()):
                path = self.out / "results" / f"{model.folder}.parquet"
                write_results(path, model, self.plan, dict(enumerate(self._annotations)), self._stores, there)
        return table

    def _as_tested(self) -> Plan:
        """Each model once, with the first of the settings that were tested, on the first fold."""
        chosen = [(at, found.chosen) for at, found in sorted(self.work.tuned.items()) if found.chosen is not None]
        first = {number: trial for (_, number), trial in reversed(chosen)}
        models = [(self.plan.models[number], trial) for number, trial in sorted(first.items())]
        variants = tuple(Variant(model.name, model.trials[trial].config, model.folder) for model, trial in models)
        return replace(self.work.folds[0], out=self.out, sweep=replace(self.plan.sweep, variants=variants))

    def _table(self, folds_in: tuple[int, ...]) -> CrossvalTable | None:
        """None where no model is finished on all of them."""
        plan, work = self.plan, self.work
        results: dict[str, dict[int, Results]] = {}
        rows = []
        later: dict[str, list[str]] = {}  # seeds -> the models that lack them
        for i, model in enumerate(plan.models):
            missing: dict[int, str] = {}
            unasked: list[str] = []
            for seed in plan.seeds:
                found = {fold: work.results.get((fold, i), {}).get(seed, "no trial was trained") for fold in folds_in}
                whole = [each for each in found.values() if not isinstance(each, str)]
                if whole and len(whole) == len(found):
                    results.setdefault(model.folder, {})[seed] = pooled(whole)
                elif model.name in work.part.models and seed in work.part.seeds:
                    missing[seed] = "; ".join(f"fold {k}: {why}" for k, why in found.items() if isinstance(why, str))
                else:
                    unasked.append(str(seed))
            if unasked:
                later.setdefault(f"(seed{'s' * (len(unasked) > 1)} {', '.join(unasked)})", []).append(model.name)
            if missing or model.folder in results:
                rows.append(self._row(i, model, folds_in, missing))
        if not results:
            return None
        notes = ["the 'videos' of the intervals are source videos: segments of one are drawn together"]
        notes += [*work.folds[0].notes_on_features, *self._notes]
        if later:
            said = "; ".join(f"{'; '.join(names)} {seeds}" for seeds, names in later.items())
            notes.append(f"not asked for now and not there: {said}")
        told = {row.name for row in rows}
        table, differences, tests = compared(rows, results, plan.comparisons, plan.seeds, notes)
        return CrossvalTable(
            table, len(work.folds), tuple(sorted(work.part.folds)), folds_in, differences, tests,
            {m.name: {k: work.tuned[k, i] for k in range(len(work.folds)) if (k, i) in work.tuned}
             for i, m in enumerate(plan.models) if m.name in told},
            {model.name: model.said for model in plan.models if model.name in told}, self._judge(),
            len(work.trained), work.planned_runs, tuple(work.failures.values()),
        )  # fmt: skip

    def _judge(self) -> str:
        """The score that chose epochs and trials."""
        return next(iter(self.work.trained.values())).judge

    def _row(self, number: int, model: Model, folds_in: Sequence[int], missing: dict[int, str]) -> Row:
        tested = [
            self.work.run(Task(fold, 1 + n, number, trial)).folder
            for fold in folds_in
            for n in range(len(self.plan.seeds))
            if (fold, number) in self.work.tuned and (trial := self.work.tuned[fold, number].chosen) is not None
        ]
        finished = [trained for run in tested if (trained := self.work.trained.get(run)) is not None]
        seconds = [trained.seconds for trained in finished if trained.seconds is not None]
        return Row(
            model.name, model.folder, model.settings,
            parameters=max((trained.parameters for trained in finished), default=None),
            train_seconds=sum(seconds) / len(seconds) if seconds else None, missing=missing or None,
        )  # fmt: skip


def _refuse_models(plan: CrossvalPlan, features: FeatureSet) -> None:
    for model in plan.models:
        for trial in model.trials:
            try:
                RDMF(trial.config.model, *features.dims)
            except ValueError as error:
                raise ValueError(f"{trial.name}: {error}") from None


def _refuse_another(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give --out another folder")
    if out.is_dir() and not (out / "crossval.json").is_file() and any(p for p in out.iterdir() if p.name[0] != "."):
        raise ValueError(f"{out} is not empty and holds no cross-validation; give --out another folder")


def _said(plan: CrossvalPlan, command: str) -> dict[str, object]:
    return {
        "format": 1, "command": command, "seeds": list(plan.seeds),
        "comparisons": [list(pair) for pair in plan.comparisons], "base": plan.base.model_dump(),
        "models": {m.name: {"set": m.settings, "trials": list(m.said), "folder": m.folder} for m in plan.models},
    }  # fmt: skip
