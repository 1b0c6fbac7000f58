from __future__ import annotations

import json

import numpy as np
import pytest

from rdmf.extract.frames import open_video
from rdmf.manifests import dataset
from rdmf.manifests.demo.dataset import DemoConfig, make_demo, queries_of, script_of
from rdmf.manifests.demo.render import CANVAS, frames
from rdmf.manifests.demo.sentences import COLOUR_WORDS, SHAPE_WORDS, Meaning, say, when
from rdmf.manifests.demo.world import ACTIONS, DURATION_S, SCENES, Interval, Scene, Script, Track, bounds, pose

SCRIPTS = [script_of(5, "train", i) for i in range(40)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    config = DemoConfig(seed=5, videos={"train": 2, "test": 1})
    assert make_demo(folder, config, workers=1)
    return folder, config


def test_objects_stay_on_the_canvas_and_never_cover_each_other():
    for script in SCRIPTS:
        for track in script.tracks:
            left, top, right, bottom = bounds(track)
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
        for time_s in np.arange(0, script.duration_s, 0.5):
            seen = [(t, p) for t in script.tracks if (p := pose(t, time_s)) is not None]
            assert len({(t.colour, t.shape) for t, _ in seen}) == len(seen)
            boxes = [(p.x - p.size, p.y - p.size, p.x + p.size, p.y + p.size) for _, p in seen]
            for i, a in enumerate(boxes):
                for b in boxes[:i]:
                    assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_an_object_does_what_its_action_says_and_only_while_it_acts():
    for track in (t for s in SCRIPTS for t in s.tracks if t.act_when is not None):
        assert track.act_when is not None
        start, end = track.act_when.start_s, track.act_when.end_s
        before, after = pose(track, start + 0.01), pose(track, end - 0.01)
        if track.action == "blink":
            shown = [pose(track, t) is not None for t in np.arange(start + 0.01, end, 0.05)]
            assert 0.3 < np.mean(shown) < 0.8
            continue
        assert before is not None
        assert after is not None
        moved = {
            "left": after.x < before.x - 0.2, "right": after.x > before.x + 0.2,
            "up": after.y < before.y - 0.2, "down": after.y > before.y + 0.2,
            "grow": after.size > 1.8 * before.size, "shrink": after.size < before.size / 1.8,
            "spin": after.angle > before.angle + 3, "appear": before.opacity < 0.2 < after.opacity,
        }  # fmt: skip
        assert track.action is not None
        assert moved[track.action], track
        later = pose(track, end + 0.2)
        if later is not None:
            assert (later.x, later.y, later.size) == pytest.approx((after.x, after.y, after.size), abs=0.02)


def test_scenes_follow_each_other_without_gap_and_change():
    for script in SCRIPTS:
        assert DURATION_S[0] <= script.duration_s <= DURATION_S[1]
        assert script.scenes[0].when.start_s == 0
        assert script.scenes[-1].when.end_s == script.duration_s
        for a, b in zip(script.scenes, script.scenes[1:], strict=False):
            assert a.when.end_s == b.when.start_s
            assert a.name != b.name


def test_the_world_is_varied_and_full_of_distractors():
    kinds = {(t.colour, t.shape, t.action) for s in SCRIPTS for t in s.tracks}
    assert {t.action for s in SCRIPTS for t in s.tracks} >= set(ACTIONS)
    assert {x.name for s in SCRIPTS for x in s.scenes} == set(SCENES)
    assert len(kinds) > 100
    shared = [
        any(t is not o and (t.colour == o.colour) != (t.shape == o.shape) for o in s.tracks)
        for s in SCRIPTS
        for t in s.tracks
    ]
    assert np.mean(shared) > 0.7


def test_sentences_name_what_they_mean_in_many_ways():
    rng = np.random.default_rng(0)
    said = {say(Meaning("action", "red", "star", "spin"), rng) for _ in range(300)}
    assert len(said) > 30
    for sentence in said:
        assert any(word in sentence for word in COLOUR_WORDS["red"])
        assert any(word in sentence for word in SHAPE_WORDS["star"])
        assert " a orange" not in sentence
        assert "an red" not in sentence


def test_a_trait_left_open_asks_for_every_object_that_fits():
    tracks = tuple(
        Track(colour, "star", Interval(i * 5.0, i * 5.0 + 4), 0.5, 0.5, 0.1, 0.0)
        for i, colour in enumerate(("red", "blue"))
    )
    script = Script(20.0, 10, (Scene("night", Interval(0, 20), 0),), tracks)
    assert [i.start_s for i, _ in when(Meaning("object", None, "star"), script)] == [0.0, 5.0]
    assert [i.start_s for i, _ in when(Meaning("object", "blue", "star"), script)] == [5.0]
    assert when(Meaning("object", "green", None), script) == []


def test_windows_are_where_the_sentence_is_true_and_never_fill_the_video():
    rng = np.random.default_rng(1)
    for script in SCRIPTS:
        for meaning, _, found in queries_of(script, rng):
            assert found == when(meaning, script)
            assert sum(i.end_s - i.start_s for i, _ in found) <= 0.5 * script.duration_s


def test_splits_share_no_video_and_a_seed_is_a_dataset():
    assert script_of(5, "train", 0) == SCRIPTS[0]
    assert script_of(5, "test", 0) != script_of(5, "train", 0) != script_of(6, "train", 0)


def test_the_folder_reads_as_a_dataset_of_real_h264_files(demo):
    folder, _ = demo
    manifest = dataset("demo").read(folder / "annotations")
    assert manifest.splits == ("train", "test")
    assert {q.kind for q in manifest.queries} == {"action", "object", "scene"}
    for vid, video in manifest.videos.items():
        with open_video(folder / "videos" / f"{vid}.mp4") as reader:
            assert reader.info.duration_s == pytest.approx(video.duration_s, abs=0.06)
            assert (reader.info.width, reader.info.height) == (CANVAS, CANVAS)
    for query in manifest.queries:
        assert query.windows
        assert query.saliency is not None
        assert query.saliency.annotators == 3
        for clip, row in zip(query.saliency.clip_ids, query.saliency.scores, strict=True):
            middle = clip + 0.5
            assert any(w.start_s - 0.5 <= middle <= w.end_s + 0.5 for w in query.windows)
            assert set(row) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    grades = {row for q in manifest.queries if q.saliency for row in q.saliency.scores}
    assert len(grades) > 5


def test_the_pixels_show_the_script(demo):
    folder, config = demo
    script = script_of(config.seed, "test", 0)
    with open_video(folder / "videos" / f"demo{config.seed}-test-0000.mp4") as reader:
        times = np.linspace(0.2, script.duration_s - 0.3, 8)
        shown = reader.frames_at(times)
        drawn = list(frames(script, reader.frame_times_s[reader.frame_indices(times)]))
    difference = np.abs(shown.astype(int) - np.stack(drawn)).mean()
    assert difference < 6  # what the codec costs; another moment of the video differs by far more
    assert np.abs(shown[::-1].astype(int) - np.stack(drawn)).mean() > 3 * difference


def test_the_same_seed_gives_the_same_bytes_and_what_is_there_is_kept(demo, tmp_path):
    folder, config = demo
    assert make_demo(tmp_path, config, workers=2)
    for name in ("annotations/train.jsonl", "annotations/test.jsonl", f"videos/demo{config.seed}-train-0001.mp4"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert not make_demo(folder, config)
    with pytest.raises(ValueError, match="another kind"):
        make_demo(folder, DemoConfig(seed=6, videos=config.videos))


def test_an_interrupted_rendering_goes_on(demo, tmp_path):
    _, config = demo
    make_demo(tmp_path, config, workers=1)
    (tmp_path / "demo.json").unlink()
    kept = tmp_path / "videos" / f"demo{config.seed}-train-0000.mp4"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "videos" / f"demo{config.seed}-train-0001.mp4").unlink()
    assert make_demo(tmp_path, config, workers=1)
    assert kept.stat().st_mtime_ns == stamp
    lines = (tmp_path / "annotations" / "train.jsonl").read_text().splitlines()
    assert {json.loads(line)["vid"][-4:] for line in lines} == {"0000", "0001"}


@pytest.mark.parametrize("config", [{"seed": -1}, {"videos": {}}, {"videos": {"train": 0}}])
def test_a_demo_that_cannot_be_made_is_refused(config):
    with pytest.raises(ValueError, match="seed >= 0"):
        DemoConfig(**config)
