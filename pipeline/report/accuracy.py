"""The first half of the report in words, tables and figures: how good the systems are, and how they differ."""

from __future__ import annotations

from collections.abc import Mapping

from ... import __version__
from ..comparison.comparison_text import HEAD, method, rows
from ..comparison.seeds import Spread
from ..evaluation.intervals import Interval
from .collect import Report
from .document import Figure, Section, Table, bold_best, percent
from .figures import group_chart, recall_chart
from .settings import PARTS

LAYOUTS = {
    "qvhighlights": {
        "R1@0.5": "R1@0.5", "R1@0.7": "R1@0.7", "mAP@0.5": "mAP@0.5", "mAP@0.75": "mAP@0.75", "mAP avg.": "mAP",
        "HL-mAP": "HL-VeryGood-mAP", "Hit@1": "HL-VeryGood-Hit1",
    },
    "charades": {"R1@0.3": "R1@0.3", "R1@0.5": "R1@0.5", "R1@0.7": "R1@0.7", "mIoU": "mIoU"},
    "activitynet": {"R1@0.3": "R1@0.3", "R1@0.5": "R1@0.5", "R1@0.7": "R1@0.7", "mIoU": "mIoU"},
    "highlights": {"mAP of clips": "top-mAP"},
}  # fmt: skip
"""Protocol -> heading -> name of the number in `columns`: the columns of the paper's tables."""
CHARTED = ("R1@0.5", "mAP", "mIoU", "HL-VeryGood-mAP", "top-mAP")
"""Of these, the first two that there are get charts by group."""


def layout(report: Report) -> dict[str, str]:
    """The columns of the headline table that some system has."""
    has = {name for numbers in report.numbers.values() for name, found in numbers.items() if found["value"] is not None}
    return {heading: name for heading, name in LAYOUTS[report.protocol].items() if name in has}


def headline(report: Report) -> Section:
    """Who was judged on what, and the table of the paper."""
    ours = report.judged.results.rdmf
    counts, columns, names = ours["counts"], layout(report), report.names
    body, values = [], []
    for system in report.judged.systems:
        numbers, spread = report.numbers[system.name], report.spread.get(system.name, {})
        seeds = f" ({len(system.results)} seeds)" if len(system.results) > 1 else ""
        body.append([system.name + seeds, *(_cell(numbers, spread, name) for name in columns.values())])
        values.append([numbers.get(name, {}).get("value") for name in columns.values()])
    table = Table("Percent, with 95% intervals.", ["", *columns], body, best=bold_best(values, 1))
    count = f"{len(names)} systems" if len(names) > 1 else "One system"
    sentences = [
        f"{count} on {ours['dataset']} {ours['split']}: {counts['queries']:,} queries about {counts['videos']:,} "
        f"videos, judged by rdmf {__version__} under protocol {report.protocol}.",
        "Every number was measured here from the predictions themselves, and is about this split; none is taken "
        "from a publication. Published tables mix splits, so compare within this page.",
    ]
    notes = [
        f"In brackets: 95% interval, bootstrap over source videos ({report.resamples:,} resamples, seed {report.seed})."
        + (" After ±: deviation over seeds." if report.spread else "")
        + (" Bold: the highest of its column, be it by chance or not (see Differences)." if len(names) > 1 else "")
    ]
    if report.highest_hl_map is not None:
        notes.append(
            "HL-mAP and Hit@1 are at VeryGood. An annotator who found no clip that good counts as 0, so here HL-mAP "
            f"cannot exceed {100 * report.highest_hl_map:.1f}."
        )
    return Section(
        "Results",
        "results",
        sentences,
        _about_runs(report),
        [table],
        notes=[*notes, *(f"{note}." for note in report.judged.notes)],
    )


def _cell(numbers: Mapping[str, Interval], spread: Mapping[str, Spread], name: str) -> str:
    found = numbers.get(name)
    if found is None or found["value"] is None:
        return "-"
    shown, _, interval = percent(found["value"], found["low"], found["high"]).partition(" ")
    deviation = f" ± {100 * spread[name].deviation:.2f}" if name in spread else ""
    return f"{shown}{deviation} {interval}".rstrip()


def _about_runs(report: Report) -> list[str]:
    """What the runs were trained on, and what keeps their numbers from being honest; those that share it together."""
    split = report.judged.results.rdmf["split"]
    found: dict[str, list[str]] = {}
    for run in report.judged.runs:
        info = run.info
        stores = ", ".join(spec.folder_name for spec in info.video_specs)
        said = f"trained on {info.splits['train']} of {info.dataset}, video features {stores}"
        if info.splits["train"].split(" ")[0] == split:
            said += "; it was trained on the very split judged here, so these numbers say nothing about new videos"
        elif info.splits["validation"].split(" ")[0] == split:
            said += f"; the epoch was chosen on {split} by {info.config.training.select_by}, so these numbers are a "
            said += "little too good"
        else:
            said += f"; the epoch was chosen on {info.splits['validation']}"
        if info.random_weights:
            said += (
                f"; the encoders of {', '.join(info.random_weights)} had RANDOM weights, so these numbers mean nothing"
            )
        if run.dataset.missing:
            said += f"; {len(run.dataset.missing):,} queries without features are left out of every number"
        found.setdefault(said, []).append(run.name)
    return [f"{', '.join(names)}: {said}." for said, names in found.items()]


