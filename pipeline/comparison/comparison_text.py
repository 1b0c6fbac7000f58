"""A comparison as tables of text, and as a Markdown document for a paper's appendix."""

from __future__ import annotations

from .compare import ALPHA, Comparison, p_values

HEAD = (
    "metric", "baseline", "system", "baseline's", "difference [95%]", "d_z", "p (t-test)", "p (bootstrap)", "verdict",
)  # fmt: skip


def rows(comparison: Comparison) -> list[list[str]]:
    """A row of text for each test, under HEAD; numbers in percent, p-values corrected."""
    return [
        [
            test.metric, test.baseline, f"{100 * test.value:.2f}", f"{100 * test.baseline_value:.2f}",
            f"{100 * test.difference:+.2f} [{100 * test.low:+.2f}, {100 * test.high:+.2f}]",
            "-" if test.effect_size is None else f"{test.effect_size:.3f}",
            *p_values(test, comparison.resamples), test.verdict,
        ]
        for test in comparison.tests
    ]  # fmt: skip


def stacked(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows for a terminal: what belongs together is one above the other, so that it is narrow."""
    head = ["metric", "baseline", "system's\nbaseline's", "difference\n[95%]", "d_z", "p t-test\nbootstrap", "verdict"]
    body = [
        [metric, baseline, f"{value}\n{other}", difference.replace(" [", "\n["), size, f"{t_p}\n{bootstrap_p}", verdict]
        for metric, baseline, value, other, difference, size, t_p, bootstrap_p, verdict in rows(comparison)
    ]
    return head, body


def method(comparison: Comparison) -> str:
    """How the numbers came about, in one paragraph."""
    queries, videos = max(t.queries for t in comparison.tests), max(t.videos for t in comparison.tests)
    baselines = ", ".join(name for name in comparison.seeds if name != comparison.system)
    return (
        f"{comparison.system} against {baselines} on {comparison.dataset} {comparison.split}: "
        f"{queries} queries about {videos} source videos. {comparison.ap}. Numbers in percent; intervals and the "
        f"bootstrap p-value resample whole source videos ({comparison.resamples} times, seed {comparison.seed}), the "
        "t-test pairs queries; both p-values are corrected by Holm's method over the baselines of a metric; d_z is "
        f"Cohen's effect size of paired differences. A difference is significant where both are below {ALPHA:g}."
    )


def markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown document: table, verdicts, method, notes."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    seeds = [f"{name}: mean of {count} seeds" for name, count in comparison.seeds.items() if count > 1]
    head = [cell if cell != "system" else comparison.system for cell in HEAD]
    table = [line(head), "| --- | --- |" + " ---: |" * 6 + " --- |", *map(line, rows(comparison))]
    said = [f"- {comparison.sentence(test)}" for test in comparison.tests]
    notes = [f"- {note}" for note in [*seeds, *comparison.notes]]
    parts = [table, said, [method(comparison)], *([notes] if notes else [])]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"
