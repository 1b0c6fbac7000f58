from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from rdmf.pipeline.checkpoint import load_best, load_run_info, read_tensors, write_tensors
from rdmf.pipeline.config import Config, load_config, parse_config
from rdmf.pipeline.dataset import MomentDataset, collate, open_features
from rdmf.pipeline.evaluate_run import evaluate_run
from rdmf.pipeline.model import RDMF, count_parameters
from rdmf.pipeline.train import LossWeights, loss_of, train, validate, with_validation


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
        runs[name] = read_tensors(tmp_path / name / "best.safetensors")
    assert all(torch.equal(runs["a"][k], runs["b"][k]) for k in runs["a"])
    assert any(not torch.equal(runs["a"][k], runs["c"][k]) for k in runs["a"])


KILLED = """
import sys
from pathlib import Path
from rdmf.pipeline.config import parse_config
from rdmf.pipeline.train import train
import json
features, out, config = sys.argv[1:]
train(Path(features), Path(out), parse_config(json.loads(config), "test"), resume=True,
      on_step=lambda p: print(p.epoch, p.step, flush=True))
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(tiny_features, tiny_config, tmp_path):
    config = changed(
        parse_config(tiny_config.model_dump() | {"model": tiny_config.model.model_dump() | {"dropout": 0.2}}, "t"),
        epochs=4,
    )
    torch.set_num_threads(1)
    train(tiny_features, tmp_path / "whole", config)
    arguments = [str(tiny_features), str(tmp_path / "killed"), json.dumps(config.model_dump())]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True, env=_one_thread()
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == ["3", "4"]:  # in the middle of the third epoch
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert not (tmp_path / "killed" / "result.json").exists()
    subprocess.run([sys.executable, "-c", KILLED, *arguments], check=True, capture_output=True, env=_one_thread())
    whole, killed = (read_tensors(tmp_path / name / "best.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[k], killed[k]) for k in whole)
    lines = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    assert [json.loads(line)["loss"] for line in lines[0]] == [json.loads(line)["loss"] for line in lines[1]]


def _one_thread() -> dict[str, str]:
    import os

    return os.environ | {"OMP_NUM_THREADS": "1"}


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


def test_a_folder_with_other_things_in_it_is_not_taken(tiny_features, tiny_config, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        train(tiny_features, tmp_path, tiny_config)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_training_stops_when_validation_no_longer_improves(tiny_features, tiny_config, tmp_path):
    result = train(tiny_features, tmp_path / "run", changed(tiny_config, epochs=50, lr=1e-9, patience=2))
    assert result.best_epoch <= result.epochs <= result.best_epoch + 3


def test_divergence_names_epoch_and_step_and_leaves_the_best_weights(tiny_features, tiny_config, tmp_path):
    with pytest.raises(ValueError, match=r"epoch \d+, step \d+"):
        train(tiny_features, tmp_path / "run", changed(tiny_config, lr=1e30, gradient_clip=1e30, epochs=5))


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
