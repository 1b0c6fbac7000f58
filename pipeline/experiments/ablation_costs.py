"""What every variant of a sweep costs, beside its numbers: measured once, all in turn (cost.py), and found again.

<out>/costs.json    the costs, and a hash of what they depend on: settings, features, machine

One more variant measures all of them anew: what was not measured in turn is not compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from ..training.checkpoint import write_json
from .ablation_plan import Plan
from .ablation_tables import AblationTable
from .cost import Cost, conditions, measure_costs


def with_costs(
    table: AblationTable, plan: Plan, on_measure: Callable[[int], None] = lambda models: None
) -> AblationTable:
    """The table with the cost of every variant that the model takes; a note where they cannot be measured.

    on_measure: called with the number of models before they are measured.
    """
    try:
        where = conditions(plan.shared.device)
        costs = _costs(plan, where, on_measure)
    except (ValueError, RuntimeError, OSError) as error:  # no such device here, or no memory for all at once
        why = f"costs could not be measured: {' '.join(str(error).split())}"
        return replace(table, notes=(*table.notes, why))
    rows = tuple(replace(row, cost=None if row.refused else costs.get(row.folder)) for row in table.rows)
    return replace(table, rows=rows, costs_on=where)


def _costs(plan: Plan, where: dict[str, Any], on_measure: Callable[[int], None]) -> dict[str, Cost]:
    """By the variants' folders: those of costs.json, or measured and put there."""
    shared, configs = plan.shared, {v.folder: v.config for v in plan.sweep.variants if v.name not in plan.refused}
    depends = {folder: config.model_dump() for folder, config in configs.items()} | {"where": where}
    depends |= {what: plan.said[what] for what in ("video_specs", "text_spec", "manifest_sha256")}
    settings = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    if (kept := _kept(plan, settings)) is not None:
        return kept
    on_measure(len(configs))
    costs = measure_costs(configs, shared.features, shared.video_stores, shared.text_store, device=shared.device)
    said = {"format": 1, "settings": settings, "where": where}
    write_json(plan.out / "costs.json", said | {"costs": {name: asdict(cost) for name, cost in costs.items()}})
    return costs


def _kept(plan: Plan, settings: str) -> dict[str, Cost] | None:
    """What costs.json says, where it is about these very settings."""
    try:
        told = json.loads((plan.out / "costs.json").read_text("utf-8"))
        if told["settings"] == settings:
            return {name: Cost(**cost) for name, cost in told["costs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none there, or not ours: measured anew
        pass
    return None
