"""A frozen BERT: one feature vector per token of a sentence.

The features are the last hidden state at the tokens of the sentence itself; those that the model adds around
it ([CLS], [SEP]) are computed and left out. The model comes from a local folder or from the Hugging Face hub,
never with code of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from .weights import WeightsError, sha256_of

MAX_TOKENS = 128
"""Tokens the model reads of a sentence, its own included; the rest of a longer sentence is cut off."""
BATCH = 16
"""Sentences computed at once, all of one length."""
HUB_TIMEOUT_S = 15.0
NEEDED = "config.json, model.safetensors, and tokenizer.json or vocab.txt"


class HubFiles(NamedTuple):
    """What rdmf takes of a model's repository on the Hugging Face hub, and how it speaks of it."""

    model: str
    needed: str
    """The files without which it cannot be used, in words."""
    patterns: tuple[str, ...]
    """The files that are downloaded, beside the configuration and the weights."""
    option: str
    """How a user gives a local folder of it."""


BERT = HubFiles(
    model="text encoder",
    needed=NEEDED,
    patterns=("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    option="--text-encoder FOLDER",
)
MODEL_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json")


class TextDescription(NamedTuple):
    """What a text encoder is, known without building it."""

    spec: dict[str, Any]
    """What goes into store.json: encoder, weights {source, sha256, random}, preprocessing."""
    dim: int
    folder: Path
    """Where its files lie on this machine."""


class TextEncoder:
    """Sentences to token features. Raises WeightsError where the files are not a whole BERT-like model."""

    def __init__(self, description: TextDescription, device: torch.device) -> None:
        self.spec, self.dim, folder = description
        self.name: str = self.spec["encoder"]
        self.max_tokens: int = self.spec["preprocessing"]["max_tokens"]
        self.device = device
        transformers = import_transformers()
        only_local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            with quiet(transformers):
                self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **only_local)
                config = transformers.AutoConfig.from_pretrained(folder, **only_local)
                config._attn_implementation = None  # a file may ask for a kernel from the hub, which is code
                model, loaded = transformers.AutoModel.from_pretrained(
                    folder, config=config, use_safetensors=True, output_loading_info=True, **only_local
                )
        except Exception as error:  # its own errors have no common base
            reason = str(error).strip().split("\n")[0][:200]
            raise WeightsError(
                f"cannot load the text encoder in {folder} ({reason}): expected a whole BERT-like model "
                f"({NEEDED}); download or copy it again"
            ) from error
        # transformers fills what a file lacks with random numbers. The pooler alone is not needed here.
        missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise WeightsError(f"the weights in {folder} lack {', '.join(missing[:3])}: download or copy it again")
        if model.config.is_encoder_decoder or model.config.hidden_size != self.dim:
            raise WeightsError(f"expected a BERT-like encoder in {folder}, got {type(model).__name__}")
        self.tokenizer.truncation_side = "right"
        self.model = model.float().to(device).eval().requires_grad_(False)

    def encode(self, sentences: list[str]) -> list[np.ndarray]:
        """float32 [tokens_i, dim] for each sentence, in their order.

        Raises ValueError for a sentence without a token.
        """
        if not sentences:
            return []
        tokens = self.tokenizer(
            sentences,
            truncation=True,
            max_length=self.max_tokens,
            padding=False,
            return_special_tokens_mask=True,
        )
        features: list[np.ndarray] = [np.empty(0)] * len(sentences)
        by_length: dict[int, list[int]] = {}
        for i, ids in enumerate(tokens["input_ids"]):
            if all(tokens["special_tokens_mask"][i]):
                raise ValueError(f"expected a sentence of at least one word, got {sentences[i]!r}")
            by_length.setdefault(len(ids), []).append(i)
        for same_length in by_length.values():
            for start in range(0, len(same_length), BATCH):
                group = same_length[start : start + BATCH]
                hidden = self.last_hidden([tokens["input_ids"][i] for i in group])
                for row, i in zip(hidden, group, strict=True):
                    features[i] = row[~np.array(tokens["special_tokens_mask"][i], bool)]
        return features

    def last_hidden(self, ids: list[list[int]]) -> np.ndarray:
        """Token ids of up to BATCH sentences of one length -> float32 [sentences, length, dim].

        Always computed as BATCH rows, the last sentence repeated: rounding depends on the shape, and the features
        of a sentence must not depend on its company.
        """
        rows = torch.tensor(ids + ids[-1:] * (BATCH - len(ids)), device=self.device)
        with torch.inference_mode():
            out = self.model(input_ids=rows, attention_mask=torch.ones_like(rows))
        return out.last_hidden_state[: len(ids)].cpu().numpy()


