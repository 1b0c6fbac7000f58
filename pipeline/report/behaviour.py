"""The second half of the report in words, tables and figures: how the systems behave."""

from __future__ import annotations

from collections.abc import Sequence

from .calibration import BINS, Reliability
from .collect import Report
from .document import Figure, Section, Table
from .examples import WRONG, Case
from .figures import change_chart, profile_chart, ranked_chart, reliability_chart, similarity_chart
from .sharpness import ANNOTATORS
from .smoothing import PLACES, Smoothing

CONFIDENCES = {"c": "final confidence c", "p": "class probability p alone", "iou": "the IoU head alone"}


def calibration(report: Report) -> Section | None:
    """Does c predict the IoU, and does p, or the IoU head, alone?"""
    found = report.reliabilities
    if not found:
        return None
    body = [
        [
            each.system, _confidence_of(each, report), f"{each.windows:,}", _interval(each.spearman, ".3f"),
            "-" if each.spearman_listed is None else f"{each.spearman_listed:.3f}",
            "-" if each.error is None else f"{each.error:.3f}", _interval(each.gap, "+.3f"), f"{100 * each.r1:.2f}",
        ]
        for each in found
    ]  # fmt: skip
    head = ["", "confidence", "windows", "Spearman, first", "Spearman, listed", "ECE", "confidence - IoU", "R1@0.5 (%)"]
    table = Table("Confidence against the IoU of the window.", head, body, texts=2)
    final = [each for each in found if each.of == "c"]
    names = report.names
    indices = [names.index(each.system) for each in final]
    everyone = [
        reliability_chart("By confidence", final, indices), ranked_chart("By rank of the confidence", final, indices),
    ]  # fmt: skip
    caption = f"Bins of equal size by confidence ({BINS} at most), with 95% intervals of their mean IoU"
    figures = [Figure(f"{caption}. On the dashed line the confidence is the expected IoU.", everyone, names)]
    taken_apart = [[each for each in found if each.system == name] for name in names]
    charts = [reliability_chart(own[0].system, own, list(range(len(own)))) for own in taken_apart if len(own) > 1]
    parts = list(dict.fromkeys(CONFIDENCES[each.of] for own in taken_apart if len(own) > 1 for each in own))
    if charts:
        figures.append(Figure(
            "The same runs under other confidences: c mixes p and the predicted IoU; each ranks the windows anew.",
            charts, parts,
        ))  # fmt: skip
    said = [_said(each) for each in final] + [_taken_apart(own) for own in taken_apart if len(own) > 1]
    notes = [
        "First: of the first window of each query (and seed). Listed: over all listed windows, true and false. ECE: "
        "expected calibration error over the bins. Confidence - IoU: above 0 is over-confident."
    ]
    if any(each.error is None for each in found):
        notes.append("Scores that leave [0, 1] are no probabilities: they have a rank correlation, and no ECE.")
    if any(system.runs for system in report.judged.systems) and not charts:
        notes.append("No run here has an IoU head that is mixed into c, so c is p.")
    return Section(
        "Does the confidence predict the IoU?", "calibration", (), said, [table], figures, notes,
    )  # fmt: skip


def _confidence_of(each: Reliability, report: Report) -> str:
    system = next(system for system in report.judged.systems if system.name == each.system)
    headless = system.runs and not any(run.info.config.model.moment.iou for run in system.runs)
    return CONFIDENCES[each.of] + (", which is p: no IoU head" if headless else "")


def _said(each: Reliability) -> str:
    if each.spearman is None:
        return f"{each.system}: confidence or IoU is the same for all first windows, so there is no correlation."
    value, low, high = each.spearman
    strength = "hardly" if value < 0.2 else "weakly" if value < 0.4 else "moderately" if value < 0.6 else "strongly"
    said = (
        f"{each.system}: c ranks first windows {strength} by their IoU (Spearman {value:.2f} [{low:.2f}, {high:.2f}])"
    )
    if each.gap is None:
        return said + "; it is no probability."
    gap, low, high = each.gap
    if low > 0:
        return f"{said} and is over-confident, by {gap:.2f} on average."
    if high < 0:
        return f"{said} and is under-confident, by {-gap:.2f} on average."
    return f"{said}; on average it is neither over- nor under-confident."


def _taken_apart(own: Sequence[Reliability]) -> str:
    """What mixing in the predicted IoU does to the confidence."""
    names = [CONFIDENCES[each.of] for each in own]
    ranks = ["none" if each.spearman is None else f"{each.spearman[0]:.2f}" for each in own]
    gaps = ["none" if each.gap is None else f"{each.gap[0]:+.2f}" for each in own]
    return (
        f"{own[0].system}, with and without the IoU head: the rank correlation with the IoU is "
        f"{_each(ranks, names)}; the mean excess over the IoU is {_each(gaps, names)}."
    )


def _each(values: Sequence[str], names: Sequence[str]) -> str:
    """'0.16 for c, 0.13 for p'"""
    return ", ".join(f"{value} for {name}" for value, name in zip(values, names, strict=True))


