"""Features of other tools as a folder that training reads: what is kept, what is failed by name, what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rdmf.extract.encoders import describe_text_encoder, describe_video_encoder
from rdmf.extract.imports import IMPORTED
from rdmf.extract.layout import StoreSpec
from rdmf.extract.reader import FeatureStore
from rdmf.manifests.files import read_manifest
from rdmf.pipeline.comparison.evaluate_run import evaluate_run
from rdmf.pipeline.config import Config
from rdmf.pipeline.loading.dataset import MomentDataset, open_features, read_clips
from rdmf.pipeline.predict import predict
from rdmf.pipeline.stage_one.import_features import TextFiles, VideoFiles, import_features
from rdmf.pipeline.training.checkpoint import RunInfo, save_run_info
from rdmf.pipeline.training.train import train

SLOWFAST, CLIP, TEXT = 23, 9, 7


@pytest.fixture
def peers(tmp_path) -> Path:
    """What a user of the Moment-DETR family has: annotations, two streams and token features, all of them whole."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "peers"
    for name in ("annotations", "slowfast_features", "clip_features", "clip_text_features"):
        (folder / name).mkdir(parents=True)
    qid = 0
    for split, count in (("train", 8), ("val", 4)):
        records = []
        for i in range(count):
            vid, duration = f"{split}{i}_60.0_210.0", float(rng.integers(8, 16)) * 2
            rows = int(duration / 2)
            for stream, width in (("slowfast", SLOWFAST), ("clip", CLIP)):
                np.savez(folder / f"{stream}_features" / f"{vid}.npz", features=rng.normal(size=(rows, width)) * 5)
            for _ in range(2):
                qid += 1
                tokens = rng.normal(size=(int(rng.integers(3, 9)), TEXT)).astype(np.float16)
                np.savez(
                    folder / "clip_text_features" / f"qid{qid}.npz", last_hidden_state=tokens, pooler_output=tokens[0]
                )
                start = 2.0 * float(rng.integers(0, rows - 3))
                clips = [int(start / 2), int(start / 2) + 1]
                records.append({
                    "qid": qid, "vid": vid, "query": f"event {qid}", "duration": duration,
                    "relevant_windows": [[start, start + 4]], "relevant_clip_ids": clips,
                    "saliency_scores": [[3, 4, 2], [4, 4, 4]],
                })  # fmt: skip
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "annotations" / f"{split}.jsonl").write_text(lines)
    return folder


def video_of(peers: Path, **settings) -> VideoFiles:
    return VideoFiles([peers / "slowfast_features", peers / "clip_features"], 2.0, **settings)


def import_all(peers: Path, out: Path, **settings):
    return import_features(
        "own", peers / "annotations", out, video=video_of(peers, **settings),
        text=TextFiles(peers / "clip_text_features"),
    )  # fmt: skip


def shards(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.h5"))}


def test_imported_features_train_evaluate_and_refuse_to_predict(peers, tmp_path, tiny_config: Config):
    report = import_all(peers, tmp_path / "out")
    assert report.complete
    assert report.lacks == ()
    video, text = report.stores
    assert (video.spec.encoder, video.spec.dim) == ("slowfast+clip", SLOWFAST + CLIP)
    assert (text.spec.encoder, text.spec.dim) == ("clip_text", TEXT)
    assert (video.receipt.written, text.receipt.written) == (12, 24)
    assert FeatureStore.open(video.folder).verify() == []
    config = tiny_config.model_copy(update={"training": tiny_config.training.model_copy(update={"epochs": 1})})
    train(tmp_path / "out", tmp_path / "run", config)
    judged = evaluate_run(tmp_path / "run", "val")
    assert len(judged.predictions) == 8
    assert judged.missing == {}
    clip = tmp_path / "some.mp4"
    clip.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"slowfast\+clip, which rdmf cannot compute.*imported"):
        predict(clip, ["event 1"], tmp_path / "run")


