from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from rdmf.heads.losses import LossWeights
from rdmf.pipeline.comparison.evaluate_run import evaluate_run
from rdmf.pipeline.config import Config, load_config, parse_config
from rdmf.pipeline.loading.dataset import Batch, MomentDataset, collate, open_features
from rdmf.pipeline.model import RDMF, count_parameters
from rdmf.pipeline.training.checkpoint import load_best, load_run_info
from rdmf.pipeline.training.epoch import Diverged
from rdmf.pipeline.training.objective import loss_of
from rdmf.pipeline.training.runs import summarise
from rdmf.pipeline.training.schedules import learning_rate
from rdmf.pipeline.training.tensor_files import read_file, write_tensors
from rdmf.pipeline.training.train import train
from rdmf.pipeline.training.validation import validate, with_validation


def changed(config: Config, **training) -> Config:
    return parse_config(config.model_dump() | {"training": config.training.model_dump() | training}, "test")


def test_a_run_learns_what_the_features_show_and_its_numbers_are_those_of_the_saved_weights(
    tiny_features, tiny_config, tmp_path
):
    config = changed(tiny_config, epochs=25, lr=3e-3, schedule="cosine", batch=16)
    result = train(tiny_features, tmp_path / "run", config)
    assert result.best["R1@0.5"] > 0.6  # four equally long topics: guessing one is right a quarter of the time
    info = load_run_info(tmp_path / "run")
    features, _ = with_validation(open_features(tiny_features), config.training)
    again = validate(load_best(tmp_path / "run", info), MomentDataset(features, "val"), config, info.max_clips)
    assert again == result.best
    judged = evaluate_run(tmp_path / "run", "test", controls=("other sentence", "shuffled clips", "random"))
    reached = judged.run.metrics["brief"]["MR-full-R1@0.5"]
    assert reached > 50
    for name, control in judged.controls.items():
        assert control.metrics["brief"]["MR-full-R1@0.5"] < reached - 15, name


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_features, tiny_config, tmp_path):
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiny_features, tmp_path / name, changed(tiny_config, seed=seed, epochs=2))
        runs[name] = (tmp_path / name / "best.safetensors").read_bytes()
    assert runs["a"] == runs["b"]
    assert runs["a"] != runs["c"]


