"""The array code against literal, slow readings of the protocols, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.manifests.schema import Saliency
from rdmf.pipeline.evaluation import highlights, metrics

# A coarse grid of seconds and scores, so that equal IoUs and scores, duplicates and empty windows are common.
seconds = st.integers(0, 30)
true_window = st.tuples(seconds, st.integers(1, 12)).map(lambda w: (float(w[0]), float(w[0] + w[1])))
listed_window = st.tuples(seconds, st.integers(0, 12), st.integers(0, 4)).map(
    lambda w: (float(w[0]), float(w[0] + w[1]), w[2] / 4)
)
query = st.tuples(st.lists(listed_window, max_size=14), st.lists(true_window, max_size=25))
few = settings(max_examples=60, deadline=None)


def windows(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float64)[None]


def slow_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return inter / union if union > 0 else 0.0


def slow_interpolated(precision: list[float], recall: list[float]) -> float:
    """VOC 2011: at every recall that is reached, the best precision at that recall or beyond."""
    area, before = 0.0, 0.0
    for i, reached in enumerate(recall):
        area += (reached - before) * max(precision[i:])
        before = reached
    return area


def slow_ap(listed: list[tuple[float, ...]], true: list[tuple[float, ...]], threshold: float) -> float:
    if not true:
        return 0.0
    ranking = sorted(listed[:10], key=lambda w: -w[2])  # stable: equal scores as listed
    locked: set[int] = set()
    precision, recall, found = [], [], 0
    for rank, window in enumerate(ranking, start=1):
        free = [
            (slow_iou(window, t), j) for j, t in enumerate(true) if j not in locked and slow_iou(window, t) >= threshold
        ]
        if free:
            locked.add(max(free)[1])  # of equal IoUs the last listed
            found += 1
        precision.append(found / rank)
        recall.append(found / len(true))
    return slow_interpolated(precision, recall)


@few
@given(st.lists(query, min_size=1, max_size=5))
def test_average_precision_is_that_of_the_literal_protocol(queries: list) -> None:
    listed = metrics.pad([np.array(p).reshape(-1, 3) for p, _ in queries], 3)
    truth = metrics.pad([np.array(t).reshape(-1, 2) for _, t in queries], 2)
    expected = [[slow_ap(p, t, threshold) for threshold in metrics.AP_THRESHOLDS] for p, t in queries]
    np.testing.assert_allclose(metrics.average_precision(metrics.ranking(listed), truth), expected, atol=1e-12)


@few
@given(st.lists(query, min_size=1, max_size=5))
def test_best_iou_is_the_largest_over_the_true_windows(queries: list) -> None:
    listed = metrics.pad([np.array(p).reshape(-1, 3) for p, _ in queries], 3)
    truth = metrics.pad([np.array(t).reshape(-1, 2) for _, t in queries], 2)
    expected = np.zeros(listed.shape[:2])
    for q, (p, t) in enumerate(queries):
        for i, window in enumerate(p):
            expected[q, i] = max([slow_iou(window, true) for true in t], default=0.0)
    np.testing.assert_allclose(metrics.best_iou(listed[..., :2], truth), expected, atol=1e-15)


def test_a_query_scores_the_same_alone_as_in_a_batch() -> None:
    rng = np.random.default_rng(0)
    listed, truth = [], []
    for n, g in ((10, 1), (3, 25), (0, 4), (14, 7), (1, 2)):
        start, true_start = rng.uniform(0, 100, n), rng.uniform(0, 100, g)
        listed.append(np.stack([start, start + rng.uniform(0, 30, n), rng.random(n)], axis=1))
        truth.append(np.stack([true_start, true_start + rng.uniform(1, 30, g)], axis=1))
    together = metrics.average_precision(metrics.ranking(metrics.pad(listed, 3)), metrics.pad(truth, 2))
    for q in range(len(listed)):
        alone = metrics.average_precision(metrics.ranking(metrics.pad([listed[q]], 3)), metrics.pad([truth[q]], 2))
        np.testing.assert_array_equal(together[q], alone[0])


def test_average_precision_of_simple_rankings() -> None:
    right, wrong = (10.0, 20.0), (50.0, 60.0)
    truth = windows(right, (30.0, 40.0))

    def ap(*rows: tuple[float, ...]) -> float:
        return float(metrics.average_precision(metrics.ranking(windows(*rows)), truth).mean())

    assert ap((*right, 0.9), (30.0, 40.0, 0.8)) == 1.0
    assert ap((*right, 0.9)) == 0.5  # one of two found
    assert ap((*right, 0.9), (*right, 0.8)) == 0.5  # a true window is found once
    assert ap((*wrong, 0.9), (*right, 0.8)) == 0.25  # half the recall at half the precision
    assert ap((*right, 0.8), (*wrong, 0.9)) == 0.25  # the score ranks, not the place in the list
    assert ap(*[(*wrong, 0.1)] * 10, (*right, 0.9)) == 0.0  # the eleventh listed does not count


def test_of_two_true_windows_that_fit_as_well_the_last_listed_is_taken() -> None:
    """As the official evaluator's sort has it: the first prediction lies between the two, the second is (0, 4)."""
    listed = metrics.ranking(windows((1, 5, 0.9), (0, 4, 0.8)))
    free = metrics.average_precision(listed, windows((0, 4), (2, 6)))
    taken = metrics.average_precision(listed, windows((2, 6), (0, 4)))
    assert (free[0, 0], taken[0, 0]) == (1.0, 0.5)