def sharpness(report: Report) -> Section | None:
    """After the paper's Figure 4."""
    found = report.sharpness
    if found is None:
        return None
    body = [
        [
            each.system,
            f"{each.queries:,}",
            *(_interval(value, "+.2f") for value in (each.contrast, each.rise, each.fall)),
        ]
        for each in found.profiles
    ]
    head = ["", "queries", "inside - outside", "step up at the start", "step down at the end"]
    table = Table(
        "Saliency inside and outside of the true windows, in standard deviations of a video's scores.", head, body
    )
    scored = [each.system for each in found.profiles if each.system != ANNOTATORS]
    reference = len(scored) < len(found.profiles)
    figure = Figure(
        "Mean standardised saliency across the borders of true windows (shaded), with 95% intervals."
        + (" Dashed grey: the annotators' mean scores, treated alike." if reference else ""),
        [profile_chart(found, border, report.names) for border in ("start", "end")], report.names,
    )  # fmt: skip
    sentences = [
        "Each query's scores are standardised over the clips of its video, so that scales do not matter. A sharp "
        "system steps up at the start of a true window and down at its end; a blurred one slopes."
    ]
    notes = ["Windows shorter than the distance shown leave the curves, so points far inside are about long windows."]
    silent = [name for name in report.names if name not in scored]
    notes += [f"Without clip scores: {', '.join(silent)}."] if silent else []
    return Section("Sharpness of the saliency", "sharpness", sentences, (), [table], [figure], notes)


def smoothing(report: Report) -> Section | None:
    """After the paper's Figure 5."""
    if not report.smoothings:
        return None
    head = ["", "features", *(f"change {place}" if place != "border" else "change at borders" for place in PLACES)]
    body = []
    for each in report.smoothings:
        for kind, numbers, ratio in (
            ("raw", each.raw, each.raw_ratio), ("diffused", each.diffused, each.diffused_ratio),
        ):  # fmt: skip
            cells = [_interval(numbers[place], ".3f") for place in PLACES]
            body.append([each.run, kind, *cells, _interval(ratio, ".2f")])
    table = Table("Change of the features between neighbouring clips.", [*head, "borders / inside"], body, texts=2)
    sentences = [
        "Temporal diffusion, equations (1) to (3), should even out what changes within a moment and keep what changes "
        "at its borders. The change is the norm of the difference of neighbouring clips, in units of the spread of the "
        "video's raw features."
    ]
    return Section(
        "Raw and diffused features along time", "smoothing", sentences, [_diffused(each) for each in report.smoothings],
        [table], _figures_of(report.smoothings[0]),
    )  # fmt: skip


def _diffused(each: Smoothing) -> str:
    before, after, (gain, low, high) = each.raw_ratio, each.diffused_ratio, each.gain
    said = "more" if low > 0 else "less" if high < 0 else "neither more nor less"
    return (
        f"{each.run}: N = {each.steps}, dt = {each.dt:g}, learned d = {each.d:.3f} spread a clip over "
        f"{each.spread_clips:.2f} clips (standard deviation). Features change {before[0]:.2f} times as much at borders "
        f"as inside before, {after[0]:.2f} times after: borders stand out {said} (difference {gain:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], {each.queries:,} queries)."
    )


def _figures_of(each: Smoothing) -> list[Figure]:
    example = each.example
    if example is None:
        return []
    return [
        Figure(
            f"{each.run}, query {example.query.qid}, “{example.query.text}” (the first whose one window lies within "
            "its video). Shaded: the true window.",
            [change_chart(example)], ["raw", "diffused"],
        ),
        Figure(
            "The same video: cosine similarity of every two clips, less the video's mean. Blue: alike, orange: "
            "opposed; dashed: borders of the true window.",
            [
                similarity_chart("Raw", example.raw_similarity, example),
                similarity_chart("Diffused", example.diffused_similarity, example),
            ],
        ),
    ]  # fmt: skip


def cases(report: Report) -> Section | None:
    """The best first windows, and those that are sure of another moment."""
    found = report.cases
    if found is None:
        return None
    tables = [
        _cases_table(
            report, f"Sure and wrong: the most confident first windows with an IoU below {WRONG:g}.", found.worst
        ),
        _cases_table(report, "Best: the highest IoU, then the most confident.", found.best),
    ]
    share = 100 * found.wrong / found.judged
    seed = " (first seed)" if len(report.judged.systems[0].results) > 1 else ""
    return Section(
        "Best and worst cases", "cases",
        [f"Of the first windows of {found.system}{seed}, {found.wrong:,} of {found.judged:,} ({share:.1f}%) show "
         f"another moment (IoU below {WRONG:g})."],
        tables=[table for table in tables if table.rows],
    )  # fmt: skip


def _cases_table(report: Report, caption: str, listed: Sequence[Case]) -> Table:
    body = []
    for case in listed:
        query = report.judged.queries[case.query]
        truth = ", ".join(f"{w.start_s:g}–{w.end_s:g}" for w in query.windows[:3])
        more = f" and {len(query.windows) - 3} more" if len(query.windows) > 3 else ""
        body.append([
            query.qid, query.text, query.vid, truth + more, "–".join(f"{round(end, 1):g}" for end in case.window),
            f"{case.confidence:.3f}", f"{case.iou:.2f}",
        ])  # fmt: skip
    head = ["query", "sentence", "video", "true windows (s)", "first window (s)", "confidence", "IoU"]
    return Table(caption, head, body, texts=3, queries=[case.query for case in listed])


def _interval(found: tuple[float, float, float] | None, form: str) -> str:
    """'0.412 [0.380, 0.440]'"""
    if found is None:
        return "-"
    value, low, high = (format(number, form) for number in found)
    return f"{value} [{low}, {high}]"
