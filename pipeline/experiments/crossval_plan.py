"""The plan of a nested cross-validation: models, the settings that each may try, seeds and folds. YAML in, checked.

    base: ../demo.yaml                            a config file, seen from the plan's own folder; or its sections
    set: {training.epochs: 12}                    for every model
    seeds: [0, 1, 2]                              the first one tunes, all are tested
    folds: 5                                      how many; or a file of folds (manifests/folds.py), seen likewise
    baseline: cross-attention                     what all others are compared with [the first model]
    comparisons: [[ours, theirs]]                 which models are compared, in place of that
    models:
      - name: cross-attention
        config: ../models/cross_attention.yaml    laid over the base, as in a sweep (sweep.py)
        set: {model.fusion.heads: 4}              goes over it, and so does the plan's own `set`
        trials: [{training.lr: 1.0e-3}, {training.lr: 5.0e-4}]     each model has as many as every other

A trial is what tuning may choose, for each fold anew. All models have the same number, so none is tuned harder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from ...manifests.folds import Folds, read_folds
from ..config import Config, Settings, flat
from .ablation_plan import difference
from .sweep import CONFIGS, OURS, SEED, Seeds, Sweep, Variant, changed, configs_of, read_settings, slug

READY = CONFIGS / "benchmarks"
"""The plans that come with rdmf; a name alone finds them."""


class ModelSettings(Settings):
    """One entry of `models`."""

    name: str
    config: str | None = None
    """A config file, seen from the plan's own folder."""
    set_: dict[str, Any] = Field(default={}, alias="set")
    trials: tuple[dict[str, Any], ...] = ({},)


class CrossvalSettings(Settings):
    """The file."""

    base: str | dict[str, Any] = Field(default={})
    set_: dict[str, Any] = Field(default={}, alias="set")
    seeds: Seeds = (0, 1, 2)
    folds: int | str = 5
    baseline: str | None = None
    comparisons: tuple[tuple[str, str], ...] = ()
    models: tuple[ModelSettings, ...]


@dataclass(frozen=True)
class Model:
    """What is compared."""

    name: str
    folder: str
    trials: tuple[Variant, ...]
    """Their folders are below the model's."""
    settings: dict[str, Any]
    """What it sets otherwise than the base, trials aside."""
    said: tuple[str, ...]
    """What each trial sets."""


class Part(NamedTuple):
    """What of a plan is asked for now."""

    models: frozenset[str]
    seeds: frozenset[int]
    folds: frozenset[int]


@dataclass(frozen=True)
class CrossvalPlan:
    """Everything that is to be trained on each fold."""

    base: Config
    models: tuple[Model, ...]
    seeds: tuple[int, ...]
    folds: int | Folds
    """Or how many to make."""
    comparisons: tuple[tuple[str, str], ...]

    def part(self, names: Sequence[str] = (), seeds: Sequence[int] = (), folds: Sequence[int] = ()) -> Part:
        """These models, seeds and folds; the rest may follow in the same folder. Nothing given: all.

        Raises ValueError for those that it does not have, and where the first seed, which tunes, is left out.
        """
        count = self.folds if isinstance(self.folds, int) else len(self.folds)
        if strange_folds := [fold for fold in folds if not 0 <= fold < count]:
            raise ValueError(f"expected folds of 0 to {count - 1}, got {strange_folds[0]}")
        known = [model.name for model in self.models]
        if strange := [name for name in names if name not in known]:
            raise ValueError(f"expected models of {'; '.join(known)}, got {strange[0]!r}")
        if seeds and not (len(set(seeds)) == len(seeds) and {self.seeds[0]} <= set(seeds) <= set(self.seeds)):
            said = ", ".join(map(str, self.seeds))
            raise ValueError(f"expected seeds of {said}, each once and {self.seeds[0]} among them, got {list(seeds)}")
        return Part(frozenset(names or known), frozenset(seeds or self.seeds), frozenset(folds or range(count)))

    @property
    def trials(self) -> int:
        """Of each model."""
        return len(self.models[0].trials)

    @property
    def sweep(self) -> Sweep:
        """All trials of all models, as they are trained on one fold and judged on its validation part."""
        variants = tuple(trial for model in self.models for trial in model.trials)
        return Sweep(self.base, variants, variants[0], self.seeds, "val")


