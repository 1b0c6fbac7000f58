"""Weights of the encoders: downloaded, checked against their hash, read without running what is in them."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import tempfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20


class WeightsError(ValueError):
    """Weights that are missing, damaged, or of another model. The message says what to do."""


def cache_folder() -> Path:
    """Where downloads are kept: $RDMF_CACHE, or rdmf/weights in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("RDMF_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "rdmf" / "weights"


def sha256_of(files: Iterable[Path]) -> str:
    """The hash of a file or, of several, of their names and hashes. Raises WeightsError on a read error."""
    digests = []
    for file in files:
        try:
            with file.open("rb") as stream:
                digests.append((file.name, hashlib.file_digest(stream, "sha256").hexdigest()))
        except OSError as error:
            raise WeightsError(f"cannot read the weights {file}: {error.strerror or error}") from error
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in digests).encode()).hexdigest()


def published_prefix(url: str) -> str:
    """The first hex digits of the file's sha256, which its publisher put into its name."""
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", url)
    assert found, f"{url} does not carry a hash"
    return found[1]


def fetch(url: str) -> tuple[Path, str]:
    """The published file at `url` in the cache, downloaded where it is absent or damaged, and its sha256.

    Raises WeightsError, saying how to get the file by hand.
    """
    target = cache_folder() / url.rsplit("/", 1)[1]
    if target.is_file():
        found = sha256_of([target])
        if found.startswith(published_prefix(url)):
            return target, found
        log.warning("%s is damaged; downloading it again", target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return target, download(url, target)
    except (OSError, http.client.HTTPException, WeightsError) as error:
        raise WeightsError(
            f"cannot download {url} ({str(error) or type(error).__name__}): download it by hand on a machine "
            f"with a network, then pass it with --video-weights FILE, or put it at {target}"
        ) from error


def download(url: str, target: Path) -> str:
    """Write what is at `url` to `target`, which appears only when whole and with the hash in its name."""
    log.info("downloading %s to %s", url, target)
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".tmp-", delete=False) as part:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                while chunk := response.read(CHUNK_BYTES):
                    part.write(chunk)
                    digest.update(chunk)
            part.close()
            if not digest.hexdigest().startswith(published_prefix(url)):
                raise WeightsError(f"what came has sha256 {digest.hexdigest()[:8]}..., its name says another")
            os.replace(part.name, target)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
    return digest.hexdigest()


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file by name. Raises WeightsError where it holds none."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the readers
        reason = str(error).strip().split("\n")[0][:200]
        raise WeightsError(
            f"cannot read the weights {file} ({reason}): expected a whole .safetensors file, or a state dict "
            "saved by torch.save; download or copy it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"expected a state dict (name to tensor) in {file}: save model.state_dict() alone")
    return state


def load_state(model: nn.Module, state: dict[str, Tensor], ignore: tuple[str, ...], origin: str) -> None:
    """Copy `state` into `model`, cast to its types; names that end in one of `ignore` are left as they are.

    Raises WeightsError where names or shapes are not the model's, or a value is not finite.
    """
    own = {name: value for name, value in model.state_dict().items() if not name.endswith(ignore)}
    given = {name: value for name, value in state.items() if not name.endswith(ignore)}
    faults = {
        "lacks": sorted(own.keys() - given.keys()),
        "has besides": sorted(given.keys() - own.keys()),
        "has in another shape": sorted(n for n, v in own.items() if n in given and given[n].shape != v.shape),
        "has with values that are not finite": sorted(n for n, v in given.items() if not v.isfinite().all()),
    }
    told = [
        f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in faults.items()
        if names
    ]
    if told:
        raise WeightsError(f"{origin} does not fit this encoder: it {', '.join(told)}; pass the right file")
    model.load_state_dict(given, strict=False)