def describe_bert(folder: Path, name: str, source: str) -> TextDescription:
    """Read what the model in `folder` is and hash its weights. Raises WeightsError where a file is absent."""
    weights = sorted(folder.glob("model*.safetensors"))
    vocabulary = next((file for n in ("tokenizer.json", "vocab.txt") if (file := folder / n).is_file()), None)
    if not (folder / "config.json").is_file() or not weights or vocabulary is None:
        raise WeightsError(f"expected a text encoder in {folder}: {NEEDED}")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        dim = int(config["hidden_size"] if "hidden_size" in config else config["dim"])
        max_tokens = min(MAX_TOKENS, int(config.get("max_position_embeddings", MAX_TOKENS)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"expected the config.json of a BERT-like model in {folder}: {error!r}") from error
    preprocessing = {
        "tokenizer_sha256": sha256_of([vocabulary]),
        "max_tokens": max_tokens,
        "cut": "end",
        "special_tokens": "read, not stored",
        "layer": "last",
    }
    identity = {"source": source, "sha256": sha256_of(weights), "random": False}
    return TextDescription({"encoder": name, "weights": identity, "preprocessing": preprocessing}, dim, folder)


def find_bert(name: str) -> Path:
    """The folder of a text encoder, see `find_model`."""
    return find_model(name, BERT)


def find_model(name: str, wanted: HubFiles) -> Path:
    """The folder of a model: `name` itself, or the hub's files, from its cache or downloaded to it.

    Raises WeightsError, saying how to get them without a network.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise WeightsError(f"expected a {wanted.model}'s folder ({wanted.needed}), found none at {name}")

    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError

    def snapshot(cached: bool) -> Path:
        limits: dict[str, Any] = {
            "allow_patterns": [*MODEL_FILES, *wanted.patterns],
            "etag_timeout": HUB_TIMEOUT_S,
        }
        return Path(snapshot_download(name, local_files_only=cached, **limits))

    with contextlib.suppress(OSError, HFValidationError):
        cached = snapshot(cached=True)
        if any(cached.glob("model*.safetensors")) and any(any(cached.glob(p)) for p in wanted.patterns):
            return cached
    try:
        # Ask first: this call alone has a time limit where the network swallows packets.
        HfApi().model_info(name, timeout=HUB_TIMEOUT_S)
        return snapshot(cached=False)
    except Exception as error:  # the hub's errors have no common base
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise WeightsError(
            f"cannot get the {wanted.model} {name!r} from huggingface.co ({reason}): check its name, or run "
            f"`hf download {name} --local-dir FOLDER` on a machine with a network, copy FOLDER here, and "
            f"pass {wanted.option}; it needs {wanted.needed}"
        ) from error


def import_transformers() -> ModuleType:
    """transformers, which takes seconds to import.

    It imports torchvision where it finds one, and one built for another torch then keeps every model from
    loading. Nothing here needs torchvision, so a broken one is hidden.
    """
    if "torchvision" not in sys.modules:
        try:
            importlib.import_module("torchvision")
        except ModuleNotFoundError:
            pass
        except (ImportError, RuntimeError, OSError):
            sys.modules["torchvision"] = None  # type: ignore[assignment]
    import transformers

    return transformers


@contextlib.contextmanager
def quiet(transformers: ModuleType) -> Iterator[None]:
    """No progress bars and no report of unused weights while a model loads; its verbosity is put back."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
