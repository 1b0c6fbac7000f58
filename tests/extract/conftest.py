"""Videos for tests, made on the spot."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

SIDE = 64


def render(path: Path, seconds: float, seed: int = 0, rate: int = 12) -> Path:
    """Smooth noise that drifts: every picture is another one, every seed another video."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (9, 9, 3))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for i in range(round(seconds * rate)):
            picture = np.kron(np.roll(coarse, i, (0, 1)), np.ones((8, 8, 1)))[:SIDE, :SIDE].astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def short_videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six videos of 1 to 6 s, v0.mp4 to v5.mp4."""
    folder = tmp_path_factory.mktemp("short_videos")
    return [render(folder / f"v{i}.mp4", 1 + i * 0.9, seed=i) for i in range(6)]
