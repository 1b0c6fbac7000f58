"""What differs between the runs of a report, and what they reached: the layout of the paper's ablation tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .judged import Judged, Opened

SYMBOLS = {
    "model.diffusion.steps": "N", "model.diffusion.dt": "dt of (3)", "model.diffusion.d": "d",
    "model.fusion.kind": "fusion", "model.fusion.steps": "M", "model.fusion.dt": "dt of (7)",
    "model.fusion.d_video": "D_u", "model.fusion.d_text": "D_v", "model.fusion.feed": "F", "model.fusion.kill": "k",
    "model.fusion.diffusion_order": "diffusion order", "model.moment.iou_weight": "lambda",
}  # fmt: skip
"""What the paper calls a setting; others keep the name they have in a config."""
SWITCHES = {"model.diffusion.steps": "TD", "model.fusion.kind": "RD", "model.moment.iou": "IH"}
"""Settings that switch a part of the method on or off, and that part."""
PARTS = {"TD": "temporal diffusion", "RD": "reaction-diffusion", "IH": "IoU head"}


@dataclass(frozen=True)
class Differences:
    """The settings that runs do not share."""

    settings: tuple[str, ...]
    """Headings, parts of the method first."""
    values: dict[str, dict[str, str]]
    """System -> heading -> value."""


def differences(judged: Judged) -> Differences | None:
    """What differs between the systems that are runs; None with fewer than two, or where nothing does.

    A system of several seeds is described by its first; the seed itself is no difference."""
    runs = {system.name: system.runs[0] for system in judged.systems if system.runs}
    flat = {name: _settings(run) for name, run in runs.items()}
    keys = [key for key in dict.fromkeys(key for tree in flat.values() for key in tree) if key != "training.seed"]
    differing = [key for key in keys if len({repr(tree[key]) for tree in flat.values() if key in tree}) > 1]
    if len(runs) < 2 or not differing:
        return None
    columns: dict[str, dict[str, str]] = {}
    for key, part in SWITCHES.items():
        on = {name: _is_on(key, tree) for name, tree in flat.items()}
        if len(set(on.values())) > 1:
            columns[part] = {name: "yes" if value else "no" for name, value in on.items()}
    for key in differing:
        only_a_switch = SWITCHES.get(key) in columns and (
            key != "model.diffusion.steps" or len({tree[key] for tree in flat.values()} - {0}) < 2
        )
        if not only_a_switch:
            columns[SYMBOLS.get(key, key)] = {name: _shown(tree.get(key)) for name, tree in flat.items()}
    values = {name: {heading: column[name] for heading, column in columns.items()} for name in runs}
    return Differences(tuple(columns), values)


def _settings(run: Opened) -> dict[str, Any]:
    """Every setting by its dotted name, and the features the run was trained on."""
    return flatten(run.info.config.model_dump()) | {"features": ", ".join(s.folder_name for s in run.info.video_specs)}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _is_on(key: str, tree: Mapping[str, Any]) -> bool:
    return tree[key] == "reaction_diffusion" if key == "model.fusion.kind" else bool(tree[key])


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