def test_an_iou_equal_to_the_threshold_counts() -> None:
    ap = metrics.average_precision(windows((0.0, 5.0, 1.0)), windows((0.0, 10.0)))
    assert ap[0].tolist() == [1.0] + [0.0] * 9
    assert metrics.best_iou(windows((0.0, 7.0)), windows((0.0, 10.0)))[0, 0] >= 0.7


def test_lengths_are_open_below_and_closed_above() -> None:
    truth = windows((0, 10), (0, 10.5), (0, 30), (0, 31), (0, 150), (0, 151))
    kept = {name: metrics.within_length(truth, *bounds)[0, :, 1] for name, bounds in metrics.LENGTHS_S.items()}
    for name, ends in {"short": [10], "middle": [10.5, 30], "long": [31, 150]}.items():
        np.testing.assert_array_equal(kept[name][np.isfinite(kept[name])], ends)


# Highlights


def slow_highlight_ap(scores: list[float], positive: list[bool]) -> float:
    """A point per distinct score, precision the best at that recall or beyond, mean over distinct recalls."""
    if not any(positive):
        return 0.0
    points = []
    for bar in sorted(set(scores), reverse=True):
        taken = [p for s, p in zip(scores, positive, strict=True) if s >= bar]
        points.append((sum(taken), sum(taken) / len(taken)))
    recalls = sorted({found for found, _ in points if found})
    best = [max(precision for found, precision in points if found >= level) for level in recalls]
    return sum(best) / len(best)


ranked_clips = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.integers(-3, 3).map(float), max_size=15),
        st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=2, max_size=2),
    )
)


@few
@given(st.lists(ranked_clips, min_size=1, max_size=5))
def test_highlight_average_precision_is_that_of_the_literal_protocol(queries: list) -> None:
    clips = np.array([n for n, _, _ in queries])
    positive = np.zeros((len(queries), 2, clips.max()), bool)
    expected = np.zeros((len(queries), 2))
    for q, (n, scores, labels) in enumerate(queries):
        positive[q, :, :n] = labels
        padded = (scores + [0.0] * n)[:n]
        expected[q] = [slow_highlight_ap(padded, row) for row in labels]
    scores = highlights.fit([np.array(s) for _, s, _ in queries], clips)
    np.testing.assert_allclose(highlights.average_precision(scores, positive), expected, atol=1e-12)


@few
@given(st.lists(ranked_clips, min_size=1, max_size=5))
def test_hit_at_1_asks_the_first_highest_clip_as_listed(queries: list) -> None:
    clips = np.array([n for n, _, _ in queries])
    positive = np.zeros((len(queries), 2, clips.max()), bool)
    expected = []
    for q, (n, scores, labels) in enumerate(queries):
        positive[q, :, :n] = labels
        top = scores.index(max(scores)) if scores else n
        expected.append(float(top < n and any(row[top] for row in labels)))
    levels = np.stack([positive, ~positive], axis=1)
    found = highlights.hit_at_1([np.array(s) for _, s, _ in queries], levels, clips)
    assert found[:, 0].tolist() == expected


