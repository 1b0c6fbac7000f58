"""A run on disk: what it is, its best weights, and where training stands. No pickle anywhere.

<run>/run.json           config, feature specs, dataset, versions, command: all that is needed to repeat or use it
<run>/best.safetensors   weights of the best epoch         <run>/best.json    its epoch and validation scores
<run>/last.safetensors   weights, optimizer and RNG of the last whole epoch (removed when training ends)
<run>/log.jsonl          one line per epoch                 <run>/result.json  written when training has ended
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..extract.layout import StoreSpec
from .config import Config, parse_config
from .model import RDMF

RUN_FORMAT = 1


@dataclass(frozen=True)
class RunInfo:
    """What a run is: enough to build its model and the encoders it was trained on."""

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
    """Roles: 'train' and 'validation' -> the split, 'val (carved from train)' where it was made here."""
    versions: dict[str, str]
    command: str

    @property
    def dims(self) -> tuple[int, int]:
        return sum(spec.dim for spec in self.video_specs), self.text_spec.dim

    @property
    def random_weights(self) -> list[str]:
        """The encoders of the features that had random weights."""
        return [s.folder_name for s in (*self.video_specs, self.text_spec) if s.weights.get("random")]


def save_run_info(run: Path, info: RunInfo) -> None:
    tree = asdict(info) | {"config": info.config.model_dump(), "format": RUN_FORMAT}
    write_json(run / "run.json", tree)


def load_run_info(run: Path) -> RunInfo:
    """Raises ValueError where `run` holds no run that this version can read."""
    tree = read_json(run / "run.json", f"{run} is no run (it has no run.json); make one with `rdmf train --out {run}`")
    if tree.pop("format", None) != RUN_FORMAT:
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
    """The model of a run with the weights of its best epoch, in evaluation mode."""
    model = build_model(info)
    load_weights(model, run / "best.safetensors")
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Raises ValueError where the file is missing, damaged, or of another model."""
    tensors = read_tensors(path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} holds the weights of another model: {' '.join(str(error).split())[:300]}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary)
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the run has no whole epoch yet; train it with `rdmf train`") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); train again, or restore it from a copy") from None


def write_json(path: Path, tree: Any) -> None:
    """Write JSON, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(tree, indent=2, allow_nan=False) + "\n", "utf-8")
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, if_missing: str) -> dict[str, Any]:
    """Raises ValueError with `if_missing`, or saying that the file is damaged."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(if_missing) from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is damaged (expected an object)")
    return tree


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> dict[str, Tensor]:
    """All that the next epoch depends on, as named tensors."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in entry.items()}
    return state | {"rng.order": generator.get_state(), "rng.torch": torch.get_rng_state()}


def restore_training_state(
    state: Mapping[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """The inverse of `training_state`."""
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            entries.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    generator.set_state(state["rng.order"])
    torch.set_rng_state(state["rng.torch"])


def _publish(temporary: Path, path: Path) -> None:
    """Sync and rename, so that a crash leaves the old file or the new one."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
