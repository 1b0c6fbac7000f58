"""The frozen encoders by name: what they are fed, which weights they use, and how to get one.

B clips, F frames, S x S pixels.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import captions
from .bert import TextDescription, TextEncoder, describe_bert, find_bert
from .clips import PREPROCESSING
from .layout import StoreSpec
from .video_encoder import ClipSampling, VideoDescription, VideoEncoder
from .video_swin import VARIANTS, VideoSwin
from .weights import WeightsError, fetch, load_state, published_prefix, read_state, sha256_of

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1]; what the published weights were trained with."""

HUB_PREFIX = "hf:"
"""Begins the name of a video model of transformers; a folder or an id of the Hugging Face hub ends it."""
HUB = "huggingface.co/"
"""Begins the recorded source of weights from there."""
RANDOM_SEED = 0
SHIPPED = Path(__file__).parent / "nano"


SWIN_SAMPLING = ClipSampling(frames=32, span_s=32 / 15, size=224)
"""Kinetics clips are 32 frames at 15 frames/s, so 2.13 s. The short side becomes 224, as in the paper's own
test configuration; torchvision's preset makes it 256 and cuts 224 out of it, so it sees an eighth less."""
NANO_SAMPLING = ClipSampling(frames=8, span_s=2.0, size=64)


@dataclass(frozen=True)
class SwinRecipe:
    """One entry of VIDEO_ENCODERS."""

    variant: str
    """Key of video_swin.VARIANTS."""
    sampling: ClipSampling
    published: str | None
    """Address of torchvision's Kinetics-400 weights; None where the weights ship with rdmf."""


TORCH_HUB = "https://download.pytorch.org/models"
VIDEO_ENCODERS: dict[str, SwinRecipe] = {
    "swin_t": SwinRecipe("t", SWIN_SAMPLING, f"{TORCH_HUB}/swin3d_t-7615ae03.pth"),
    "swin_s": SwinRecipe("s", SWIN_SAMPLING, f"{TORCH_HUB}/swin3d_s-da41c237.pth"),
    "swin_b": SwinRecipe("b", SWIN_SAMPLING, f"{TORCH_HUB}/swin3d_b_1k-24f7c7c6.pth"),
    "swin_nano": SwinRecipe("nano", NANO_SAMPLING, None),
}


