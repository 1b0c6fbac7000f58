"""The runs under a folder: what each is, how far it is, and how well it did on its validation split."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .checkpoint import Best, RunInfo, find_best, find_standing, load_result, load_run_info
from .run_folder import is_locked
from .tensor_files import read_state


@dataclass(frozen=True)
class RunSummary:
    """One run, or what is wrong with its folder."""

    folder: Path
    state: str = ""
    """A few words: 'finished', 'training', 'interrupted after epoch 3', 'diverged at epoch 2, step 7', ..."""
    dataset: str = ""
    fusion: str = ""
    seed: int = 0
    epochs: int = 0
    """Whole epochs that are done."""
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    """Validation scores of the best epoch, fractions."""
    random_weights: bool = False
    """Whether encoders with random weights made its features: its numbers then say nothing about them."""
    problem: str | None = None
    """Why the folder cannot be used."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder)}


def list_runs(folder: Path) -> list[RunSummary]:
    """The runs in `folder` and below, by path. Raises ValueError where there is no such folder."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    return [summarise(path.parent) for path in sorted(folder.rglob("run.json"))]


def summarise(run: Path) -> RunSummary:
    try:
        info = load_run_info(run)
        state, epochs, best = _stand(run, info)
    except (ValueError, OSError) as error:
        return RunSummary(run, "damaged", problem=" ".join(str(error).split()))
    return RunSummary(
        run, state, info.dataset, info.config.model.fusion.kind, info.config.training.seed, epochs, best.epoch,
        best.scores, bool(info.random_weights),
    )  # fmt: skip


def _stand(run: Path, info: RunInfo) -> tuple[str, int, Best]:
    """State, whole epochs, and the best of them."""
    if (run / "result.json").is_file():
        result = load_result(run)
        return "finished", result.epochs, Best(result.best_epoch, scores=result.best)
    best = find_best(run)
    if info.format == 1:
        return "interrupted, by an older version of rdmf", 0, best
    at = find_standing(run)
    within = f", {at.step} steps into the next" if at.step else ""
    if is_locked(run):
        return f"training, after epoch {at.epoch}{within}", at.epoch, best
    if (run / "diverged.safetensors").is_file():
        said = read_state(run / "diverged.safetensors", "")
        return f"diverged at epoch {said.get('epoch')}, step {said.get('step')}", at.epoch, best
    if not at.epoch and not at.step:
        return "ended before its first checkpoint", 0, best
    return f"interrupted after epoch {at.epoch}{within}", at.epoch, best
