"""`rdmf store import | export | diff | list` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

WIDTHS = {"slowfast": 18, "clip": 6}


@pytest.fixture
def peers(tmp_path) -> Path:
    """Features and annotations as the Moment-DETR family lays them out: 6 videos of 20 s, 2 sentences each."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "peers"
    records: dict[str, list[dict]] = {"train": [], "val": []}
    for name in ("annotations", "slowfast_features", "clip_features", "clip_text_features"):
        (folder / name).mkdir(parents=True)
    for i in range(6):
        vid = f"v{i}"
        for stream, width in WIDTHS.items():
            np.savez(folder / f"{stream}_features" / f"{vid}.npz", features=rng.normal(size=(10, width)))
        for qid in (2 * i, 2 * i + 1):
            np.savez(folder / "clip_text_features" / f"qid{qid}.npz", last_hidden_state=rng.normal(size=(5, 4)))
            record = {"qid": qid, "vid": vid, "query": f"event {qid}", "duration": 20, "relevant_windows": [[2, 8]]}
            records["train" if i < 4 else "val"].append(record)
    for split, lines in records.items():
        path = folder / "annotations" / f"{split}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in lines))
    return folder


def arguments(peers: Path, out: Path) -> list[object]:
    return [
        "store", "import", "own", "--annotations", peers / "annotations", "--out", out, "--clip-seconds", 2,
        "--video-features", peers / "slowfast_features", "--video-features", peers / "clip_features",
        "--text-features", peers / "clip_text_features",
    ]  # fmt: skip


def test_features_of_others_train_and_evaluate_at_once(rdmf, peers, tmp_path):
    ran = rdmf(*arguments(peers, tmp_path / "features"))
    assert ran.code == 0, ran.err
    assert "6 imported" in ran.out
    assert "12 imported" in ran.out
    run = tmp_path / "run"
    small = ["--set", "training.epochs=1", "--set", "model.hidden=16", "--set", "model.moment.queries=5"]
    trained = rdmf("train", "--features", tmp_path / "features", "--out", run, *small)
    assert trained.code == 0, trained.err
    tree = json.loads(rdmf("evaluate", "--run", run, "--split", "val", "--json", "-").out)
    assert tree["rdmf"]["counts"]["queries"] == 4
    assert [name.rsplit("-", 1)[0] for name in tree["rdmf"]["features"]] == ["slowfast_clip", "clip_text"]
    assert "6 there already" in rdmf(*arguments(peers, tmp_path / "features")).out


def test_what_is_odd_is_listed_and_ends_with_1_unless_allowed(rdmf, peers, tmp_path):
    def write(name: str, rows: int) -> None:
        np.savez(peers / "clip_features" / name, features=np.ones((rows, WIDTHS["clip"])))
        np.savez(peers / "slowfast_features" / name, features=np.ones((rows, WIDTHS["slowfast"])))

    write("v0.npz", 40)
    write("v1.npz", 11)
    write("v2.npz", 9)
    write("stranger.npz", 10)
    (peers / "clip_features" / "v3.npz").unlink()
    (peers / "clip_text_features" / "qid5.npz").write_bytes(b"garbage")
    ran = rdmf(*arguments(peers, tmp_path / "features"))
    assert ran.code == 1
    for told in ("v0: extract: it has 40 rows, but 20 s by 2 s are 10", "v3: missing", "qid5.npz cannot be read",
                 "1 videos have 1 row more than their duration says (cut), such as v1",
                 "1 videos have 1 row less than their duration says (clips end early), such as v2",
                 "belong to nothing in the annotations: 1 + 1"):  # fmt: skip
        assert told in ran.out, told
    assert "--allow-missing" in ran.err
    assert rdmf(*arguments(peers, tmp_path / "features"), "--allow-missing").code == 0


def test_a_folder_without_text_is_said_and_completed_later(rdmf, peers, tmp_path):
    out = tmp_path / "features"
    first = rdmf(*arguments(peers, out)[:-2])
    assert first.code == 0
    assert "no text features yet" in first.err
    second = rdmf("store", "import", "own", "--out", out, "--text-features", peers / "clip_text_features")
    assert second.code == 0
    assert "manifest" in second.err
    assert "yet" not in second.err


