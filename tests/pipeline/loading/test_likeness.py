from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rdmf.pipeline.loading.dataset import MomentDataset, open_features
from rdmf.pipeline.loading.likeness import as_wide, likeness, told_apart
from rdmf.pipeline.training.train import train

ALL = slice(0, 12)


def test_likeness_is_the_cosine_with_the_mean_word(tiny_features):
    example = MomentDataset(open_features(tiny_features), "val")[3]
    words = example.words.mean(0)
    expected = [float(clip @ words / clip.norm() / words.norm()) for clip in example.clips.values]
    np.testing.assert_allclose(likeness(example, ALL), expected, atol=1e-6)


def test_the_columns_are_those_of_the_store_that_is_as_wide_as_the_sentences(tiny_features):
    features = open_features(tiny_features, ["topics", "topics"])
    assert as_wide(features) == slice(0, 12)
    features.video[0].spec = replace(features.video[0].spec, dim=7)
    assert as_wide(features) == slice(7, 19)
    features.text.spec = replace(features.text.spec, dim=5)
    assert as_wide(features) is None


def test_one_space_tells_moments_apart_and_columns_without_the_topic_do_not(tiny_features):
    dataset = MomentDataset(open_features(tiny_features), "train")
    assert told_apart(dataset, ALL) > 0.99
    shifted = MomentDataset(open_features(tiny_features, ["topics", "topics"]), "train")
    assert 0.4 < told_apart(shifted, slice(6, 18)) < 0.6  # begins in the middle of a space


def test_it_is_the_share_of_pairs_in_the_right_order_ties_half(tiny_features, monkeypatch):
    dataset = MomentDataset(open_features(tiny_features), "val")
    dataset.queries = dataset.queries[:1]
    example = replace(dataset[0], saliency=torch.tensor([1.0, 0, 0.5, 0, 0]))
    monkeypatch.setattr(MomentDataset, "__getitem__", lambda self, row: example)
    monkeypatch.setattr("rdmf.pipeline.loading.likeness.likeness", lambda *_: torch.tensor([0.4, 0.4, 0.1, 0.2, 0.0]))
    assert told_apart(dataset, ALL) == pytest.approx((2.5 + 1) / 6)
    example = replace(example, saliency=torch.ones(5))
    assert np.isnan(told_apart(dataset, ALL))


def test_training_says_when_relevance_compares_what_has_nothing_in_common(tmp_path, tiny_features, tiny_config):
    def notes(first: int) -> str:
        model = tiny_config.model.model_copy(update={"relevance": 2, "relevance_from": first})
        training = tiny_config.training.model_copy(update={"epochs": 1})
        config = tiny_config.model_copy(update={"model": model, "training": training})
        told = []
        train(tiny_features, tmp_path / f"from-{first}", config, video_stores=["topics", "topics"], on_note=told.append)
        return " ".join(told)

    assert "model.relevance" not in notes(12)
    assert "are the encoders of one space, and is model.relevance_from right?" in notes(6)