def test_values_are_those_of_the_peers_loaders_to_half_precision(peers, tmp_path):
    import_all(peers, tmp_path / "out")
    feature_set = open_features(tmp_path / "out")
    for query in feature_set.manifest.queries:
        expected = []
        for stream in ("slowfast", "clip"):
            x = np.load(peers / f"{stream}_features" / f"{query.vid}.npz")["features"].astype(np.float32)
            expected.append(x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5))
        clips = read_clips(feature_set.video, query.vid)
        np.testing.assert_allclose(clips.values, np.concatenate(expected, 1), rtol=2**-10, atol=1e-7)
        np.testing.assert_array_equal(clips.times_s[:, 0], np.arange(len(clips.values)) * 2.0)
        words = np.load(peers / "clip_text_features" / f"qid{query.qid}.npz")["last_hidden_state"].astype(np.float32)
        words /= np.linalg.norm(words, axis=1, keepdims=True) + 1e-5
        np.testing.assert_allclose(feature_set.text.features(query.qid).values, words, rtol=2**-10, atol=1e-7)


def test_a_bad_file_is_the_failure_of_its_item_and_the_rest_goes_on(peers, tmp_path):
    clips = peers / "clip_features"
    (clips / "train0_60.0_210.0.npz").unlink()
    (clips / "train1_60.0_210.0.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(clips / "train2_60.0_210.0.npz", features=np.full((9, CLIP), 1e38))
    np.savez(clips / "train3_60.0_210.0.npz", features=np.zeros((40, CLIP)))
    np.savez(clips / "train4_60.0_210.0.npz", features=np.array([{"a": 1}]))
    np.savez(clips / "stranger.npz", features=np.zeros((4, CLIP)))
    report = import_all(peers, tmp_path / "out", normalise="none", row_tolerance=20)
    video = report.stores[0]
    failed = {failure.id.split("_")[0]: failure for failure in video.failures}
    assert set(failed) == {f"train{i}" for i in range(5)}
    assert failed["train0"].stage == "missing"
    assert "clip_features" in failed["train0"].reason
    for vid, named in (("train1", "cannot be read"), ("train2", "float16"), ("train3", "rows"), ("train4", "pickled")):
        assert named in failed[vid].reason
    assert not report.complete
    assert video.receipt.written == 7
    assert video.unused == (0, 1)
    assert len(MomentDataset(open_features(tmp_path / "out"), "train")) == 6
    manifest = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert [f.action for f in manifest.findings] == ["missing video"]


def test_odd_tails_are_cut_or_left_short_and_counted(peers, tmp_path):
    manifest_rows = {}
    for stream in ("slowfast", "clip"):
        for i, more in ((0, 1), (1, -1)):
            path = peers / f"{stream}_features" / f"val{i}_60.0_210.0.npz"
            x = np.load(path)["features"]
            manifest_rows[i] = len(x)
            np.savez(path, features=np.vstack([x, x[-1:]]) if more > 0 else x[:-1])
    report = import_all(peers, tmp_path / "out")
    assert report.complete
    off = {vid: fit.off for vid, fit in report.stores[0].fits.items() if fit.off}
    assert off == {"val0_60.0_210.0": 1, "val1_60.0_210.0": -1}
    store = FeatureStore.open(report.stores[0].folder)
    for i, rows in ((0, manifest_rows[0]), (1, manifest_rows[1] - 1)):
        found = store.features(f"val{i}_60.0_210.0")
        assert found.times_s is not None
        assert len(found.values) == rows
        assert found.times_s[-1, 1] == 2.0 * rows
        assert found.duration_s == 2.0 * manifest_rows[i]


def test_the_same_files_are_reused_and_changed_files_make_another_store(peers, tmp_path):
    first = import_all(peers, tmp_path / "out")
    before = shards(tmp_path / "out")
    again = import_all(peers, tmp_path / "out")
    assert [store.receipt.written for store in again.stores] == [0, 0]
    assert [store.receipt.reused for store in again.stores] == [12, 24]
    assert shards(tmp_path / "out") == before
    path = peers / "clip_features" / "val0_60.0_210.0.npz"
    np.savez(path, features=np.load(path)["features"] + 1)
    other = import_all(peers, tmp_path / "out")
    assert other.stores[0].folder != first.stores[0].folder
    assert other.stores[0].others == (first.stores[0].folder.name,)
    assert other.stores[1].folder == first.stores[1].folder
    assert before.items() <= shards(tmp_path / "out").items()


def test_what_failed_by_its_rows_is_tried_with_another_tolerance(peers, tmp_path):
    path = peers / "clip_features" / "val0_60.0_210.0.npz"
    np.savez(path, features=np.load(path)["features"][:-3])
    assert len(import_all(peers, tmp_path / "out").stores[0].failures) == 1
    accepted = import_all(peers, tmp_path / "out", row_tolerance=3)
    assert accepted.complete
    assert (accepted.stores[0].receipt.written, accepted.stores[0].receipt.reused) == (1, 11)


def test_one_kind_goes_beside_what_is_there_and_the_manifest_is_kept(peers, tmp_path):
    out = tmp_path / "out"
    first = import_features("own", peers / "annotations", out, video=video_of(peers))
    assert first.lacks == ("text",)
    assert not first.kept_manifest
    manifest = (out / "manifest.parquet").read_bytes()
    second = import_features("own", None, out, text=TextFiles(peers / "clip_text_features"))
    assert second.lacks == ()
    assert second.kept_manifest
    assert (out / "manifest.parquet").read_bytes() == manifest
    assert len(MomentDataset(open_features(out), "val")) == 8


def test_sentences_can_be_encoded_here_where_there_is_no_text_of_others(peers, tmp_path):
    report = import_features(
        "own", peers / "annotations", tmp_path / "out", video=video_of(peers), text_encoder="bert_nano"
    )
    assert report.complete
    assert [store.spec.encoder for store in report.stores] == ["slowfast+clip", "bert_nano"]
    assert len(MomentDataset(open_features(tmp_path / "out"), "train")) == 16


def test_streams_can_be_imported_one_by_one_and_concatenated_by_training(peers, tmp_path):
    out = tmp_path / "out"
    for name in ("slowfast", "clip"):
        import_features("own", peers / "annotations", out, video=VideoFiles([peers / f"{name}_features"], 2.0))
    import_features("own", None, out, text=TextFiles(peers / "clip_text_features"))
    apart = open_features(out, ["slowfast", "clip"])
    import_all(peers, tmp_path / "together")
    together = open_features(tmp_path / "together")
    for vid in apart.manifest.videos:
        np.testing.assert_array_equal(read_clips(apart.video, vid).values, read_clips(together.video, vid).values)


def test_a_manifest_of_other_annotations_or_another_dataset_is_not_touched(peers, tmp_path):
    out = tmp_path / "out"
    import_all(peers, out)
    manifest = (out / "manifest.parquet").read_bytes()
    with pytest.raises(ValueError, match="not of other"):
        import_features("other", None, out, video=video_of(peers))
    (peers / "annotations" / "val.jsonl").unlink()
    with pytest.raises(ValueError, match="other annotations \\(8 of its queries"):
        import_all(peers, out)
    assert (out / "manifest.parquet").read_bytes() == manifest


def test_lengths_that_annotations_do_not_know_follow_from_the_rows(peers, tmp_path):
    for path in (peers / "annotations").iterdir():
        records = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps({k: v for k, v in record.items() if k != "duration"}) + "\n" for record in records]
        path.write_text("".join(lines))
    report = import_all(peers, tmp_path / "out")
    store = FeatureStore.open(report.stores[0].folder)
    for vid in store.ids:
        assert store.features(vid).duration_s == 2.0 * store.entry(vid).rows
    assert report.manifest.videos["val0_60.0_210.0"].duration_s is None  # rows are no measurement
    assert import_all(peers, tmp_path / "out").stores[0].receipt.reused == 12