def test_many_queries_are_worked_on_in_blocks_and_score_as_alone() -> None:
    rng = np.random.default_rng(4)
    scores, positive = rng.integers(0, 5, (700, 40)).astype(float), rng.random((700, 9, 40)) < 0.2
    assert positive.size > highlights.BLOCK
    together = highlights.average_precision(scores, positive)
    alone = [highlights.average_precision(scores[q : q + 1], positive[q : q + 1])[0] for q in range(700)]
    np.testing.assert_array_equal(together, alone)
    assert highlights.average_precision(scores[:0], positive[:0]).shape == (0, 9)


def test_queries_are_grouped_by_their_number_of_true_windows_in_their_order() -> None:
    rows = [np.arange(2.0 * n).reshape(n, 2) + 1 for n in (0, 1, 25, 3, 5, 1)]
    truth = metrics.pad(rows, 2)
    truth[2, 4] = np.nan  # a gap, as filtering by length leaves it
    seen = {}
    for group, windows_of_group in metrics.by_count(truth):
        for row, found in zip(group, windows_of_group, strict=True):
            seen[int(row)] = found[np.isfinite(found[:, 0])]
    assert sorted(seen) == [1, 2, 3, 4, 5]
    for row, found in seen.items():
        expected = np.delete(rows[row], 4, axis=0) if row == 2 else rows[row]
        np.testing.assert_array_equal(found, expected)


def test_all_positive_scores_one_and_none_positive_zero() -> None:
    positive = np.array([[[True] * 4, [False] * 4]])
    assert highlights.average_precision(np.array([[0.1, 0.4, 0.4, 0.2]]), positive).tolist() == [[1.0, 0.0]]


def test_labels_follow_the_scale_and_leave_clips_beyond_the_video_out() -> None:
    rated = Saliency((1, 3, 9), ((2, 4), (3, 1), (4, 4)))
    other = Saliency((0, 2), ((1.0, 0.0), (1.0, 1.0)), low=0, high=1)
    found = highlights.labels([rated, other], np.array([4, 2]))
    assert found.shape == (2, 3, 2, 4)
    fair, good, very_good = found[0]
    assert fair.tolist() == [[False, True, False, True], [False, True, False, False]]
    assert good.tolist() == [[False, False, False, True], [False, True, False, False]]
    assert very_good.tolist() == [[False] * 4, [False, True, False, False]]
    assert found[1, :, 0].tolist() == [[True, False, False, False]] * 3  # its third clip is past the end
    assert not found[1, :, 1].any()


def slow_top_ap(scores: list[float], ratings: list[float], top: int) -> float:
    """The published loop: labels above the lower median, trapezoids over the `top` highest scored clips."""
    bar = sorted(ratings)[(len(ratings) - 1) // 2]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    labels = [float(ratings[i] > bar) for i in order][:top]
    if not sum(labels):
        return 0.0
    hits, area, recall, precision = 0.0, 0.0, 0.0, 1.0
    for rank, label in enumerate(labels, start=1):
        hits += label
        area += (hits / sum(labels) - recall) * (precision + hits / rank) / 2
        recall, precision = hits / sum(labels), hits / rank
    return area


@few
@given(st.integers(2, 12).flatmap(lambda n: st.tuples(
    st.lists(st.integers(0, 3).map(float), min_size=n, max_size=n),
    st.lists(st.lists(st.integers(1, 5).map(float), min_size=n, max_size=n), min_size=2, max_size=3),
)))  # fmt: skip
def test_top_average_precision_is_that_of_the_published_loop(case: tuple) -> None:
    scores, annotators = case
    saliency = Saliency(tuple(range(len(scores))), tuple(zip(*annotators, strict=True)), low=1, high=5)
    expected = [slow_top_ap(scores, ratings, 5) for ratings in annotators]
    found = highlights.top_average_precision(np.array(scores), saliency)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_two_level_labels_of_one_annotator_use_every_clip() -> None:
    ratings = [0.0] * 6 + [1.0]
    saliency = Saliency(tuple(range(7)), tuple((r,) for r in ratings), low=0, high=1)
    scores = np.arange(7.0)[::-1]  # the positive clip comes last, beyond the fifth
    expected = (1 / 7 + 0) / 2  # one trapezoid from precision 0 at rank 6 to 1/7
    assert highlights.top_average_precision(scores, saliency).tolist() == [pytest.approx(expected)]
    unscored = highlights.top_average_precision(scores[:5], saliency)  # clips without a score come last
    assert unscored.tolist() == [pytest.approx(expected)]