def normalise(clips: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 RGB [B, F, S, S, 3] -> [B, 3, F, S, S], as VideoSwin takes it."""
    mean, std = (torch.tensor(value, device=clips.device) for value in (PIXEL_MEAN, PIXEL_STD))
    return clips.float().div_(255).sub_(mean).div_(std).to(dtype).permute(0, 4, 1, 2, 3)


class SwinEncoder(VideoEncoder):
    """A frozen Video Swin."""

    compiles = True

    def vectors(self, clips: Tensor) -> Tensor:
        return self.model(normalise(clips, self.dtype))


def load_video_encoder(
    name: str, weights: str | None = None, device: str = "cpu", precision: str = "auto"
) -> VideoEncoder:
    """The video encoder `name` with its published or shipped weights, those of a file, or 'random' ones.

    'hf:<folder or hub id>' is a model of transformers; `weights`, where given, is the folder it is in now.
    precision: see `VideoDescription.at`. Raises ValueError for a name, device or precision that does not exist,
    WeightsError for weights that cannot be had.
    """
    place = usable_device(device)
    if name.startswith(HUB_PREFIX):
        from .hf_video import HubVideoEncoder, find_checkpoint

        checkpoint = find_checkpoint(name, weights)
        return HubVideoEncoder(checkpoint._replace(description=checkpoint.description.at(precision, place)), place)
    description, file = resolve(name, weights)
    description = description.at(precision, place)
    model = VideoSwin(VARIANTS[VIDEO_ENCODERS[name].variant])
    if file is None:
        fill_randomly(model)
    else:
        # The head is for classes, not features; the index follows from the window.
        ignored = ("head.weight", "head.bias", ".relative_position_index")
        load_state(model, read_state(file), ignored, str(file))
    return SwinEncoder(description, model, place)


def describe_video_encoder(
    name: str, weights: str | None = None, device: str = "cpu", precision: str = "auto"
) -> VideoDescription:
    """What `load_video_encoder` would give, without building the model; published weights are downloaded."""
    if name.startswith(HUB_PREFIX):
        from .hf_video import find_checkpoint

        description = find_checkpoint(name, weights).description
    else:
        description, _ = resolve(name, weights)
    return description.at(precision, named_device(device))


def encoder_name(spec: StoreSpec) -> str:
    """The name that `load_video_encoder` knows the encoder of a store by. Raises ValueError where it knows none."""
    if spec.encoder in VIDEO_ENCODERS:
        return spec.encoder
    if spec.encoder.startswith(HUB_PREFIX):
        source = str(spec.weights.get("source", ""))
        return HUB_PREFIX + source.removeprefix(HUB) if source.startswith(HUB) else spec.encoder
    if spec.encoder.startswith(captions.RECORDED_PREFIX):
        raise ValueError(
            f"features named {spec.encoder} are of captions: what was trained on them expects captions of the video, "
            f"which a video file does not have"
        )
    known = ", ".join(VIDEO_ENCODERS)
    raise ValueError(
        f"features named {spec.encoder} are none that rdmf can compute from a video: it has {known} and "
        f"{HUB_PREFIX}<folder or hub id>"
    )


def resolve(name: str, weights: str | None) -> tuple[VideoDescription, Path | None]:
    """The description, and the file of the weights (None: random). Raises as `load_video_encoder` does."""
    if name.startswith(captions.PREFIX):
        raise ValueError(f"{name} encodes captions, not pictures: it is for `rdmf features` alone")
    if name not in VIDEO_ENCODERS:
        known = ", ".join(VIDEO_ENCODERS)
        raise ValueError(f"expected a video encoder out of {known} or {HUB_PREFIX}<folder or hub id>, got {name!r}")
    recipe = VIDEO_ENCODERS[name]
    file: Path | None = None
    source = "random"
    if weights == "random":
        sha256 = random_sha256(recipe.variant)
    elif weights is not None:
        file = Path(weights).expanduser()
        if not file.is_file():
            raise WeightsError(f"expected a file of weights for {name}, found none at {file}")
        sha256 = sha256_of([file])
        source = f"local file {file.name}"
        if recipe.published is not None:
            if sha256.startswith(published_prefix(recipe.published)):
                source = recipe.published
            elif recipe.published.endswith(f"/{file.name}"):
                raise WeightsError(f"{file} is damaged: its sha256 is not the one in its name; download it again")
    elif recipe.published is not None:
        file, sha256 = fetch(recipe.published)
        source = recipe.published
    else:
        file, source = SHIPPED / "video.safetensors", "shipped with rdmf"
        if not file.is_file():
            raise WeightsError(
                f"this installation lacks the weights of {name} at {file}: reinstall rdmf, or pass them with "
                "--video-weights FILE"
            )
        sha256 = sha256_of([file])
    spec = {
        "encoder": name,
        "weights": {"source": source, "sha256": sha256, "random": file is None},
        "preprocessing": {
            **asdict(recipe.sampling),
            **PREPROCESSING,
            "pixel_mean": list(PIXEL_MEAN),
            "pixel_std": list(PIXEL_STD),
        },
    }
    return VideoDescription(spec, VARIANTS[recipe.variant].dim, recipe.sampling), file


def fill_randomly(model: torch.nn.Module) -> str:
    """Draw every weight matrix anew, uniform with variance 1 / inputs; return the sha256 of all parameters.

    numpy's uniform numbers are the same bits on every machine, so all workers make the same features.
    """
    rng = np.random.default_rng(RANDOM_SEED)
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            bound = np.float32(math.sqrt(3 / math.prod(parameter.shape[1:])))
            drawn = (2 * rng.random(tuple(parameter.shape), dtype=np.float32) - 1) * bound
        else:
            is_scale = "norm" in name and name.endswith("weight")
            drawn = np.full(tuple(parameter.shape), float(is_scale), np.float32)
        parameter.data.copy_(torch.from_numpy(drawn))
        digest.update(name.encode() + drawn.tobytes())
    return digest.hexdigest()


@functools.lru_cache
def random_sha256(variant: str) -> str:
    return fill_randomly(VideoSwin(VARIANTS[variant]))


def load_text_encoder(name: str, device: str = "cpu") -> TextEncoder:
    """The BERT `name`: a local folder, an id of the Hugging Face hub, or 'bert_nano', which ships with rdmf.

    Raises ValueError for a device that does not exist, WeightsError for a model that cannot be had.
    """
    return TextEncoder(describe_text_encoder(name), usable_device(device))


def describe_text_encoder(name: str) -> TextDescription:
    """What `load_text_encoder` would give, without building the model; what a hub id names is downloaded."""
    if name == "bert_nano":
        if not (SHIPPED / "bert").is_dir():
            raise WeightsError(f"this installation lacks {name} at {SHIPPED / 'bert'}: reinstall rdmf")
        return describe_bert(SHIPPED / "bert", name, "shipped with rdmf")
    folder = find_bert(name)
    # The last part of a folder or hub id names the encoder: the same model is the same wherever it lies.
    encoder = Path(name).expanduser().absolute().name
    local = folder == Path(name).expanduser()
    return describe_bert(folder, encoder, f"local folder {encoder}" if local else f"{HUB}{name}")


def named_device(device: str) -> torch.device:
    """Raises ValueError where torch knows no such device."""
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"cannot compute on device {device!r} ({_first_line(error)}): pass cpu") from error


def usable_device(device: str) -> torch.device:
    """Raises ValueError where this torch cannot compute on it."""
    place = named_device(device)
    try:
        torch.empty(1, device=place).cpu()  # 'meta' makes tensors, and computes nothing
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ValueError(f"cannot compute on device {device!r} ({_first_line(error)}): pass cpu") from error
    return place


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
