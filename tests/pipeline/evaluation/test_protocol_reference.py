"""Whole evaluations against a slow, literal one, written from the text of the protocols in exact fractions.

It works on records as the files have them, query by query and window by window, and shares nothing with the code.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.evaluation.evaluate import Results, evaluate
from rdmf.pipeline.evaluation.predictions import Prediction

AP_IOUS = [Fraction(n, 100) for n in range(50, 100, 5)]
RECALL_IOUS = [Fraction(n, 100) for n in range(30, 100, 5)]
LENGTHS = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}
LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}

Window = tuple[Fraction, ...]


# The protocol, literally


def iou(a: Window, b: Window) -> Fraction:
    shared = max(Fraction(0), min(a[1], b[1]) - max(a[0], b[0]))
    covered = (a[1] - a[0]) + (b[1] - b[0]) - shared
    return shared / covered if covered else Fraction(0)


def first_iou(listed: list[Window], true: list[Window], top: int = 1) -> Fraction:
    """The best IoU of the first `top` listed windows with any true one."""
    return max((iou(p, t) for p in listed[:top] for t in true), default=Fraction(0))


def moment_ap(listed: list[Window], true: list[Window], bar: Fraction) -> Fraction:
    """The first ten by score; each takes the free true window it overlaps most, if by `bar`; VOC interpolation."""
    ranked = sorted(listed[:10], key=lambda w: -w[2])
    free = list(range(len(true)))
    found, points = 0, []
    for rank, window in enumerate(ranked, start=1):
        fits = [(iou(window, true[j]), j) for j in free if iou(window, true[j]) >= bar]
        if fits:
            free.remove(max(fits)[1])
            found += 1
        points.append((Fraction(found, len(true)), Fraction(found, rank)))
    area, before = Fraction(0), Fraction(0)
    for i, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[i:])
        before = recall
    return area


def highlight_ap(scores: list[float], positive: list[bool]) -> Fraction:
    """Interpolated precision at each recall that is reached; a threshold at each distinct score."""
    if not any(positive):
        return Fraction(0)
    if all(positive):
        return Fraction(1)
    points = {}
    for bar in sorted(set(scores)):  # from low to high, so that the highest bar at a recall comes last
        taken = [p for s, p in zip(scores, positive, strict=True) if s >= bar]
        points.setdefault(sum(taken), []).append(Fraction(sum(taken), len(taken)))
    recalls = [found for found in points if found]
    best = [max(p for other in recalls if other >= found for p in points[other]) for found in recalls]
    return sum(best) / len(best)


def mean(values: list[Fraction]) -> float | None:
    return float(sum(values) / len(values)) if values else None


def reference(truth: list[dict[str, Any]], predicted: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Every number of protocol qvhighlights as a fraction of one, under the names of the official dictionary."""
    out: dict[str, float | None] = {}
    for name, (low, high) in {"full": (0, 10**9), **LENGTHS}.items():
        rows = []
        for query in truth:
            true = [w for w in query["windows"] if low < w[1] - w[0] <= high]
            if true:
                rows.append((predicted[query["qid"]]["windows"], true))
        by_iou = {bar: [moment_ap(p, t, bar) for p, t in rows] for bar in AP_IOUS}
        out |= {f"{name} MR-mAP {float(bar):g}": mean(values) for bar, values in by_iou.items()}
        out[f"{name} MR-mAP average"] = mean([v for values in by_iou.values() for v in values])
        best = [first_iou(p, t) for p, t in rows]
        out |= {f"{name} MR-R1 {float(bar):g}": mean([Fraction(v >= bar) for v in best]) for bar in RECALL_IOUS}
        out[f"{name} MR-mIoU"] = mean(best)
        if name == "full":
            five = [first_iou(p, t, top=5) for p, t in rows]
            out |= {f"R5@{b}": mean([Fraction(v >= Fraction(b)) for v in five]) for b in ("0.3", "0.5", "0.7")}
    for level, least in LEVELS.items():
        aps, hits = [], []
        for query in truth:
            if query["scores"] is None:
                continue
            clips, listed = max(1, int(query["duration"] / 2)), predicted[query["qid"]]["scores"]
            rows = [[query["scores"].get(c, (0, 0, 0))[a] >= least for c in range(clips)] for a in range(3)]
            padded = (listed + [0.0] * clips)[:clips]
            aps += [highlight_ap(padded, row) for row in rows]
            top = listed.index(max(listed)) if listed else clips
            hits.append(Fraction(top < clips and any(row[top] for row in rows)))
        out |= {f"HL-min-{level} HL-mAP": mean(aps), f"HL-min-{level} HL-Hit1": mean(hits)}
    return out