@pytest.mark.parametrize(
    "missing",
    [["--video-features", "."], [], ["--text-features", ".", "--text-encoder", "bert_nano"], ["--combine", "add"],
     ["--text-features", ".", "--normalise", "some"], ["--row-tolerance", "-1", "--text-features", "."]],
)  # fmt: skip
def test_wrong_usage_of_import_is_exit_code_2(rdmf, missing):
    assert rdmf("store", "import", "own", *missing).code == 2


def test_export_and_import_give_the_same_values(rdmf, peers, tmp_path):
    features, out, again = tmp_path / "features", tmp_path / "out", tmp_path / "again"
    assert rdmf(*arguments(peers, features)).code == 0
    exported = rdmf("store", "export", features, "--out", out)
    assert exported.code == 0
    assert "6 items exported" in exported.out
    (video,), (text,) = (list((out / kind).iterdir()) for kind in ("video", "text"))
    back = rdmf("store", "import", "own", "--annotations", peers / "annotations", "--out", again, "--clip-seconds", 2,
                "--video-features", video, "--text-features", text, "--normalise", "none")  # fmt: skip
    assert back.code == 0, back.err
    assert rdmf("store", "diff", features, again, "--values").code == 0
    differ = rdmf("store", "diff", features, again)
    assert differ.code == 1
    assert "preprocessing.normalisation" in differ.out
    assert rdmf("store", "export", features, "--out", out).code == 1  # never over what is there
    one = next((features / "video").iterdir())
    assert rdmf("store", "export", one, "--format", "parquet", "--out", tmp_path / "table").code == 0
    assert pq.read_table(tmp_path / "table" / f"{one.name}.parquet").num_rows == 60


def test_diff_says_how_stores_differ_and_its_exit_code_says_whether(rdmf, peers, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    assert rdmf(*arguments(peers, a)).code == 0
    same = rdmf("store", "diff", a, a, "--json", "-")
    assert same.code == 0
    assert json.loads(same.out)["same"] is True
    rng = np.random.default_rng(0)
    np.savez(peers / "clip_features" / "v4.npz", features=rng.normal(size=(9, WIDTHS["clip"])))
    (peers / "clip_features" / "v5.npz").unlink()
    assert rdmf(*arguments(peers, b), "--allow-missing").code == 0
    ran = rdmf("store", "diff", a, b, "--json", tmp_path / "diff.json")
    assert ran.code == 1
    for told in ("5 items in both, 4 of them identical", "1 only in A: v5", "cosine per row", "10 / 9", "they differ"):
        assert told in ran.out, told
    tree = json.loads((tmp_path / "diff.json").read_text())
    assert tree["same"] is False
    (video,) = (store for store in tree["stores"] if store["kind"] == "video")
    assert [item["id"] for item in video["worst"]] == ["v4"]
    assert video["cosine_min"] < 0.99
    nothing = rdmf("store", "diff", a, tmp_path)
    assert nothing.code == 1
    assert nothing.err.startswith("rdmf: ")


def test_list_shows_what_made_the_features(rdmf, peers, tmp_path):
    assert rdmf(*arguments(peers, tmp_path / "features")).code == 0
    ran = rdmf("store", "list", tmp_path / "features", "--json", tmp_path / "list.json")
    assert ran.code == 0
    for told in ("2 s", "24", "18, 6; L2 of each", "imported from"):
        assert told in " ".join(ran.out.split()), told
    stores = {store["kind"]: store for store in json.loads((tmp_path / "list.json").read_text())}
    spec = stores["video"]["spec"]
    assert (spec["dim"], spec["clip_seconds"], spec["weights"]["random"]) == (24, 2.0, False)
    assert spec["weights"]["sha256"][:12] in ran.out
    assert stores["text"]["spec"]["encoder"] == "clip_text"


def test_a_store_that_cannot_be_used_is_named_beside_those_that_can(rdmf, tmp_path):
    folder = tmp_path / "video" / "old-0123456789ab"
    folder.mkdir(parents=True)
    (folder / "store.json").write_text('{"format_version": 1}')
    ran = rdmf("store", "list", tmp_path)
    assert ran.code == 1
    assert "expected a store of format version 2" in ran.err
    assert "1 of 1 stores cannot be used" in ran.err
