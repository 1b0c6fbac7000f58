from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from rdmf.manifests.schema import Query
from rdmf.pipeline.comparison.controls import CONTROLS, control_predictions, controls_of, guess
from rdmf.pipeline.config import Config
from rdmf.pipeline.inference import KEEP, Found, ask, cut, on_grid, predict_dataset
from rdmf.pipeline.loading.dataset import Clips, Example, MomentDataset, open_features
from rdmf.pipeline.loading.resident import ResidentSplit
from rdmf.pipeline.model import RDMF


@pytest.fixture
def model(tiny_config: Config) -> RDMF:
    torch.manual_seed(0)
    return RDMF(tiny_config.model, 12, 12).eval()


def example_of(clips: int, seed: int = 0) -> Example:
    generator = torch.Generator().manual_seed(seed)
    edges = np.arange(clips + 1) * 2.0
    values = Clips(torch.randn(clips, 12, generator=generator), np.stack([edges[:-1], edges[1:]], 1))
    words = torch.randn(3, 12, generator=generator)
    return Example(Query("q", "v", "x", "test"), values, words, torch.zeros(0, 2), torch.zeros(clips), False)


@pytest.mark.parametrize("clips", [1, 2, 9, 10, 12, 13, 20, 31, 100, 1001])
def test_the_parts_of_a_video_cover_it_and_overlap_by_half(clips):
    parts = cut(clips, 10)
    covered = np.zeros(clips, int)
    for part in parts:
        covered[part] += 1
    assert covered.all()
    if len(parts) == 1:
        assert clips <= 12
    else:
        assert all(part.stop - part.start == 10 for part in parts)
        assert all(b.start - a.start <= 5 for a, b in pairwise(parts))


def test_answers_do_not_depend_on_what_else_is_in_the_batch(model):
    examples = [example_of(n, seed=n) for n in (5, 12, 8, 40)]
    together = list(ask(model, examples, 0.5, max_clips=16))
    for example, found in zip(examples, together, strict=True):
        (alone,) = ask(model, [example], 0.5, max_clips=16)
        np.testing.assert_allclose(found.saliency, alone.saliency, atol=1e-5)
        np.testing.assert_allclose(found.windows, alone.windows, atol=1e-4)


@pytest.mark.parametrize("clips", [1, 3, 16, 200])
def test_answers_are_windows_inside_the_video_and_probabilities_best_first(model, clips):
    (found,) = ask(model, [example_of(clips)], 0.5, max_clips=16)
    start, end, confidence = found.windows.T
    assert 1 <= len(found.windows) <= KEEP
    assert (start >= 0).all()
    assert (end <= 2.0 * clips).all()
    assert (start <= end).all()
    assert (np.diff(confidence) <= 0).all()
    assert ((confidence >= 0) & (confidence <= 1)).all()
    assert found.saliency.shape == (clips,)
    assert ((found.saliency >= 0) & (found.saliency <= 1)).all()


def test_a_long_video_is_read_by_parts_that_agree_with_reading_them_alone(model):
    example = example_of(60)
    (found,) = ask(model, [example], 0.5, max_clips=16)
    first = Example(
        example.query, Clips(example.clips.values[:16], example.clips.times_s[:16]), example.words,
        example.spans, example.saliency[:16], False,
    )  # fmt: skip
    (alone,) = ask(model, [first], 0.5, max_clips=16)
    np.testing.assert_allclose(found.saliency[:8], alone.saliency[:8], atol=1e-5)  # no other part covers these


def test_saliency_moves_to_the_annotation_s_grid_by_the_clip_that_holds_the_centre():
    edges = np.array([0.0, 1.0, 2.0, 3.0, 3.5])
    found = Found(np.zeros((0, 3)), np.array([0.1, 0.2, 0.3, 0.4]), np.stack([edges[:-1], edges[1:]], 1))
    np.testing.assert_array_equal(on_grid(found, None), found.saliency)
    np.testing.assert_array_equal(on_grid(found, 2.0), [0.2, 0.4])  # centres at 1 and 3 s
    np.testing.assert_array_equal(on_grid(found, 0.5), [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4])


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_answers_every_query_the_same_way_each_time(model, tiny_features, name):
    dataset = MomentDataset(open_features(tiny_features), "test")
    first, again = (control_predictions(name, model, dataset, 0.5, 30, seed=3) for _ in range(2))
    assert [p.qid for p in first] == [q.qid for q in dataset.queries]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.windows, b.windows)


