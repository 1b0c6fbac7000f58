"""A sweep: the settings that are trained beside each other, each with several seeds. YAML in, variants out.

    base: ../models/rdmf_paper.yaml                 a config file, seen from the sweep's own folder; or its sections
    set: {training.epochs: 20}                    for every variant
    seeds: [0, 1, 2]                              each variant is trained with each
    split: val                                    what the numbers are on; 'test' where that is asked for
    baseline: full                                what differences are from [the first variant]
    variants:                                     settings that go together, by name
      - {name: full}
      - {name: w/o TD, set: {model.diffusion.steps: 0}}
      - {name: QD-DETR, config: ../models/qd_detr.yaml}     a config file, laid over the base; `set` comes after it
    factors: {model.fusion.steps: [1, 5, 20]}     each by itself around the base, which is a variant too
    grid: {model.fusion.feed: [0.02, 0.04], model.fusion.kill: [0.05, 0.06]}     every combination

Variants of factors and grid are named by their values, in the paper's letters where it has them: 'F=0.02, k=0.05'. The
name gives the folder, so names do not change when a value is added. Variants with equal settings share their runs.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import AfterValidator, Field, ValidationError

from ...fuse.kinetics import KINETICS
from ..config import Config, ModelConfig, Settings, flat, load_config, parse_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
READY = (CONFIGS / "ablations", CONFIGS / "paper")
"""Where the sweeps are that come with rdmf; a name alone finds them."""
MOST_VARIANTS = 10_000
"""More are a slip of the keyboard."""
SEED = "training.seed"
LETTERS = {
    "model.diffusion.steps": "N", "model.diffusion.d": "d", "model.fusion.steps": "M", "model.fusion.dt": "dt",
    "model.fusion.d_video": "D_u", "model.fusion.d_text": "D_v", "model.fusion.feed": "F", "model.fusion.kill": "k",
    "model.moment.iou_weight": "lambda",
}  # fmt: skip
"""The paper's letters."""

OURS = ("sweep.json", "table.json", "table.md", "costs.json")
"""Files of a sweep's folder: no variant's."""

Value = bool | int | float | str


def _are_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError("expected different seeds >= 0, at least one")
    return seeds


Form = TypeVar("Form", bound=Settings)
Seeds = Annotated[tuple[int, ...], AfterValidator(_are_seeds)]


class VariantSettings(Settings):
    """One entry of `variants`."""

    name: str
    config: str | None = None
    """A config file, seen from the sweep's own folder. What it says is laid over the base, setting by setting."""
    set_: dict[str, Any] = Field(default={}, alias="set")


class SweepSettings(Settings):
    """The file."""

    base: str | dict[str, Any] = Field(default={})
    set_: dict[str, Any] = Field(default={}, alias="set")
    seeds: Seeds = (0, 1, 2)
    split: str = "val"
    baseline: str | None = None
    variants: tuple[VariantSettings, ...] = ()
    factors: dict[str, tuple[Value, ...]] = Field(default={})
    grid: dict[str, tuple[Value, ...]] = Field(default={})


@dataclass(frozen=True)
class Variant:
    """Settings with a name."""

    name: str
    config: Config
    """With seed 0; each run has its own."""
    folder: str
    """Below the sweep's; variants with equal settings have the same one."""

    def seeded(self, seed: int) -> Config:
        return changed(self.config, {SEED: seed}, self.name)


@dataclass(frozen=True)
class Sweep:
    """What is to be trained, and what is to be said of it."""

    base: Config
    variants: tuple[Variant, ...]
    baseline: Variant
    seeds: tuple[int, ...]
    split: str


def read_sweep(path: Path, base: Path | None = None, overrides: Sequence[str] = (), split: str | None = None) -> Sweep:
    """A sweep from its file, or from the name of one in configs/ablations or configs/paper.

    base: a config file in place of the sweep's. overrides: 'a.b=value', for every variant that does not `set` it
    itself; they and the sweep's own `set` go over the config files of variants.
    Raises ValueError naming what does not fit: unknown keys, wrong values, names that come twice.
    """
    path = _find(path)
    settings = read_settings(path, SweepSettings)
    based = configs_of(path, base or settings.base, settings.set_, overrides)
    bases = {file: based(file) for file in (None, *dict.fromkeys(v.config for v in settings.variants))}
    points = [_variant(path, bases[file], name, said) for name, file, said in _points(path, settings)]
    variants = _with_folders(path, points)
    by_name = {variant.name: variant for variant in variants}
    if settings.baseline is not None and settings.baseline not in by_name:
        raise ValueError(f"{path}: expected a baseline of {', '.join(by_name)}, got {settings.baseline!r}")
    baseline = by_name[settings.baseline] if settings.baseline is not None else variants[0]
    return Sweep(bases[None], variants, baseline, settings.seeds, split or settings.split)


