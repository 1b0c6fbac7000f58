"""A run on disk: what it is, its best weights, and where training stands. No pickle anywhere.

<run>/run.json              config, feature specs, dataset, versions, machine, command: all that is needed to repeat it
<run>/best.safetensors      the weights that did best on the validation split, their epoch and scores
<run>/last.safetensors      all that the next step depends on (removed when training ends)
<run>/diverged.safetensors  where training diverged: the weights before that step, and its batch
<run>/log.jsonl             one line per epoch        <run>/steps.jsonl   one line every few steps
<run>/result.json           written when training has ended
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from ...extract.layout import StoreSpec
from ..config import Config, parse_config
from ..model import RDMF
from .tensor_files import publish, read_file, read_state, write_tensors

RUN_FORMAT = 2
READABLE = (1, RUN_FORMAT)
"""Runs of format 1 can be evaluated; their weights carry no checksum."""


@dataclass(frozen=True)
class RunInfo:
    """What a run is: enough to build its model and the encoders it was trained on, and to train it again."""

    config: Config
    dataset: str
    clip_seconds: float
    features: str
    """The folder of features it was trained on, as given."""
    video_specs: tuple[StoreSpec, ...]
    text_spec: StoreSpec
    max_clips: int
    """Clips of the longest training video; longer videos are read in overlapping windows."""
    splits: dict[str, str]
    """Roles: 'train' and 'validation' -> the split; 'val (carved: 0.1 of the videos of train)' if it was made here."""
    versions: dict[str, str]
    command: str
    manifest_sha256: str = ""
    """Of manifest.parquet, the annotations."""
    machine: dict[str, Any] = field(default_factory=dict)
    """Device, threads and processes that it was started with: other ones round otherwise."""
    format: int = RUN_FORMAT

    @property
    def dims(self) -> tuple[int, int]:
        return sum(spec.dim for spec in self.video_specs), self.text_spec.dim

    @property
    def random_weights(self) -> list[str]:
        """The encoders of the features that had random weights."""
        return [s.folder_name for s in (*self.video_specs, self.text_spec) if s.weights.get("random")]


@dataclass
class Best:
    """What best.safetensors says of itself."""

    epoch: int = 0
    """0: there is none yet."""
    score: float = float("-inf")
    scores: dict[str, float] = field(default_factory=dict)


@dataclass
class Standing:
    """Where training stands: what last.safetensors says of itself."""

    epoch: int = 0
    """Whole epochs that are done."""
    step: int = 0
    """Steps done of the next one."""
    best_epoch: int = 0
    processes: int = 1


@dataclass(frozen=True)
class TrainResult:
    """How training ended: what result.json says."""

    best_epoch: int
    best: dict[str, float]
    """Validation scores of the best epoch, fractions."""
    epochs: int
    parameters: int
    seconds: float
    """Of this call; resumed epochs are not in it."""


def save_run_info(run: Path, info: RunInfo) -> None:
    write_json(run / "run.json", asdict(info) | {"config": info.config.model_dump()})


def load_run_info(run: Path) -> RunInfo:
    """Raises ValueError where `run` holds no run that this version can read."""
    tree = read_json(run / "run.json", f"{run} is no run (it has no run.json); make one with `rdmf train --out {run}`")
    if tree.get("format") not in READABLE:
        raise ValueError(f"{run}/run.json is of another version of rdmf; expected format {RUN_FORMAT}")
    try:
        tree["config"] = parse_config(tree["config"], f"{run}/run.json")
        tree["video_specs"] = tuple(StoreSpec(**spec) for spec in tree["video_specs"])
        tree["text_spec"] = StoreSpec(**tree["text_spec"])
        return RunInfo(**tree)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run}/run.json is damaged: {error}; train again into another folder") from None


def build_model(info: RunInfo) -> RDMF:
    return RDMF(info.config.model, *info.dims)


def load_best(run: Path, info: RunInfo) -> RDMF:
    """The model of a run with its best weights, in evaluation mode."""
    model = build_model(info)
    file = read_file(run / "best.safetensors", _no_epoch(run / "best.safetensors"), sealed=info.format > 1)
    load_weights(model, file.tensors, run / "best.safetensors")
    return model.eval()


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Raises ValueError where the weights are those of another model."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{source} holds the weights of another model: {' '.join(str(error).split())[:300]}") from None


def save_best(run: Path, model: nn.Module, best: Best) -> None:
    write_tensors(run / "best.safetensors", model.state_dict(), asdict(best))


def find_best(run: Path) -> Best:
    """What the best weights say of themselves; epoch 0 where there are none."""
    path = run / "best.safetensors"
    return _read(Best, read_state(path, ""), path) if path.is_file() else Best()


def save_standing(run: Path, tensors: dict[str, Tensor], standing: Standing) -> None:
    write_tensors(run / "last.safetensors", tensors, asdict(standing))


def load_standing(run: Path) -> tuple[dict[str, Tensor], Standing]:
    """The last checkpoint. Raises ValueError, saying what is still whole, where it or the best weights are damaged."""
    path, best = run / "last.safetensors", run / "best.safetensors"
    try:
        tensors, state = read_file(path, _no_epoch(path))
        standing = _read(Standing, state, path)
    except ValueError as error:
        raise ValueError(f"{error}; {_what_is_whole(run)}") from None
    if standing.best_epoch:
        read_file(best, f"{best} is missing, which the run had at epoch {standing.best_epoch}; restore it from a copy")
    return tensors, standing


def find_standing(run: Path) -> Standing:
    """Where an interrupted run stands, from the header of its last checkpoint; nowhere without one."""
    path = run / "last.safetensors"
    return _read(Standing, read_state(path, ""), path) if path.is_file() else Standing()


def load_result(run: Path) -> TrainResult:
    """Of a run that has ended."""
    path = run / "result.json"
    return _read(TrainResult, read_json(path, f"{run} has not ended: it has no result.json"), path)


def write_json(path: Path, tree: Any) -> None:
    """Write JSON, whole or not at all."""
    publish(path, [(json.dumps(tree, indent=2, allow_nan=False) + "\n").encode()])


def read_json(path: Path, if_missing: str) -> dict[str, Any]:
    """Raises ValueError with `if_missing`, or saying that the file is damaged."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(if_missing) from None
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is damaged (expected an object)")
    return tree


Said = TypeVar("Said", Best, Standing, TrainResult)


def _read(kind: type[Said], state: dict[str, Any], path: Path) -> Said:
    try:
        return TypeAdapter(kind).validate_python(state)
    except ValidationError as error:
        raise ValueError(f"{path} is damaged or of another version ({error.errors()[0]['msg']})") from None


def _no_epoch(path: Path) -> str:
    return f"{path} is missing: the run has no whole epoch yet; train it with `rdmf train`"


def _what_is_whole(run: Path) -> str:
    """What can be done with a run whose last checkpoint cannot be read."""
    path = run / "best.safetensors"
    try:
        state = read_file(path, "").state
    except ValueError:
        return "there are no whole best weights beside it either"
    return f"{path} (epoch {state.get('epoch')}) is whole and can be evaluated"
