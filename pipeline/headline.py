"""The few numbers of an evaluation that a table shows, in percent, in the field's order."""

from __future__ import annotations

from .evaluate import Results


def headline(results: Results) -> dict[str, str]:
    """Column -> number as text; R1@0.5 with its 95% interval where there is one."""
    metrics = results.metrics
    if results.protocol == "qvhighlights":
        brief = metrics["brief"]
        names = {
            "R1@0.5": "MR-full-R1@0.5", "R1@0.7": "MR-full-R1@0.7", "mIoU": "MR-full-mIoU", "mAP": "MR-full-mAP",
            "HL-mAP": "HL-min-VeryGood-mAP", "Hit@1": "HL-min-VeryGood-Hit1",
        }  # fmt: skip
        numbers = {name: brief.get(key) for name, key in names.items()}
    elif results.protocol == "highlights":
        numbers = {name: 100 * value for name, value in metrics.items() if isinstance(value, float)}
    else:
        names = {f"R1@{t}": f"R@1_IoU_{t}" for t in ("0.3", "0.5", "0.7")}
        names |= {f"R5@{t}": f"R@5_IoU_{t}" for t in ("0.5", "0.7")} | {"mIoU": "mIoU"}
        numbers = {name: 100 * metrics[key] for name, key in names.items() if metrics.get(key) is not None}
    shown = {name: f"{value:.2f}" for name, value in numbers.items() if value is not None}
    interval = results.rdmf.get("intervals", {}).get("R1@0.5")
    if interval is not None and "R1@0.5" in shown:
        shown["R1@0.5"] += f" [{100 * interval['low']:.0f}, {100 * interval['high']:.0f}]"
    return shown
