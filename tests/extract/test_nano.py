"""The demo's encoders: their training data is right, and what is shipped is what the card says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import rdmf
from rdmf.extract.clips import clip_bounds, clip_frame_times
from rdmf.extract.encoders import NANO_SAMPLING
from rdmf.extract.frames import open_video, read_clips
from rdmf.extract.nano import train
from rdmf.manifests.demo.dataset import DemoConfig, make_demo
from rdmf.manifests.demo.world import ACTIONS

NANO = Path(rdmf.__file__).parent / "extract" / "nano"


@pytest.fixture(scope="module")
def drawn():
    return train.draw_video("encoder-val", 1)


def test_drawn_clips_are_what_the_encoder_sees_of_the_video_s_file(drawn, tmp_path):
    make_demo(tmp_path, DemoConfig(seed=train.SEED, videos={"encoder-val": 2}), workers=1)
    with open_video(tmp_path / "videos" / f"demo{train.SEED}-encoder-val-0001.mp4") as reader:
        bounds = clip_bounds(reader.info.duration_s, 1.0)
        times = clip_frame_times(bounds, NANO_SAMPLING.frames, NANO_SAMPLING.span_s, reader.info.duration_s)
        decoded = np.stack(list(read_clips(reader, times, NANO_SAMPLING.size)))
    assert drawn[0].shape == decoded.shape
    difference = np.abs(drawn[0].astype(int) - decoded)
    assert difference.mean() < 4
    assert np.median(difference.mean((1, 2, 3, 4))) < 3


def test_cells_and_clip_labels_agree_on_what_is_there(drawn):
    _, labels, cells = drawn
    there, doing, acts, scene = train.split_labels(torch.from_numpy(labels))
    for t in range(len(labels)):
        here = cells[cells[:, 0] == t]
        # a cell looks two seconds wide, a label one: what is there all the clip is in some cell
        assert set(np.flatnonzero(there[t] > 0.95)) <= set(here[:, 4])
        seen = {ACTIONS[a] for a in here[:, 5] if a != train.NOTHING}
        assert {ACTIONS[a] for a in np.flatnonzero(doing[t] > 0.95)} <= seen
    assert (acts.amax(1) <= doing + 1e-6).all()
    torch.testing.assert_close(scene.sum(1), torch.ones(len(scene)))


def test_mirroring_twice_and_reversing_twice_change_nothing_that_can_be_undone(drawn):
    labels, cells = torch.from_numpy(drawn[1]), torch.from_numpy(drawn[2])
    torch.testing.assert_close(
        train.rename_actions(train.rename_actions(labels, train.MIRRORED), train.MIRRORED), labels
    )
    assert torch.equal(train.mirrored(train.mirrored(cells)), cells)
    once = train.backwards(cells)
    assert not (once[:, 5] == ACTIONS.index("appear")).any()
    back = train.backwards(once)
    kept = cells[:, 5] != ACTIONS.index("appear")
    assert torch.equal(back[kept], cells[kept])


def test_the_encoders_share_no_video_with_any_demo():
    assert not set(train.SPLITS) & set(DemoConfig().videos)


def test_the_shipped_weights_are_small_and_told_about():
    files = [NANO / "video.safetensors", *(NANO / "bert").iterdir()]
    assert sum(file.stat().st_size for file in files) <= 5_000_000
    scores = json.loads((NANO / "scores.json").read_text())
    card = (NANO / "MODEL_CARD.md").read_text()
    for name in ("object_map", "action_map", "acting_object_map", "scene_accuracy"):
        assert f"{100 * scores['video'][name]:.1f}" in card, name
