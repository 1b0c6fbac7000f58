"""Frozen video encoders of the transformers library: `hf:` and a local folder, or an id of the Hugging Face hub.

| model       | frames       | over                                  | the vector of a clip                         |
|-------------|--------------|---------------------------------------|----------------------------------------------|
| VideoMAE    | 16           | 2.13 s: every 4th at 30 frames/s      | mean of the tokens, then fc_norm if it has it|
| TimeSformer | 8, 16 or 96  | 8.53 s: every 32nd, 16th; 12.8 s: 4th | [CLS] token                                  |
| ViViT       | 32           | 2.56 s: every 2nd at 25 frames/s      | [CLS] token                                  |
| V-JEPA 2    | 64; 32 or 16 | 4.27 s: every 2nd; 2.13 s: 2nd, 4th   | mean of the encoder's tokens                 |
| X-CLIP      | 8, 16 or 32  | 2.13 s                                | video embedding (frames integrated)          |
| CLIP        | 4            | 2 s                                   | mean of the frames' projected embeddings     |

The number of frames is the checkpoint's own, and they are as far apart as in the training on Kinetics that was
published with the model. Two are denser than their training, to tell clips of one or two seconds apart: X-CLIP spreads
its frames over a whole video of 10 s, V-JEPA 2 was pretrained at 4 frames/s. No vector is scaled to a length of 1.

Pixels are made as the checkpoint's processor says (crop, rescaling, mean, standard deviation: hf_processor.py). Only
the resizing is that of all encoders here (clips.py): bilinear with antialias, also where the processor is bicubic.
Models are those that transformers itself has, never code of a repository, and weights are safetensors alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from .bert import HubFiles, find_model, import_transformers, quiet
from .clips import PREPROCESSING
from .encoders import HUB, HUB_PREFIX
from .hf_processor import PROCESSOR_FILES, Pixels, read_json, read_processor
from .video_encoder import ClipSampling, VideoDescription, VideoEncoder
from .weights import WeightsError, sha256_of

FILES = HubFiles(
    model="video encoder",
    needed="config.json, model.safetensors and preprocessor_config.json",
    patterns=PROCESSOR_FILES,
    option=f"--video-encoder {HUB_PREFIX}FOLDER",
)
CLIP_FRAMES = 4
MOST_FRAMES = 1024
"""Of a clip, that a checkpoint may ask for."""


@dataclass(frozen=True)
class Family:
    """How one type of model is loaded, fed and read. C: side of its picture."""

    architecture: str
    """Its class in transformers."""
    needs: Callable[[Any], tuple[int, Any, int]]
    """Configuration -> frames of a clip, C (a number, or a pair of equal ones), width of the vector."""
    span_s: Callable[[int], float]
    """Frames of a clip -> seconds that they are spread over."""
    pooling: str
    vector: Callable[[Any, Tensor], Tensor]
    """Model, pixels float32 [B, F, 3, C, C] -> [B, dim]."""
    spare: tuple[str, ...] = ()
    """How the names of weights begin that the vector does not need: a checkpoint may lack them."""


def clip_vector(model: Any, pixels: Tensor) -> Tensor:
    """The mean over its frames of CLIP's image embeddings."""
    embeddings = model(pixels.flatten(0, 1)).image_embeds  # [B F, dim]
    return embeddings.unflatten(0, pixels.shape[:2]).mean(1)


FAMILIES: dict[str, Family] = {
    "videomae": Family(
        "VideoMAEModel",
        lambda config: (config.num_frames, config.image_size, config.hidden_size),
        lambda frames: frames * 4 / 30,
        "mean of the tokens",
        lambda model, pixels: model(pixels).last_hidden_state.mean(1),
    ),
    "timesformer": Family(
        "TimesformerModel",
        lambda config: (config.num_frames, config.image_size, config.hidden_size),
        lambda frames: frames * {8: 32, 16: 16, 96: 4}.get(frames, 256 / frames) / 30,
        "[CLS] token",
        lambda model, pixels: model(pixels).last_hidden_state[:, 0],
    ),
    "vivit": Family(
        "VivitModel",
        lambda config: (config.num_frames, config.image_size, config.hidden_size),
        lambda frames: frames * 2 / 25,
        "[CLS] token",
        lambda model, pixels: model(pixels).last_hidden_state[:, 0],
        spare=("pooler.",),
    ),
    "vjepa2": Family(
        "VJEPA2Model",
        lambda config: (config.frames_per_clip, config.crop_size, config.hidden_size),
        lambda frames: frames * (2 if frames >= 32 else 4) / 30,
        "mean of the tokens",
        lambda model, pixels: model.get_vision_features(pixels).mean(1),
        spare=("predictor.",),
    ),
    "xclip": Family(
        "XCLIPModel",
        lambda config: (config.vision_config.num_frames, config.vision_config.image_size, config.projection_dim),
        lambda frames: 64 / 30,
        "video embedding",
        lambda model, pixels: model.get_video_features(pixels).pooler_output,
        spare=("text_model.", "text_projection.", "prompts_", "logit_scale"),
    ),
    "clip": Family(
        "CLIPVisionModelWithProjection",
        lambda config: (CLIP_FRAMES, config.vision_config.image_size, config.projection_dim),
        lambda frames: 2.0,
        "mean of the frames' embeddings",
        clip_vector,
    ),
}
VIDEOMAE_FINETUNED = replace(
    FAMILIES["videomae"],
    architecture="VideoMAEForVideoClassification",
    pooling="mean of the tokens, fc_norm",
    vector=lambda model, pixels: model.fc_norm(model.videomae(pixels).last_hidden_state.mean(1)),
    spare=("classifier.",),
)
"""A VideoMAE that was trained to classify has its last LayerNorm after the mean, and none before it."""


