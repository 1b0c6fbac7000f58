from __future__ import annotations

import numpy as np
import pytest
import torch

from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Item, Source, StoreSpec
from rdmf.extract.schedule import extract_store
from rdmf.manifests.schema import Moment, Query, Saliency
from rdmf.pipeline.loading.dataset import (
    Clips,
    Example,
    MomentDataset,
    collate,
    open_features,
    saliency_targets,
    span_targets,
)


def clips_of(edges: list[float]) -> Clips:
    times = np.stack([edges[:-1], edges[1:]], 1).astype(float)
    return Clips(torch.zeros(len(times), 3), times)


def test_positions_and_spans_are_shares_of_the_time_the_clips_cover():
    clips = clips_of([0, 2, 4, 5])  # the last clip is short
    assert clips.duration_s == 5
    torch.testing.assert_close(clips.positions, torch.tensor([0.2, 0.6, 0.9]))
    query = Query("q", "v", "x", "train", (Moment(1.0, 4.0), Moment(4.5, 9.0), Moment(6.0, 7.0)))
    # the second is clipped to the clips' end, the third lies behind it
    torch.testing.assert_close(span_targets(query, clips.times_s), torch.tensor([[0.5, 0.6], [0.95, 0.1]]))


def test_saliency_is_the_mean_share_of_the_scale_inside_the_windows_and_zero_elsewhere():
    clips = clips_of([0, 2, 4, 6, 8])
    scores = Saliency((0, 1, 2), ((4.0, 4.0, 4.0), (4.0, 2.0, 0.0), (1.0, 1.0, 1.0)), 2.0)
    target, labelled = saliency_targets(Query("q", "v", "x", "train", (Moment(2.0, 6.0),), scores), clips.times_s)
    assert labelled
    torch.testing.assert_close(target, torch.tensor([0.0, 0.5, 0.25, 0.0]))


def test_saliency_without_scores_is_one_inside_the_windows():
    clips = clips_of([0, 1, 2, 3])
    target, labelled = saliency_targets(Query("q", "v", "x", "train", (Moment(1.0, 2.2),)), clips.times_s)
    assert labelled
    assert target.tolist() == [0.0, 1.0, 0.0]


def test_saliency_scores_are_on_their_own_scale_and_grid():
    clips = clips_of([0, 1, 2, 3, 4])
    scores = Saliency((0, 1), ((5.0,), (3.0,)), clip_seconds=2.0, low=1.0, high=5.0)
    target, _ = saliency_targets(Query("q", "v", "x", "train", (), scores), clips.times_s)
    assert target.tolist() == [1.0, 1.0, 0.5, 0.5]


def test_a_query_without_labels_has_no_saliency_target():
    _, labelled = saliency_targets(Query("q", "v", "x", "test"), clips_of([0, 1, 2]).times_s)
    assert not labelled


def test_a_batch_holds_what_its_examples_hold(tiny_features):
    dataset = MomentDataset(open_features(tiny_features), "train")
    examples = [dataset[i] for i in (0, 5, 17)]
    batch = collate(examples)
    assert batch.span_mask.tolist() == [[True]] * 3
    for row, example in enumerate(examples):
        clips = len(example.clips.values)
        torch.testing.assert_close(batch.clips[row, :clips], example.clips.values)
        assert batch.clip_mask[row].sum() == clips
        assert not batch.clips[row, clips:].any()
        torch.testing.assert_close(batch.words[row, : len(example.words)], example.words)
    assert torch.equal(batch.saliency_mask, batch.clip_mask)