def test_the_centre_prior_is_the_median_training_window_in_the_middle(model, tiny_features):
    dataset = MomentDataset(open_features(tiny_features), "test")
    widths = [w.duration_s for q in dataset.features.manifest.split("train") for w in q.windows]
    for prediction, i in zip(control_predictions("centre prior", model, dataset, 0.5, 30), range(99), strict=False):
        length = dataset[i].clips.duration_s
        (start, end, _), = prediction.windows  # fmt: skip
        assert (start + end) / 2 == pytest.approx(length / 2)
        assert end - start == pytest.approx(min(np.median(widths), length))


def test_the_cosine_control_is_about_the_features_alone_and_left_out_where_widths_differ(tiny_features):
    same = MomentDataset(open_features(tiny_features), "test")
    assert same.features.dims == (12, 12)
    assert "cosine" in controls_of(same)
    example = same[0]
    row = guess("cosine", same)[0]
    words = example.words.mean(0)
    expected = [(1 + float(c @ words / c.norm() / words.norm())) / 2 for c in example.clips.values]
    np.testing.assert_allclose(row.saliency, expected, atol=1e-6)
    assert (np.diff(row.windows[:, 2]) < 0).all()
    assert (row.windows[:, 1] <= example.clips.duration_s + 1e-9).all()
    wide = MomentDataset(open_features(tiny_features, ["topics", "topics"]), "test")
    assert "cosine" in controls_of(wide)  # of the first store
    np.testing.assert_array_equal(guess("cosine", wide)[0].saliency, row.saliency)
    wide.features.text.spec = replace(wide.features.text.spec, dim=5)
    assert "cosine" not in controls_of(wide)
    with pytest.raises(ValueError, match="one of the controls"):
        guess("shuffled clips", wide)


def test_shuffling_clips_keeps_the_clips_and_changes_the_answers(model, tiny_features):
    dataset = MomentDataset(open_features(tiny_features), "test")
    straight = predict_dataset(model, dataset, 0.5, 30)
    shuffled = predict_dataset(model, dataset, 0.5, 30, order="shuffled")
    assert any(not np.allclose(a.windows, b.windows) for a, b in zip(straight, shuffled, strict=True))
    with pytest.raises(ValueError, match="order"):
        predict_dataset(model, dataset, 0.5, 30, order="backwards")


@pytest.mark.parametrize("max_clips", [30, 10])  # at 10 some videos are read in parts
def test_a_packed_split_is_answered_as_its_examples_are(model, tiny_features, max_clips):
    dataset = MomentDataset(open_features(tiny_features), "test")
    split = ResidentSplit(dataset)
    assert (len(cut(int(split.lengths.max()), max_clips)) > 1) == (max_clips == 10)
    one_by_one = predict_dataset(model, dataset, 0.5, max_clips)
    packed = predict_dataset(model, dataset, 0.5, max_clips, resident=split)
    for a, b in zip(one_by_one, packed, strict=True):
        assert (a.qid, a.vid, a.query) == (b.qid, b.vid, b.query)
        np.testing.assert_allclose(a.windows, b.windows, atol=0 if max_clips == 30 else 1e-4)
        np.testing.assert_allclose(a.saliency, b.saliency, atol=0 if max_clips == 30 else 1e-5)


def test_any_moment_is_a_true_moment_of_the_video_whatever_is_asked(model, tiny_features):
    dataset = MomentDataset(open_features(tiny_features), "test")
    guesses = control_predictions("any moment", model, dataset, 0.5, 30)
    right = 0
    for prediction, query in zip(guesses, dataset.queries, strict=True):
        happens = {(w.start_s, w.end_s) for o in dataset.queries if o.vid == query.vid for w in o.windows}
        assert {(s, e) for s, e, _ in prediction.windows.tolist()} == happens
        right += tuple(prediction.windows[0, :2]) == (query.windows[0].start_s, query.windows[0].end_s)
    assert 0 < right < len(guesses)