def comparison(report: Report) -> Section | None:
    """The layout of the paper's table of significance."""
    found = report.comparison
    if found is None:
        return None
    head = [heading if heading != "system" else found.system for heading in HEAD]
    table = Table(f"{found.system} against the others, query by query.", head, rows(found), texts=2)
    return Section(
        "Differences", "differences", [method(found)], [found.sentence(test) for test in found.tests], [table],
        notes=[f"{note[:1].upper()}{note[1:]}." for note in found.notes],
    )  # fmt: skip


def recall(report: Report) -> Section | None:
    if not report.recall:
        return None
    shown = [f"{t:.2f}" for t in report.recall[0].thresholds]
    table = Table(
        "R1 (%) at each IoU threshold.", ["", *shown],
        [[c.system, *(f"{100 * v:.1f}" for v in c.value)] for c in report.recall], folded=True,
    )  # fmt: skip
    sentences = []
    for curve in report.recall:
        at = {round(float(t), 2): float(v) for t, v in zip(curve.thresholds, curve.value, strict=True)}
        sentences.append(
            f"{curve.system}: {100 * at[0.5]:.1f}% of the queries are found at IoU 0.5, {100 * at[0.7]:.1f}% at 0.7, "
            f"and {100 * at[0.9]:.1f}% at 0.9."
        )
    figure = Figure(
        "Share of queries whose first window reaches the IoU; bands are 95% intervals.",
        [recall_chart(report.recall, report.names)], report.names,
    )  # fmt: skip
    return Section("R1 against the IoU threshold", "recall", (), sentences, [table], [figure])


def groups(report: Report) -> Section | None:
    """The layout of the paper's table by kind of query, and the same by length and number of windows and by video."""
    if not report.groups:
        return None
    columns = layout(report)
    has = {name for numbers in report.numbers.values() for name in numbers}
    charted = [name for name in CHARTED if name in has][:2]
    headings = {name: heading for heading, name in columns.items()}
    figures, tables = [], []
    for grouped in report.groups:
        charts = [group_chart(grouped, name, headings.get(name, name), report.names) for name in charted]
        drawn = [chart for chart in charts if chart is not None]
        if drawn:
            figures.append(Figure(f"By {grouped.title}, with 95% intervals.", drawn, report.names))
        body = []
        for group, count in grouped.queries.items():
            for system in report.names:
                numbers = grouped.numbers[system][group]
                body.append([f"{group} ({count:,})", system, *(_cell(numbers, {}, n) for n in columns.values())])
        head = [f"{grouped.title} (queries)", "", *columns]
        tables.append(Table(f"By {grouped.title}.", head, body, texts=2, folded=grouped.name != "kind"))
    kinds = any(grouped.name == "kind" for grouped in report.groups)
    note = (
        "Kinds are as annotated, or read off the sentence by the rules of rdmf.pipeline.evaluation.query_kinds, "
        "which are right most of the time, not always."
    )
    return Section(
        "By group of queries", "groups",
        ["A query is in one group of each grouping. Groups differ in other ways too, so a gap does not say why."],
        tables=tables, figures=figures, notes=[note] if kinds else [],
    )  # fmt: skip


def settings(report: Report) -> Section | None:
    """The layout of the paper's ablation tables, for the settings in which the given runs differ."""
    found = report.differences
    if found is None:
        return None
    columns = layout(report)
    body = [
        [name, *values.values(), *(_cell(report.numbers[name], {}, number) for number in columns.values())]
        for name, values in found.values.items()
    ]
    numbers = [[report.numbers[name].get(n, {}).get("value") for n in columns.values()] for name in found.values]
    texts = 1 + len(found.settings)
    table = Table(
        "Settings in which the runs differ, and their numbers.", ["", *found.settings, *columns], body, texts,
        bold_best(numbers, texts),
    )  # fmt: skip
    parts = [f"{part}: {name}" for part, name in PARTS.items() if part in found.settings]
    sentences = ["What the runs share is left out. A run differs from another by all that is listed."]
    return Section(
        "What differs between the runs", "settings", sentences, tables=[table],
        notes=["; ".join(parts) + "."] if parts else [],
    )  # fmt: skip