# Cases: a coarse grid of times and scores, so that ties, duplicates, touching and empty windows are common

quarters = st.integers(4 * 4, 4 * 170).map(lambda n: Fraction(n, 4))  # odd durations: 4 to 170 s in quarters


@st.composite
def queries(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    truth, predicted = [], {}
    for i in range(draw(st.integers(1, 5))):
        duration = draw(quarters)
        end = int(duration)
        count = draw(st.sampled_from([1, 1, 2, 3, 25] if i == 0 else [0, 1, 1, 2, 5, 25]))
        starts = draw(st.lists(st.integers(0, end - 1), min_size=count, max_size=count))
        windows = [(Fraction(s), Fraction(draw(st.integers(s + 1, end)))) for s in starts]
        # Predictions are anything, true windows themselves, or these a little off; listed in no order of score.
        listed: list[Window] = []
        for _ in range(draw(st.integers(0, 14))):
            if windows and draw(st.booleans()):
                start, stop = draw(st.sampled_from(windows))
                stop += draw(st.sampled_from([0, 0, 0, 1, 2]))
            else:
                start = Fraction(draw(st.integers(0, end)))
                stop = start + draw(st.integers(0, 40))
            listed.append((start, stop, Fraction(draw(st.integers(0, 4)), 4)))
        clips = max(1, int(duration / 2))
        scored = i == 0 or draw(st.booleans())
        rated = draw(st.lists(st.integers(0, clips + 1), unique=True, max_size=8)) if scored else []
        scores = {c: tuple(draw(st.integers(0, 4)) for _ in range(3)) for c in (rated or ([0] if scored else []))}
        length = max(0, clips + draw(st.integers(-2, 2)))
        qid = f"q{i}"
        truth.append({"qid": qid, "duration": duration, "windows": windows, "scores": scores if scored else None})
        predicted[qid] = {
            "windows": listed,
            "scores": draw(st.lists(st.integers(-2, 3).map(float), min_size=length, max_size=length)),
        }
    return truth, predicted


def judged(truth: list[dict[str, Any]], predicted: dict[str, dict[str, Any]], protocol: str) -> Results:
    manifest = Manifest(
        "mine", 2.0,
        {f"v{q['qid']}": Video(f"v{q['qid']}", float(q["duration"])) for q in truth},
        tuple(
            Query(
                q["qid"], f"v{q['qid']}", "a sentence", "val",
                tuple(Moment(float(a), float(b)) for a, b in q["windows"]),
                None if q["scores"] is None else Saliency(tuple(q["scores"]), tuple(q["scores"].values())),
            )
            for q in truth
        ),
    )  # fmt: skip
    predictions = [
        Prediction(qid, np.array([[float(v) for v in w] for w in p["windows"]]).reshape(-1, 3), np.array(p["scores"]))
        for qid, p in predicted.items()
    ]
    return evaluate(predictions, manifest, protocol, trusted=True, resamples=0)


def close(ours: float | None, expected: float | None, tolerance: float) -> bool:
    return ours is None if expected is None else ours == pytest.approx(expected, abs=tolerance)


@settings(max_examples=80, deadline=None)
@given(queries())
def test_every_qvhighlights_number_is_that_of_the_literal_protocol(case: tuple) -> None:
    truth, predicted = case
    results = judged(truth, predicted, "qvhighlights")
    expected = reference(truth, predicted)
    named, official = results.numbers, results.metrics
    for key, value in expected.items():
        name, *rest = key.split(" ")
        if name.startswith("R5"):
            assert close(named[key], value, 1e-12), key
            continue
        node = official[name]
        for part in rest:
            node = node[part]
        assert close(node, None if value is None else 100 * value, 0.00501), key  # rounded to two decimals
    unrounded = {
        "full MR-R1 0.3": "R1@0.3", "full MR-R1 0.5": "R1@0.5", "full MR-R1 0.7": "R1@0.7", "full MR-mIoU": "mIoU",
        "full MR-mAP average": "mAP", "full MR-mAP 0.5": "mAP@0.5", "full MR-mAP 0.75": "mAP@0.75",
        **{f"{length} MR-mAP average": f"mAP-{length}" for length in LENGTHS},
        **{f"HL-min-{level} HL-{m}": f"HL-{level}-{m}" for level in LEVELS for m in ("mAP", "Hit1")},
    }  # fmt: skip
    for key, name in unrounded.items():
        assert close(named[name], expected[key], 1e-12), key
    counted = sum(isinstance(v, dict) for v in official.values())
    assert counted == 8  # brief, full, three lengths, three levels


@settings(max_examples=40, deadline=None)
@given(queries())
def test_every_charades_and_activitynet_number_is_that_of_the_literal_protocol(case: tuple) -> None:
    truth, predicted = case
    for protocol in ("charades", "activitynet"):
        found = judged(truth, predicted, protocol).metrics
        rows = [(predicted[q["qid"]]["windows"], q["windows"]) for q in truth if q["windows"]]
        expected = {
            f"R@{top}_IoU_{bar}": mean([Fraction(first_iou(p, t, top) >= Fraction(bar)) for p, t in rows])
            for top in (1, 5)
            for bar in ("0.3", "0.5", "0.7")
        } | {"mIoU": mean([first_iou(p, t) for p, t in rows])}
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert close(found[key], value, 1e-12), key


# Highlight datasets: UMT's evaluation, which Lighthouse, QD-DETR and CG-DETR share


def trapezoids(labels: list[float]) -> float:
    """Area under the precision-recall curve of ranked labels by trapezoids, from precision 1; 0 without a positive."""
    hits, area, recall, precision = 0.0, 0.0, 0.0, 1.0
    for rank, label in enumerate(labels, start=1):
        hits += label
        if sum(labels):
            area += (hits / sum(labels) - recall) * (precision + hits / rank) / 2
            recall, precision = hits / sum(labels), hits / rank
    return area


def tvsum_ap(scores: list[float], ratings: list[list[float]]) -> float:
    """Per annotator: labels above the median (the lower one), the five highest scored clips; mean over annotators."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    each = []
    for annotator in zip(*ratings, strict=True):
        median = sorted(annotator)[(len(annotator) - 1) // 2]
        each.append(trapezoids([float(annotator[i] > median) for i in order][:5]))
    return sum(each) / len(each)


def youtube_ap(scores: list[float], ratings: list[list[float]]) -> float:
    """One annotator of 0 and 1, all clips."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return trapezoids([ratings[i][0] for i in order])


def videos(annotators: int, low: int, high: int) -> st.SearchStrategy[list]:
    def video(clips: int) -> st.SearchStrategy[tuple]:
        return st.tuples(
            st.lists(st.integers(0, 5).map(float), min_size=clips, max_size=clips),
            st.lists(
                st.lists(st.integers(low, high).map(float), min_size=annotators, max_size=annotators),
                min_size=clips, max_size=clips,
            ),
        )  # fmt: skip

    return st.lists(st.integers(6, 15).flatmap(video), min_size=1, max_size=5)


def highlight_means(cases: list, low: float, high: float, ap: Callable[..., float]) -> tuple[Results, list[float]]:
    """Our results on videos of two sentences in turn, and the reference's number of each video."""
    everything, predictions = [], []
    for i, (scores, ratings) in enumerate(cases):
        saliency = Saliency(tuple(range(len(ratings))), tuple(map(tuple, ratings)), 2.0, low, high)
        everything.append(Query(f"q{i}", f"v{i}", ("dog", "surfing")[i % 2], "val", (), saliency))
        predictions.append(Prediction(f"q{i}", None, np.array(scores)))
    videos = {f"v{i}": Video(f"v{i}", 2.0 * len(s)) for i, (s, _) in enumerate(cases)}
    results = evaluate(predictions, Manifest("mine", 2.0, videos, tuple(everything)), "highlights", resamples=0)
    return results, [ap(scores, ratings) for scores, ratings in cases]


@settings(max_examples=40, deadline=None)
@given(videos(20, 1, 5))
def test_tvsum_is_the_top_five_map_over_its_twenty_annotators(cases: list) -> None:
    results, expected = highlight_means(cases, 1, 5, tvsum_ap)
    assert results.metrics["mAP"] == pytest.approx(np.mean(expected), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(videos(1, 0, 1))
def test_youtube_highlights_ranks_all_clips_and_reports_the_mean_of_its_domains(cases: list) -> None:
    results, expected = highlight_means(cases, 0, 1, youtube_ap)
    assert results.metrics["mAP"] == pytest.approx(np.mean(expected), abs=1e-12)
    domains = [expected[i::2] for i in (0, 1) if expected[i::2]]
    assert results.rdmf["by_sentence"]["mean"] == pytest.approx(np.mean([np.mean(d) for d in domains]), abs=1e-12)