def read_settings(path: Path, form: type[Form]) -> Form:
    """A YAML file as a form. Raises ValueError naming what does not fit."""
    try:
        return form.model_validate(read_yaml(path))
    except ValidationError as error:
        said = (f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: {'; '.join(dict.fromkeys(said))}") from None


def configs_of(
    path: Path, base: Path | str | dict[str, Any], set_: Mapping[str, Any], overrides: Sequence[str]
) -> Callable[[str | None], Config]:
    """From a config file named in `path`, or none, to the settings that a variant or model starts from.

    The file is laid over the base; `set_` and overrides go over both. Raises ValueError, as what it returns does.
    """
    if isinstance(base, dict):
        start = parse_config(base, f"{path}: base")
    else:
        start = load_config(base if isinstance(base, Path) else path.parent / base)
    said_to_all = dict(map(parsed_override, overrides))
    if SEED in said_to_all:
        raise ValueError(f"{path}: expected seeds under `seeds`, got --set {SEED}")

    def based(file: str | None) -> Config:
        config = start if file is None else laid_over(start, path.parent / file)
        config = changed(config, set_, f"{path}: set")
        return changed(changed(config, said_to_all, f"--set{f' on {file}' * (file is not None)}"), {SEED: 0}, str(path))

    return based


def changed(config: Config, settings: Mapping[str, Any], source: str) -> Config:
    """The config with `a.b: value` settings; a value may be a section. Raises ValueError, beginning with `source`.

    Another kind of fusion keeps what both kinds have and takes the defaults of the rest; so do other kinetics.
    """
    tree = config.model_dump(exclude_none=True)
    for key, value in settings.items():
        *parents, last = key.split(".")
        section: Any = tree
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise ValueError(f"{source}: {key} is no setting; look for a misspelling")
        section[last] = value
    if not settings.keys() & {"model", "model.fusion"}:
        _forget(tree["model"]["fusion"], config, settings)
    return parse_config(tree, source)


def _forget(fusion: dict[str, Any], config: Config, settings: Mapping[str, Any]) -> None:
    """Drop what the base said of another kind of fusion, or of other kinetics."""
    before, said = config.model.fusion, {key.removeprefix("model.fusion.") for key in settings}
    strange: set[str] = set()
    if fusion.get("kind") != before.kind:
        kinds = {
            each.model_fields["kind"].default: each for each in get_args(ModelConfig.model_fields["fusion"].annotation)
        }
        if kind := kinds.get(str(fusion.get("kind"))):
            strange = set(fusion) - set(kind.model_fields)
    elif fusion.get("kinetics") != getattr(before, "kinetics", None):
        strange = {rate for kinetics in KINETICS.values() for rate in kinetics.rates}
    for key in strange - said:
        fusion.pop(key, None)


def ready_sweeps() -> dict[str, Path]:
    """The sweeps that come with rdmf, by name."""
    return {path.stem: path for folder in READY for path in sorted(folder.glob("*.yaml"))}


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    ready = ready_sweeps()
    if str(path) in ready:
        return ready[str(path)]
    raise ValueError(f"expected the file of a sweep, or one of {', '.join(ready)}; got {str(path)!r}")


def read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no config file {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is no YAML that can be read: {' '.join(str(error).split())}") from None


def laid_over(base: Config, path: Path) -> Config:
    """The base with the settings of a config file; what the file does not say stays."""
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ValueError(f"expected sections (model, loss, training) in {path}, got {type(tree).__name__}")
    parse_config(tree, str(path))  # it stands by itself, too
    return changed(base, flat(tree), str(path))


def parsed_override(override: str) -> tuple[str, Any]:
    key, equals, value = override.partition("=")
    try:
        if equals and key.strip():
            return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise ValueError(f"--set {override}: expected section.key=value")


def _points(path: Path, settings: SweepSettings) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Of every variant its name, where the sweep gives one, its config file and its settings."""
    factors, grid = settings.factors, settings.grid
    if any(SEED in keys for keys in (*(v.set_ for v in settings.variants), settings.set_, factors, grid)):
        raise ValueError(f"{path}: expected seeds under `seeds`, got {SEED}")
    empty = [key for key, values in (*factors.items(), *grid.items()) if not values]
    if empty or not (settings.variants or factors or grid):
        raise ValueError(f"{path}: expected variants, factors or a grid with values, got none of {empty or 'them'}")
    if len(settings.variants) + sum(map(len, factors.values())) + math.prod(map(len, grid.values())) > MOST_VARIANTS:
        raise ValueError(f"{path}: expected at most {MOST_VARIANTS:,} variants; look for a value too many")
    yield from ((variant.name, variant.config, variant.set_) for variant in settings.variants)
    if factors:
        yield "base", None, {}
        yield from (("", None, {key: value}) for key, values in factors.items() for value in values)
    if grid:
        yield from (("", None, dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values()))


def _variant(path: Path, base: Config, name: str, said: Mapping[str, Any]) -> tuple[str, Config]:
    config = changed(base, said, f"{path}: {name or ', '.join(f'{key}={value}' for key, value in said.items())}")
    if name:
        return name, config
    values = flat(config.model_dump())  # '1e-3' is text to YAML, and a number here
    return ", ".join(f"{LETTERS.get(key, key.removeprefix('model.'))}={_text(values[key])}" for key in said), config


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_folders(path: Path, named: Sequence[tuple[str, Config]]) -> tuple[Variant, ...]:
    """The variants; each has the folder of the first one with the same settings."""
    twice = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: expected a different name for each variant, got {twice[0]!r} twice")
    folder_of: dict[str, str] = {}
    owner = {name: f"the sweep's own {name}" for name in OURS}
    variants = []
    for name, config in named:
        said = repr(flat(config.model_dump()))
        folder = folder_of.setdefault(said, slug(name))
        if not folder:
            raise ValueError(f"{path}: expected names with letters or digits, got {name!r}")
        if folder == slug(name) and owner.setdefault(folder.lower(), name) != name:
            raise ValueError(
                f"{path}: expected names that give different folders, got {name!r} and {owner[folder.lower()]!r}"
            )
        variants.append(Variant(name, config, folder))
    return tuple(variants)


def slug(name: str) -> str:
    """A name as that of a folder: 'w/o TD' is 'w-o-TD'."""
    return re.sub(r"[^A-Za-z0-9._=+]+", "-", name).strip("-.")