def test_queries_of_a_batch_have_as_many_spans_as_they_have_windows():
    clips, words = clips_of([0, 2, 4]), torch.ones(3, 5)
    windows = ((Moment(0.0, 1.0), Moment(1.0, 4.0)), (), (Moment(2.0, 3.0),))
    queries = [Query(str(i), "v", "x", "train", w) for i, w in enumerate(windows)]
    examples = [
        Example(q, clips, words, span_targets(q, clips.times_s), *saliency_targets(q, clips.times_s)) for q in queries
    ]
    batch = collate(examples)
    assert batch.span_mask.tolist() == [[True, True], [False, False], [True, False]]
    expected = [[[0.125, 0.25], [0.625, 0.75]], [[0, 0], [0, 0]], [[0.625, 0.25], [0, 0]]]
    torch.testing.assert_close(batch.spans, torch.tensor(expected))
    assert batch.saliency_mask.tolist() == [[True, True], [False, False], [True, True]]
    none = collate(examples[1:2])  # a place to look at even where there is nothing
    assert (none.spans.shape, none.span_mask.tolist()) == ((1, 1, 2), [[False]])


def test_the_features_are_those_of_the_query(tiny_features):
    dataset = MomentDataset(open_features(tiny_features), "test")
    for i in range(len(dataset)):
        example = dataset[i]
        topic = int(example.query.text.split()[1])
        assert example.words.mean(0).argmax() == topic
        inside = example.saliency > 0
        assert (example.clips.values[inside].argmax(1) == topic).all()
        assert (example.clips.values[~inside].argmax(1) != topic).all()


def test_another_video_s_sentence_is_asked_and_the_truth_stays(tiny_features):
    dataset = MomentDataset(open_features(tiny_features), "test")
    swapped = dataset.with_texts_of_other_videos(seed=1)
    texts = {q.qid: q.text for q in dataset.queries}
    for i in range(len(dataset)):
        example = swapped[i]
        assert example.query.windows == dataset.queries[i].windows
        assert example.words.mean(0).argmax() == int(example.query.text.split()[1])
    assert any(q.text != texts[q.qid] for q in swapped.queries)


def test_queries_without_features_are_listed_not_dropped_silently(tmp_path, tiny):
    folder = tiny.write(tmp_path, {"train": 3}, without=("train001",))
    dataset = MomentDataset(open_features(folder), "train")
    assert {q.vid for q in dataset.queries} == {"train000", "train002"}
    assert set(dataset.missing) == {f"train001-{i}" for i in range(4)}
    assert "train001" in next(iter(dataset.missing.values()))


def test_two_video_stores_are_concatenated_in_the_order_given(tmp_path, tiny):
    folder = tiny.write(tmp_path, {"train": 2})
    add_store(folder, tiny, "other", shift_s=0.0)
    first, second = MomentDataset(open_features(folder, ["topics", "other"]), "train")[0].clips.values.split(12, 1)
    swapped = MomentDataset(open_features(folder, ["other", "topics"]), "train")[0].clips.values
    torch.testing.assert_close(swapped, torch.cat([second, first], 1))
    with pytest.raises(ValueError, match="--video-store"):
        open_features(folder)


def test_stores_that_cut_a_video_differently_are_refused(tmp_path, tiny):
    folder = tiny.write(tmp_path, {"train": 2})
    add_store(folder, tiny, "other", shift_s=0.5)
    with pytest.raises(ValueError, match="same clip length"):
        MomentDataset(open_features(folder, ["topics", "other"]), "train")[0]


def test_a_folder_without_features_says_how_to_make_them(tmp_path, tiny_features):
    with pytest.raises(ValueError, match="rdmf features"):
        open_features(tmp_path)
    with pytest.raises(ValueError, match="which has topics-"):
        open_features(tiny_features, ["swin_t"])


def add_store(folder, tiny, name: str, shift_s: float) -> None:
    spec = StoreSpec("video", name, {"sha256": "3" * 64}, {}, 2.0, 12)

    def item(source: Source) -> Item:
        made = tiny.item(source)
        assert made.times_s is not None
        times = made.times_s.copy()
        times[1:, 0] += shift_s
        times[:-1, 1] += shift_s
        return Item(made.id, made.values * 2, times, made.duration_s, made.source_sha256)

    vids = open_features(folder).manifest.videos
    extract_store(folder / "video" / spec.folder_name, spec, [Source(v, v) for v in vids], lambda: one_by_one(item))
