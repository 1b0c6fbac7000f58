"""What the processor of a transformers checkpoint does to pixels, read from its JSON.

The processors themselves are not run: those of videos want torchvision, and frames arrive decoded, square and resized.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .weights import WeightsError

PROCESSOR_FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
"""Where the settings are, the first that has them; in the first of these under a key of their own."""
KNOWN = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_sample_frames")
LARGEST = 4096
"""Pixels of a side that a checkpoint may ask for."""


@dataclass(frozen=True)
class Pixels:
    """What a processor does to frames: short side to `size`, centre `crop`, (x scale + offset - mean) / std."""

    size: int
    crop: int
    scale: float
    offset: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def prepare(self, clips: Tensor) -> Tensor:
        """uint8 RGB [B, F, size, size, 3] -> float32 [B, F, 3, crop, crop]."""
        edge = (self.size - self.crop) // 2
        inner = clips[:, :, edge : edge + self.crop, edge : edge + self.crop]
        mean, std = (torch.tensor(value, device=clips.device) for value in (self.mean, self.std))
        return ((inner.float() * self.scale + self.offset - mean) / std).permute(0, 1, 4, 2, 3).contiguous()


def read_processor(folder: Path, model_type: str) -> Pixels:
    """The processor of the model in a folder. Raises WeightsError where it is not there, or does what is unknown."""
    for file in (folder / name for name in PROCESSOR_FILES):
        settings = read_json(file) if file.is_file() else {}
        if file.name == PROCESSOR_FILES[0]:
            settings = settings.get("video_processor") or settings.get("image_processor") or {}
        if settings:
            try:
                return parse_processor(settings, model_type)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise WeightsError(f"expected the settings of a video processor in {file}, got {error}") from None
    raise WeightsError(f"expected the settings of a video processor in {folder}: {' or '.join(PROCESSOR_FILES[1:])}")


def parse_processor(settings: dict[str, Any], model_type: str) -> Pixels:
    """Settings as transformers writes them; what they leave out is as in its processor for this type of model."""
    steps = {key: value for key, value in settings.items() if key.startswith("do_") and value is not None}
    unknown = [key for key, value in steps.items() if value and key not in KNOWN]
    if unknown or not steps.get("do_resize", True):
        raise ValueError(f"{unknown[0]}, which is not known here" if unknown else "do_resize off: frames of any size")
    size = crop = side_of(settings.get("size", settings.get("crop_size")))
    if steps.get("do_center_crop", True):
        crop = side_of(settings["crop_size"])
        if model_type == "vjepa2":
            size = int(crop * 256 / 224)  # its processor in transformers overrides its settings
    if crop > size:
        raise ValueError(f"a crop of {crop} pixels from {size}")
    scale, offset = 1.0, 0.0
    if steps.get("do_rescale", True):
        vivit = model_type == "vivit"
        scale = float(settings.get("rescale_factor") or (1 / 127.5 if vivit else 1 / 255))
        offset = -1.0 if settings.get("offset", vivit) else 0.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if steps.get("do_normalize", True):
        mean, std = colours(settings["image_mean"]), colours(settings["image_std"])
    if not all(map(math.isfinite, (scale, *mean, *std))) or min(std) <= 0:
        raise ValueError(f"mean {mean}, standard deviation {std}, rescale_factor {scale}")
    return Pixels(size, crop, scale, offset, mean, std)


def side_of(value: Any) -> int:
    """A size as transformers writes it, in pixels of the short side or of a square."""
    if isinstance(value, dict):
        sides = {value[key] for key in ("shortest_edge", "height", "width") if value.get(key) is not None}
        value = sides.pop() if len(sides) == 1 else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise ValueError(f"the size {value!r}, which is no square of 1 to {LARGEST} pixels")
    return value


def colours(value: Any) -> tuple[float, float, float]:
    """A number for each of red, green and blue, or one for all."""
    red, green, blue = [value] * 3 if isinstance(value, int | float) else value
    return float(red), float(green), float(blue)


def read_json(file: Path) -> dict[str, Any]:
    """Raises WeightsError unless the file holds a JSON object."""
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"cannot read {file} ({error}): download or copy it again") from None
    if not isinstance(values, dict):
        raise WeightsError(f"expected a JSON object in {file}: download or copy it again")
    return values
