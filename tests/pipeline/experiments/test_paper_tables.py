"""The paper's tables as commands: features as they are published -> store -> a sweep by its name -> a table.

Features are noise of InternVideo2's shapes and names: <vid>.pt [rows, 768] and qid<qid>.pt [tokens, 4096], one tensor
of float16 each, as OpenGVLab's grounding code and FlashVTG read them; for Charades-STA the same as .npz. Models and
trainings are tiny, and there is one seed in place of three.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from rdmf.extract.reader import FeatureStore
from rdmf.pipeline.config import load_config
from rdmf.pipeline.experiments.sweep import CONFIGS, read_sweep, ready_sweeps

PAPER = [name for name, path in ready_sweeps().items() if path.parent.name == "paper"]
TINY = (
    "model.hidden=16", "model.fusion.ffn=16", "model.moment.queries=12", "training.epochs=1", "training.batch=8",
)  # fmt: skip
SENTENCES = ("A woman talks to the camera", "A dog runs", "A red car is parked", "A view of the city from above")


def write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, Path]:
    """Folders of annotations and features of two datasets, named as they are published."""
    rng, top = np.random.default_rng(0), tmp_path_factory.mktemp("published")
    qid, folders = 0, {"qvhighlights": top / "qvhighlights", "charades": top / "charades"}
    names = {
        "qvhighlights": ("highlight_{}_release.jsonl", "qvhighlight_internvideo2_videoclip_6b_w2s",
                         "qvhighlight_internvideo2_llama_text_feature", ("train", "val")),
        "charades": ("charades_sta_{}_tvr_format.jsonl", "charade_sta_internvideo2_videoclip_6b_w1s",
                     "charade_sta_internvideo2_llama_text_feature", ("train", "test")),
    }  # fmt: skip
    for dataset, (lines, videos, texts, splits) in names.items():
        folder, pt = folders[dataset], dataset == "qvhighlights"
        for name in ("annotations", videos, texts):
            (folder / name).mkdir(parents=True)

        def save(name: str, key: str, values: np.ndarray, folder=folder, pt=pt) -> None:
            if pt:
                torch.save(torch.from_numpy(values), folder / f"{name}.pt")
            else:
                np.savez(folder / f"{name}.npz", **{key: values})

        for split in splits:
            records = []
            for i in range(10 if split == "train" else 5):
                vid = f"{split}{i}_60.0_210.0" if pt else f"{split.upper()}{i}"
                duration, clip_s = (150, 2) if pt else (float(rng.integers(20, 40)) + 0.53, 1)
                rows = int(np.ceil(duration / clip_s))
                save(f"{videos}/{vid}", "features", rng.normal(size=(rows, 768)).astype(np.float16))
                for _ in range(2):
                    qid += 1
                    start = clip_s * int(rng.integers(0, rows - 6))
                    record = {"qid": qid, "vid": vid, "query": SENTENCES[qid % 4], "duration": duration}
                    record["relevant_windows"] = [[start, start + 4 * clip_s]]
                    if pt:
                        clips = list(range(start // 2, start // 2 + 4))
                        record |= {"relevant_clip_ids": clips, "saliency_scores": [[4, 3, 4]] * 4}
                    records.append(record)
                    tokens = rng.normal(size=(int(rng.integers(6, 12)), 4096)).astype(np.float16)
                    save(f"{texts}/qid{qid}", "last_hidden_state", tokens)
            write_lines(folder / "annotations" / lines.format(split), records)
    return folders


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory) -> dict[str, Path]:
    """Folders of features; made by the first test that asks for a dataset, with `bring`."""
    return {dataset: tmp_path_factory.mktemp("features") / dataset for dataset in published}


@pytest.fixture
def bring(rdmf, published, imported):
    """The features of a dataset, imported by the command."""

    def run(dataset: str) -> Path:
        folder, out = published[dataset], imported[dataset]
        if not out.is_dir():
            (videos,), (texts,) = folder.glob("*videoclip*"), folder.glob("*llama*")
            ran = rdmf(
                "store", "import", dataset, "--annotations", folder / "annotations", "--out", out,
                "--clip-seconds", 2 if dataset == "qvhighlights" else 1,
                "--video-features", videos, "--name", "internvideo2_6b",
                "--text-features", texts, "--text-name", "internvideo2_llama",
            )  # fmt: skip
            assert (ran.code, ran.err) == (0, ran.err)
        return out

    return run


@pytest.fixture
def one_seed(tmp_path):
    """The sweep that comes with rdmf, at a place of its own, with one seed."""

    def copy(name: str) -> Path:
        shutil.copytree(CONFIGS / "models", tmp_path / "models", dirs_exist_ok=True)
        (tmp_path / "paper").mkdir(exist_ok=True)
        tree = yaml.safe_load(ready_sweeps()[name].read_text()) | {"seeds": [0]}
        path = tmp_path / "paper" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return path

    return copy


def tiny() -> list[str]:
    return [part for setting in TINY for part in ("--set", setting)]


def test_published_files_become_stores_of_their_width(bring):
    for dataset, clips in (("qvhighlights", 75), ("charades", None)):
        stores = {path.parent.name: FeatureStore.open(path) for path in bring(dataset).glob("*/*")}
        assert (stores["video"].spec.dim, stores["text"].spec.dim) == (768, 4096)
        assert stores["video"].spec.encoder == "internvideo2_6b"
        rows = {stores["video"].entry(vid).rows for vid in stores["video"].ids}
        assert rows == {clips} if clips else min(rows) >= 20
        assert stores["video"].failures == stores["text"].failures == ()


@pytest.mark.parametrize("name", PAPER)
def test_every_table_is_a_command_from_features_to_numbers(rdmf, bring, one_seed, tmp_path, name):
    features = bring("charades" if name == "table2" else "qvhighlights")
    split = ["--split", "test"] if name == "table2" else []
    cost = "--cost" if name == "table8" else "--no-cost"
    out, sweep = tmp_path / "out", one_seed(name)
    ran = rdmf("ablate", sweep, "--features", features, "--out", out, "--workers", "0", cost, *tiny(), *split)
    assert ran.code == 0, ran.err
    table = json.loads((out / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == [variant.name for variant in read_sweep(Path(name)).variants]
    assert table["dataset"] == features.name
    for row in table["rows"]:
        assert 0 <= row["numbers"]["R1@0.5"]["value"] <= 1
        assert (row["cost"] is not None) == (name == "table8")
    if name == "table3":
        told = rdmf("evaluate", "--by", "kind", "--run", out / "RDMF" / "seed-0")
        assert told.code == 0
        assert {"action", "documented", "object", "scene"} <= set(re.findall(r"\w+", told.out))


@pytest.mark.parametrize("name", PAPER)
def test_every_table_is_found_by_its_name(rdmf, bring, tmp_path, name):
    ran = rdmf("ablate", name, "--features", bring("qvhighlights"), "--out", tmp_path / "out", "--dry-run")
    assert ran.code == 0
    assert "is refused" not in ran.err
    assert re.search(r"0 to do, 1 to do, 2 to do", ran.out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PAPER)
def test_a_variant_that_names_a_model_is_that_model(name):
    """Laid over the base nothing of the base is left in model and losses; all train alike where files do not say."""
    tree, sweep = yaml.safe_load(ready_sweeps()[name].read_text()), read_sweep(Path(name))
    files = {entry["name"]: entry["config"] for entry in tree.get("variants", ()) if "config" in entry}
    for variant in sweep.variants:
        if variant.name in files:
            alone = load_config(ready_sweeps()[name].parent / files[variant.name])
            assert (variant.config.model, variant.config.loss) == (alone.model, alone.loss)


@pytest.mark.parametrize("name", [name for name in PAPER if name.startswith("table")])
def test_what_is_our_reading_of_a_table_is_said(name):
    """Headers and the page say what a table claims, and that its numbers are not ours."""
    header = ready_sweeps()[name].read_text().partition("base:")[0]
    for part in (f"# Table {name[-1]}", "The paper's claim:", "What this measures:", "Features:", "Different:"):
        assert part in header
    page = (CONFIGS.parent / "docs" / "paper_tables.md").read_text()
    assert f"rdmf ablate {name} " in page
