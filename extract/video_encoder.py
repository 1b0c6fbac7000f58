"""A frozen video encoder at work: in blocks of one shape, at a precision, compiled where that pays.

B clips, F frames, S x S pixels.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
"""What weights and activations are kept in; 'tf32' multiplies matrices of float32 at 10 bits, on CUDA alone."""

PIXELS_AT_ONCE = {"cpu": 16 * 8 * 64 * 64, "cuda": 16 * 32 * 224 * 224}
"""Pixels of a block: 16 clips of the smallest encoder, and one of any other, on the CPU, where more are no faster;
16 clips of Video Swin on a GPU."""


@dataclass(frozen=True)
class ClipSampling:
    """The frames an encoder sees of one clip."""

    frames: int
    span_s: float
    """Seconds from which the frames are taken evenly, around the clip's centre."""
    size: int
    """Rows and columns: the short side is resized to it and the centre cut out."""


class VideoDescription(NamedTuple):
    """What a video encoder is, known without building it."""

    spec: dict[str, Any]
    """What goes into store.json: encoder, weights {source, sha256, random} and, unless it is fp32, the precision
    that they are computed with, preprocessing."""
    dim: int
    sampling: ClipSampling

    @property
    def precision(self) -> str:
        """Key of PRECISIONS."""
        return self.spec["weights"].get("precision", "fp32")

    def at(self, precision: str, device: torch.device) -> VideoDescription:
        """The same encoder at another precision; 'auto' is bf16 on CUDA and fp32 elsewhere.

        The features differ in their third digit, so they are another store's. Raises ValueError for a precision that
        does not exist, or not on that device.
        """
        if precision == "auto":
            precision = "bf16" if device.type == "cuda" else "fp32"
        if precision not in PRECISIONS:
            raise ValueError(f"expected a precision out of auto, {', '.join(PRECISIONS)}, got {precision!r}")
        if precision == "tf32" and device.type != "cuda":
            raise ValueError(f"{device.type} cannot compute at precision tf32, only CUDA can: pass fp32 or bf16")
        weights = {key: value for key, value in self.spec["weights"].items() if key != "precision"}
        if precision != "fp32":
            weights["precision"] = precision
        return self._replace(spec={**self.spec, "weights": weights})


class VideoEncoder(ABC):
    """A frozen encoder of clips; what it computes is a subclass's `vectors`. Made by `load_video_encoder`.

    It computes `batch` clips at a time, always: rounding depends on the shape, and the features of a clip must not
    depend on its company.
    """

    compiles = False
    """Whether `vectors` goes through torch.compile on CUDA."""

    def __init__(self, description: VideoDescription, model: Any, device: torch.device) -> None:
        self.spec, self.dim, self.sampling = description
        self.name: str = self.spec["encoder"]
        self.precision = description.precision
        self.dtype = PRECISIONS[self.precision]
        self.device = device
        pixels = PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE["cpu"])
        self.batch = max(1, pixels // (self.sampling.frames * self.sampling.size**2))
        self.model = model.to(device, self.dtype).eval().requires_grad_(False)

    @abstractmethod
    def vectors(self, clips: Tensor) -> Tensor:
        """uint8 RGB [batch, F, S, S, 3] on the device -> [batch, dim]."""

    def encode(self, clips: np.ndarray) -> np.ndarray:
        """uint8 RGB [B, F, S, S, 3] -> float32 [B, dim]. Raises ValueError for anything else."""
        shape = (self.sampling.frames, self.sampling.size, self.sampling.size, 3)
        if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[1:] != shape:
            raise ValueError(f"{self.name} expects uint8 clips [B, {shape}], got {clips.dtype} {clips.shape}")
        if not len(clips):
            return np.zeros((0, self.dim), np.float32)
        with torch.inference_mode(), matrix_precision(self.precision):
            vectors = torch.cat([self._run(self._on_device(block)) for block in blocks(clips, self.batch)])
            return vectors[: len(clips)].float().cpu().numpy()

    def _on_device(self, block: np.ndarray) -> Tensor:
        clips = torch.from_numpy(block)
        # from pinned memory the copy is asynchronous; it is given out again when the copy is over
        pinned = clips.pin_memory() if self.device.type == "cuda" else clips
        return pinned.to(self.device, non_blocking=True)

    @cached_property
    def _run(self) -> Callable[[Tensor], Tensor]:
        if not (self.compiles and self.device.type == "cuda"):
            return self.vectors
        side = self.sampling.size
        example = torch.zeros(self.batch, self.sampling.frames, side, side, 3, dtype=torch.uint8, device=self.device)
        return compiled(self.vectors, example)


def blocks(clips: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Exactly `batch` clips at a time; the last one is repeated where they run out."""
    for start in range(0, len(clips), batch):
        yield clips[np.arange(start, start + batch).clip(max=len(clips) - 1)]


def compiled(function: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """The function through torch.compile for inputs like the example; itself, with a warning, where that fails."""
    fast = torch.compile(function, dynamic=False)
    try:
        fast(example)
    except Exception as error:  # of the compiler, of the C compiler it calls, or of the driver
        reason = str(error).strip().split("\n")[0][:200]
        warnings.warn(f"torch.compile failed ({reason}): computing without it, which is slower", stacklevel=2)
        return function
    return fast


@contextmanager
def matrix_precision(precision: str) -> Iterator[None]:
    """Whether float32 matrices are multiplied at TF32 meanwhile. It is a setting of the whole process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