def read_plan(path: Path, folds: Path | None = None, overrides: Sequence[str] = ()) -> CrossvalPlan:
    """A plan from its file, or from the name of one in configs/benchmarks.

    folds: a file in place of the plan's. overrides: 'a.b=value', for all models that do not set it themselves.
    Raises ValueError naming what does not fit.
    """
    path = _find(path)
    settings = read_settings(path, CrossvalSettings)
    based = configs_of(path, settings.base, settings.set_, overrides)
    start = based(None)
    models = tuple(_model(path, start, based(model.config), model) for model in settings.models)
    _check(path, settings, models)
    baseline = settings.baseline or models[0].name
    pairs = settings.comparisons or tuple((m.name, baseline) for m in models if m.name != baseline)
    if isinstance(settings.folds, int) and folds is None:
        return CrossvalPlan(start, models, settings.seeds, settings.folds, pairs)
    return CrossvalPlan(start, models, settings.seeds, read_folds(folds or path.parent / str(settings.folds)), pairs)


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    ready = READY / f"{path}.yaml"
    if len(path.parts) == 1 and ready.is_file():
        return ready
    names = ", ".join(sorted(each.stem for each in READY.glob("*.yaml")))
    raise ValueError(f"expected the file of a benchmark's plan, or one of {names}; got {str(path)!r}")


def _model(path: Path, start: Config, base: Config, model: ModelSettings) -> Model:
    source, folder = f"{path}: {model.name}", slug(model.name)
    own = changed(base, model.set_, source)
    trials, said = [], []
    for number, trial in enumerate(model.trials, 1):
        config = changed(own, trial, f"{source}, trial {number}")
        trials.append(Variant(f"{model.name}, trial {number}", config, f"{folder}/trial-{number}"))
        values = flat(config.model_dump())
        said.append(", ".join(f"{key} = {values.get(key, value)}" for key, value in trial.items()) or "as it is")
    return Model(model.name, folder, tuple(trials), difference(start, own), tuple(said))


def _check(path: Path, settings: CrossvalSettings, models: Sequence[Model]) -> None:
    """Raises ValueError where models cannot be told apart or compared fairly."""
    names = [model.name for model in models]
    if not models:
        raise ValueError(f"{path}: expected at least one model under `models`, got none")
    folders = [model.folder.lower() for model in models]
    if not all(folders) or len(set(folders)) < len(folders) or set(folders) & set(OURS):
        raise ValueError(f"{path}: expected a different name for each model, in letters or digits, got {names}")
    numbers = {model.name: len(model.trials) for model in models}
    if len(set(numbers.values())) > 1 or not models[0].trials:
        said = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise ValueError(f"{path}: expected as many trials for every model, so that none is tuned harder, got {said}")
    for model in models:
        if len({repr(trial.config) for trial in model.trials}) < len(model.trials):
            raise ValueError(f"{path}: expected different trials, two of {model.name} have the same settings")
    everything = [settings.set_, *(s for model in settings.models for s in (model.set_, *model.trials))]
    if any(SEED in keys for keys in everything):
        raise ValueError(f"{path}: expected seeds under `seeds`, got {SEED}")
    judges = {trial.config.training.select_by for model in models for trial in model.trials}
    if len(judges) > 1:
        said = " and ".join(sorted(judges))
        raise ValueError(f"{path}: expected one training.select_by for all models and trials (under `set`), got {said}")
    strange = {settings.baseline, *(name for pair in settings.comparisons for name in pair)} - {None, *names}
    if strange:
        raise ValueError(
            f"{path}: expected models of {'; '.join(names)} to compare, got {', '.join(map(repr, strange))}"
        )
    pairs = settings.comparisons
    if any(a == b for a, b in pairs) or len({frozenset(pair) for pair in pairs}) < len(pairs):
        raise ValueError(f"{path}: expected each comparison to be of two models and to come once")