class Checkpoint(NamedTuple):
    """A model in a folder, known without its weights."""

    description: VideoDescription
    folder: Path
    family: Family
    config: Any
    pixels: Pixels


class HubVideoEncoder(VideoEncoder):
    """A frozen video model of transformers. Raises WeightsError where its weights are not whole."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        super().__init__(checkpoint.description, load_model(checkpoint), device)
        self.vector = checkpoint.family.vector
        self.pixels = checkpoint.pixels

    def vectors(self, clips: Tensor) -> Tensor:
        return self.vector(self.model, self.pixels.prepare(clips).to(self.dtype))


def load_model(checkpoint: Checkpoint) -> Any:
    """The model with all the weights that its vector needs, in float32. Raises WeightsError where one is not there."""
    transformers = import_transformers()
    config = checkpoint.config
    if checkpoint.family.architecture == "CLIPVisionModelWithProjection":
        config = config.vision_config
        config.projection_dim = checkpoint.config.projection_dim  # which alone counts; some checkpoints differ
    try:
        with quiet(transformers):
            model, loaded = getattr(transformers, checkpoint.family.architecture).from_pretrained(
                checkpoint.folder, config=config, use_safetensors=True, output_loading_info=True, local_files_only=True
            )
    except Exception as error:  # its own errors have no common base
        reason = str(error).strip().split("\n")[0][:200]
        raise WeightsError(
            f"cannot load the video encoder in {checkpoint.folder} ({reason}): expected whole weights of a model "
            f"that its config.json describes; download or copy it again"
        ) from error
    # transformers fills what a file lacks with random numbers
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith(checkpoint.family.spare))
    if missing:
        raise WeightsError(
            f"the weights in {checkpoint.folder} lack {', '.join(missing[:3])}: download or copy it again"
        )
    return model.float()


def find_checkpoint(name: str, place: str | None = None) -> Checkpoint:
    """The checkpoint `hf:<folder or hub id>`; its files are in the folder `place` if that is given.

    Raises WeightsError where it is not there, lacks a file, or is of a type that is not in FAMILIES.
    """
    where = place or name.removeprefix(HUB_PREFIX)
    if where == "random":
        raise ValueError(f"expected the folder of a model for {name}: only rdmf's own encoders have random weights")
    if not Path(where).expanduser().is_dir() and "/" not in where:
        raise WeightsError(
            f"expected {HUB_PREFIX}FOLDER or {HUB_PREFIX}OWNER/NAME, found no folder {where!r}; what was made with a "
            f"local folder needs it again, as --video-weights FOLDER"
        )
    folder = find_model(where, FILES)
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        raise WeightsError(
            f"expected a video encoder in {folder}: {FILES.needed}; weights of another form, such as "
            f"pytorch_model.bin, become safetensors where transformers loads and saves the model"
        )
    config, family = read_config(folder, weights)
    frames, side, dim = family.needs(config)
    pixels = read_processor(folder, config.model_type)
    if side not in (pixels.crop, [pixels.crop] * 2, (pixels.crop, pixels.crop)) or not 1 <= frames <= MOST_FRAMES:
        raise WeightsError(
            f"the files in {folder} contradict each other: the model takes {frames} pictures of {side} pixels a "
            f"side, its processor makes them {pixels.crop}; download or copy it again"
        )
    encoder = Path(name.removeprefix(HUB_PREFIX)).expanduser().absolute().name
    local = folder == Path(where).expanduser()
    sampling = ClipSampling(frames, family.span_s(frames), pixels.size)
    spec = {
        "encoder": HUB_PREFIX + encoder,
        "weights": {
            "source": f"local folder {folder.absolute().name}" if local else f"{HUB}{where}",
            "sha256": sha256_of(weights),
            "random": False,
        },
        "preprocessing": {
            **asdict(sampling),
            **PREPROCESSING,
            "model_type": config.model_type,
            "model_crop": pixels.crop,
            "pixel_scale": pixels.scale,
            "pixel_offset": pixels.offset,
            "pixel_mean": list(pixels.mean),
            "pixel_std": list(pixels.std),
            "pooling": family.pooling,
        },
    }
    return Checkpoint(VideoDescription(spec, dim, sampling), folder, family, config, pixels)


def read_config(folder: Path, weights: list[Path]) -> tuple[Any, Family]:
    """The model's configuration, and how to treat it. Raises WeightsError unless it is of a type in FAMILIES."""
    model_type = str(read_json(folder / "config.json").get("model_type"))
    if model_type not in FAMILIES:
        raise WeightsError(f"expected a model of type {', '.join(FAMILIES)} in {folder}, got {model_type!r}")
    try:
        transformers = import_transformers()
        with quiet(transformers):
            config = transformers.CONFIG_MAPPING[model_type].from_pretrained(folder, local_files_only=True)
        config._attn_implementation = None  # a file may ask for a kernel from the hub, which is code
        names: set[str] = set()
        for file in weights:
            with safe_open(file, "pt") as opened:
                names.update(opened.keys())
    except Exception as error:  # its own errors have no common base
        reason = str(error).strip().split("\n")[0][:200]
        raise WeightsError(f"cannot read the model in {folder} ({reason}); download or copy it again") from error
    if model_type == "videomae" and config.use_mean_pooling and "fc_norm.weight" in names:
        return config, VIDEOMAE_FINETUNED
    return config, FAMILIES[model_type]
