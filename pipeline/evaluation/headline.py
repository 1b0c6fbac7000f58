"""The few numbers of an evaluation that a table shows, in percent, in the field's order, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping

from .evaluate import Results
from .intervals import Interval

SHOWN = {
    "R1@0.3": "R1@0.3", "R1@0.5": "R1@0.5", "R1@0.7": "R1@0.7", "R5@0.5": "R5@0.5", "R5@0.7": "R5@0.7",
    "mIoU": "mIoU", "mAP": "mAP", "HL-mAP": "HL-VeryGood-mAP", "Hit@1": "HL-VeryGood-Hit1", "top-mAP": "top-mAP",
}  # fmt: skip
"""Heading -> name of the number in `columns`."""
LEFT_OUT = {"qvhighlights": {"R1@0.3", "R5@0.5", "R5@0.7"}, "charades": {"mAP"}, "activitynet": {"mAP"}}
"""Headings that the field does not report for a protocol."""


def headings(protocol: str, names: Mapping[str, object]) -> dict[str, str]:
    """Heading -> name, for those of the protocol that are among `names`."""
    left_out = LEFT_OUT.get(protocol, set())
    return {heading: name for heading, name in SHOWN.items() if name in names and heading not in left_out}


def headline(results: Results) -> dict[str, str]:
    """Heading -> number in percent as text, with its 95% interval where there is one: '62.90 [60.5, 65.3]'."""
    shown = in_percent(results.protocol, results.numbers, results.rdmf.get("intervals", {}))
    sentences = results.rdmf.get("by_sentence", {})
    if 1 < len(sentences.get("mAP", ())) < results.rdmf["counts"]["queries"] and sentences["mean"] is not None:
        shown["mean of domains"] = f"{100 * sentences['mean']:.2f}"
    return shown


def in_percent(protocol: str, numbers: Mapping[str, float | None], intervals: Mapping[str, Interval]) -> dict[str, str]:
    """The same of any named numbers, such as those of a group."""
    shown = {}
    for heading, name in headings(protocol, numbers).items():
        value, interval = numbers[name], intervals.get(name, {})
        if value is not None:
            shown[heading] = f"{100 * value:.2f}"
            low, high = interval.get("low"), interval.get("high")
            if low is not None and high is not None:
                shown[heading] += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return shown