def test_overlapping_rows_have_the_times_of_their_windows(peers, tmp_path):
    report = import_features(
        "own", peers / "annotations", tmp_path / "out", video=video_of(peers, stride_seconds=1.0, row_tolerance=99)
    )
    store = FeatureStore.open(report.stores[0].folder)
    times_s = store.features("val0_60.0_210.0").times_s
    assert times_s is not None
    np.testing.assert_array_equal(times_s[:3], [[0, 2], [1, 3], [2, 4]])
    assert store.spec.preprocessing["stride_seconds"] == 1.0


@pytest.mark.parametrize("kind", ["video", "text"])
def test_a_run_on_imported_features_says_why_it_cannot_predict(peers, tmp_path, kind):
    """Also where just one kind is imported, and under the name of an encoder that rdmf has."""
    video = describe_video_encoder("swin_nano")
    text = describe_text_encoder("bert_nano")
    ours = StoreSpec("video", **video.spec, clip_seconds=2.0, dim=video.dim)
    theirs = {"source": f"{IMPORTED} somewhere", "sha256": "1" * 64, "random": False}
    of_text = theirs if kind == "text" else text.spec["weights"]
    info = RunInfo(
        config=Config(), dataset="own", clip_seconds=2.0, features="", max_clips=10, splits={}, versions={}, command="",
        video_specs=(replace(ours, weights=theirs) if kind == "video" else ours,),
        text_spec=StoreSpec("text", "bert_nano", of_text, {}, None, text.dim),
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    save_run_info(tmp_path / "run", info)
    clip = tmp_path / "some.mp4"
    clip.write_bytes(b"no video")
    with pytest.raises(ValueError, match=f"{kind} features named .* imported"):
        predict(clip, ["event 1"], tmp_path / "run")


@pytest.mark.shared
def test_real_clip_features_of_univtg_are_a_row_short_of_their_video(shared, tmp_path):
    (tmp_path / "train.jsonl").write_text(
        '{"vid": "vid", "qid": "txt", "query": "a person", "duration": 30.7, "relevant_windows": [[3, 9]]}\n'
    )
    sample = shared / "features" / "univtg_clip_sample"
    report = import_features("uni", tmp_path, tmp_path / "out", video=VideoFiles([sample], 2.0), text=TextFiles(sample))
    assert report.complete
    assert report.stores[0].fits["vid"].off == -1
    example = MomentDataset(open_features(tmp_path / "out"), "train")[0]
    assert example.clips.values.shape == (15, 512)
    assert example.words.shape == (12, 512)
    assert example.clips.duration_s == 30.0


def test_what_is_wrong_as_a_whole_shows_before_anything_is_written(peers, tmp_path):
    texts = TextFiles(peers / "clip_features")  # the wrong folder
    with pytest.raises(ValueError, match=r"none of the 24 sentences .* such as qid1\.npz, it has train0"):
        import_features("own", peers / "annotations", tmp_path / "out", video=video_of(peers), text=texts)
    for path in (peers / "clip_text_features").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="not one of the 24 items"):
        import_all(peers, tmp_path / "out")
    wrong_clips = VideoFiles([peers / "clip_features"], 1.0)
    with pytest.raises(ValueError, match=r"not one of the 12 items .* --clip-seconds"):
        import_features("own", peers / "annotations", tmp_path / "out", video=wrong_clips)
    with pytest.raises(ValueError, match="no-such-encoder"):
        import_features(
            "own", peers / "annotations", tmp_path / "out", video=video_of(peers), text_encoder="./no-such-encoder"
        )
    assert not (tmp_path / "out").exists()


def test_annotations_are_needed_once_and_folders_always(peers, tmp_path):
    with pytest.raises(ValueError, match="give --annotations DIR"):
        import_features("own", None, tmp_path / "out", video=video_of(peers))
    with pytest.raises(ValueError, match="expected features to import"):
        import_features("own", peers / "annotations", tmp_path / "out")
    with pytest.raises(ValueError, match="folder of feature files"):
        import_features("own", peers / "annotations", tmp_path / "out", video=VideoFiles([tmp_path / "no"], 2.0))
    assert not (tmp_path / "out").exists()