def test_a_finished_run_is_left_as_it_is_and_another_config_is_refused(tiny_features, tiny_config, tmp_path):
    out = tmp_path / "run"
    first = train(tiny_features, out, tiny_config)
    before = (out / "best.safetensors").stat().st_mtime_ns
    assert train(tiny_features, out, tiny_config, resume=True) == first
    assert (out / "best.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="--resume"):
        train(tiny_features, out, tiny_config)
    with pytest.raises(ValueError, match=r"training\.lr is 0\.001 there"):
        train(tiny_features, out, changed(tiny_config, lr=0.01), resume=True)


@pytest.mark.parametrize("name", ["thesis.txt", ".thesis.txt.part"])
def test_a_folder_with_other_things_in_it_is_not_taken(tiny_features, tiny_config, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        train(tiny_features, tmp_path, tiny_config)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_training_stops_when_validation_no_longer_improves(tiny_features, tiny_config, tmp_path):
    result = train(tiny_features, tmp_path / "run", changed(tiny_config, epochs=50, lr=1e-9, patience=2))
    assert result.best_epoch <= result.epochs <= result.best_epoch + 3


def test_divergence_names_step_term_and_queries_and_keeps_weights_and_batch_to_look_at(
    tiny_features, tiny_config, tmp_path
):
    out, config = tmp_path / "run", changed(tiny_config, lr=1e30, gradient_clip=1e30, epochs=5, log_every=7)
    with pytest.raises(Diverged, match=r"epoch \d+, step \d+: .*total.* not finite") as error:
        train(tiny_features, out, config)
    tensors, said = read_file(out / "diverged.safetensors", "")
    assert f"epoch {said['epoch']}, step {said['step']}: {', '.join(said['terms'])}" in str(error.value)
    assert said["queries"][0] in str(error.value)
    assert str(out / "diverged.safetensors") in str(error.value)

    model = RDMF(config.model, *load_run_info(out).dims)
    model.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
    assert all(p.isfinite().all() for p in model.parameters())
    dataset = MomentDataset(open_features(tiny_features), "train")
    rows = tensors["rows"].tolist()
    assert [dataset.queries[row].qid for row in rows] == said["queries"]
    batch = Batch(*(tensors[f"batch.{f.name}"] for f in fields(Batch)))
    torch.testing.assert_close(batch.clips, collate([dataset[row] for row in rows]).clips)
    assert not loss_of(model, batch, LossWeights())["total"].isfinite()  # what is kept shows what happened


def test_a_run_that_never_reached_a_checkpoint_gives_its_folder_to_the_next(tiny_features, tiny_config, tmp_path):
    out, notes = tmp_path / "run", []
    with pytest.raises(Diverged):
        train(tiny_features, out, changed(tiny_config, lr=1e30, gradient_clip=1e30))
    result = train(tiny_features, out, changed(tiny_config, epochs=1), on_note=notes.append)
    assert result.epochs == 1
    assert any("ended before its first checkpoint" in note for note in notes)
    assert not (out / "diverged.safetensors").exists()
    assert {json.loads(line)["epoch"] for line in (out / "steps.jsonl").read_text().splitlines()} == {1}


def test_two_processes_do_not_train_into_one_folder(tiny_features, tiny_config, tmp_path):
    out = tmp_path / "run"

    def meanwhile(_):
        with pytest.raises(ValueError, match="another process trains into"):
            train(tiny_features, out, tiny_config, resume=True)
        seen.append(summarise(out).state)

    seen = []
    train(tiny_features, out, changed(tiny_config, epochs=2), on_epoch=meanwhile)
    assert seen == ["training, after epoch 1", "training, after epoch 2"]


def test_with_a_running_mean_what_is_validated_is_what_is_saved(tiny_features, tiny_config, tmp_path):
    config, records = changed(tiny_config, epochs=2, ema=0.9), []
    result = train(tiny_features, tmp_path / "mean", config, on_epoch=records.append)
    train(tiny_features, tmp_path / "raw", changed(config, ema=0.0))
    info = load_run_info(tmp_path / "mean")
    features, _ = with_validation(open_features(tiny_features), config.training)
    again = validate(load_best(tmp_path / "mean", info), MomentDataset(features, "val"), config, info.max_clips)
    assert again == result.best == records[result.best_epoch - 1]["validation"]
    losses = [[json.loads(line)["loss"] for line in (tmp_path / n / "log.jsonl").open()] for n in ("mean", "raw")]
    assert losses[0] == losses[1]  # the mean is beside training, not in it
    assert (tmp_path / "mean/best.safetensors").read_bytes() != (tmp_path / "raw/best.safetensors").read_bytes()


def test_accumulated_batches_take_the_steps_of_one_large_batch(tiny_features, tiny_config, tmp_path):
    for name, settings in (("one", {"batch": 24}), ("parts", {"batch": 8, "accumulate": 3})):
        train(tiny_features, tmp_path / name, changed(tiny_config, epochs=2, **settings))
    one, parts = ([json.loads(line)["loss"] for line in (tmp_path / n / "log.jsonl").open()] for n in ("one", "parts"))
    for a, b in zip(one, parts, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_bucketed_batches_learn_from_every_query_too(tiny_features, tiny_config, tmp_path):
    seen = []
    config = changed(tiny_config, epochs=1, bucket=True, log_every=3)
    train(tiny_features, tmp_path / "run", config, on_step=seen.append)
    assert [p.step for p in seen] == [3, 6, 9, 12, 15, 18, 20]
    assert all(p.steps == 20 and p.queries_per_s > 0 and 0 <= p.data_share <= 1 for p in seen)


def test_the_steps_that_were_looked_at_are_logged_with_what_they_were_doing(tiny_features, tiny_config, tmp_path):
    config = changed(tiny_config, epochs=2, log_every=8, schedule="cosine", warmup_steps=5)
    train(tiny_features, tmp_path / "run", config)
    steps = [json.loads(line) for line in (tmp_path / "run/steps.jsonl").open()]
    assert [(s["epoch"], s["step"]) for s in steps] == [(e, s) for e in (1, 2) for s in (8, 16, 20)]
    assert [s["lr"] for s in steps] == [learning_rate(config.training, n, 20) for n in (8, 16, 20, 28, 36, 40)]
    epochs = [json.loads(line) for line in (tmp_path / "run/log.jsonl").open()]
    for epoch in (1, 2):
        windows = [s["loss"]["total"] for s in steps if s["epoch"] == epoch]
        mean = (8 * windows[0] + 8 * windows[1] + 4 * windows[2]) / 20
        assert epochs[epoch - 1]["loss"]["total"] == pytest.approx(mean)


def test_a_run_says_all_that_is_needed_to_repeat_it(tiny_features, tiny_config, tmp_path):
    train(tiny_features, tmp_path / "a", changed(tiny_config, epochs=1), command="rdmf train ...")
    info = load_run_info(tmp_path / "a")
    assert info.command == "rdmf train ..."
    assert info.machine["threads"] == torch.get_num_threads()
    assert info.machine["device"] == "cpu"
    assert info.versions["torch"] == torch.__version__
    assert info.manifest_sha256 == hashlib.sha256((tiny_features / "manifest.parquet").read_bytes()).hexdigest()
    train(Path(info.features), tmp_path / "b", info.config)
    assert (tmp_path / "a/best.safetensors").read_bytes() == (tmp_path / "b/best.safetensors").read_bytes()


def test_validation_is_carved_from_train_by_video_where_there_is_none(tmp_path, tiny, tiny_config):
    folder = tiny.write(tmp_path / "f", {"train": 20, "test": 2})
    features, roles = with_validation(open_features(folder), tiny_config.training)
    train_vids, val_vids, test_vids = ({q.vid for q in features.manifest.split(s)} for s in ("train", "val", "test"))
    assert len(val_vids) == 2
    assert not train_vids & val_vids
    assert test_vids == {"test000", "test001"}
    assert "carved" in roles["validation"]


def test_without_a_training_split_training_says_so(tmp_path, tiny, tiny_config):
    folder = tiny.write(tmp_path / "f", {"test": 2})
    with pytest.raises(ValueError, match="no split 'train'"):
        train(folder, tmp_path / "run", tiny_config)


@pytest.mark.parametrize(
    "ablation",
    [
        "model.diffusion.steps=0",  # w/o TD
        "model.fusion.kind=cross_attention",  # w/o RD
        "model.moment.iou=false",  # w/o IH
    ],
)
def test_every_ablation_trains(tiny_features, tiny_config, tmp_path, ablation):
    tree = tiny_config.model_dump()
    if "fusion" in ablation:
        tree["model"]["fusion"] = {"kind": "cross_attention", "ffn": 64}
    elif "diffusion" in ablation:
        tree["model"]["diffusion"]["steps"] = 0
    else:
        tree["model"]["moment"]["iou"] = False
    config = changed(parse_config(tree, ablation), epochs=1)
    result = train(tiny_features, tmp_path / "run", config)
    assert result.epochs == 1
    record = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert ("iou" in record["loss"]) == config.model.moment.iou


def test_the_ablation_without_reaction_diffusion_has_about_the_same_parameters():
    rd, attention = (
        count_parameters(RDMF(load_config(None, [f"model.fusion.kind={kind}"]).model, 1024, 768))
        for kind in ("reaction_diffusion", "cross_attention")
    )
    assert attention == pytest.approx(rd, rel=0.05)


def test_every_parameter_of_the_model_gets_a_gradient(tiny_features, tiny_config):
    torch.manual_seed(0)
    dataset = MomentDataset(open_features(tiny_features), "train")
    model = RDMF(tiny_config.model, *dataset.features.dims)
    loss_of(model, collate([dataset[i] for i in range(8)]), LossWeights())["total"].backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_damaged_weights_and_those_of_another_model_are_named(tiny_features, tiny_config, tmp_path):
    out = tmp_path / "run"
    train(tiny_features, out, changed(tiny_config, epochs=1))
    info = load_run_info(out)
    good = (out / "best.safetensors").read_bytes()
    (out / "best.safetensors").write_bytes(good[:100])
    with pytest.raises(ValueError, match="damaged"):
        load_best(out, info)
    write_tensors(out / "best.safetensors", {"x": torch.zeros(2)})
    with pytest.raises(ValueError, match="another model"):
        load_best(out, info)
    (out / "best.safetensors").unlink()
    with pytest.raises(ValueError, match="missing"):
        load_best(out, info)
    (out / "run.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_run_info(out)


def test_features_of_another_kind_are_refused(tiny_features, tiny_config, tmp_path, tiny):
    train(tiny_features, tmp_path / "run", changed(tiny_config, epochs=1))
    other = tmp_path / "other"
    tiny.write(other, {"test": 2})
    (other / "video").rename(other / "gone")
    with pytest.raises(ValueError, match="expected a store named 'topics-"):
        evaluate_run(tmp_path / "run", "test", features=other)


def test_a_dataset_with_highlights_and_no_moments_trains_and_is_chosen_by_highlights(tmp_path, tiny, tiny_config):
    manifest = tiny.manifest({"train": 6, "val": 3})
    queries = tuple(replace(q, windows=()) for q in manifest.queries)
    folder = tiny.write_manifest(tmp_path / "f", replace(manifest, queries=queries))
    result = train(folder, tmp_path / "run", changed(tiny_config, epochs=2))
    assert set(result.best) == {"HL-mAP"}
    assert 0 < result.best["HL-mAP"] <= 1
