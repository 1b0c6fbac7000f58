"""Draw a demo script and write it as an H.264 file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .world import SCENE_FADE_S, SCENES, Pose, Scene, Script, Track, pose

CANVAS = 128  # pixels, width and height
OVERSAMPLE = 2  # drawn larger and reduced: smooth edges

PAINT = {
    "red": (214, 40, 40),
    "green": (34, 160, 64),
    "blue": (40, 84, 220),
    "yellow": (246, 216, 40),
    "purple": (142, 52, 186),
    "orange": (244, 134, 24),
}
# sky and ground of each scene
GROUND = {
    "night": ((10, 12, 40), (24, 22, 48)),
    "desert": ((238, 206, 150), (214, 170, 104)),
    "sea": ((120, 190, 220), (20, 90, 130)),
    "forest": ((150, 190, 140), (40, 82, 44)),
    "city": ((168, 174, 184), (92, 94, 100)),
    "snow": ((206, 216, 228), (246, 248, 252)),
}


def frames(script: Script, times_s: np.ndarray) -> Iterator[np.ndarray]:
    """Draw the script at each time: uint8 [CANVAS, CANVAS, 3]."""
    for time_s in times_s:
        image = _background(script, float(time_s)).copy()
        for track in script.tracks:
            at = pose(track, float(time_s))
            if at is not None:
                _draw_object(image, track, at)
        yield np.asarray(image.reduce(OVERSAMPLE))


def write_video(script: Script, path: Path) -> None:
    """Write the whole script as H.264 in MP4, atomically. The frame at index n is on display from n / fps."""
    import av

    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=script.fps)
        stream.width = stream.height = CANVAS
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20", "threads": "1"}
        count = round(script.duration_s * script.fps)
        for drawn in frames(script, np.arange(count) / script.fps):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn, format="rgb24")))
        container.mux(stream.encode())
    os.replace(temporary, path)


def _background(script: Script, time_s: float) -> Image.Image:
    index = max(i for i, scene in enumerate(script.scenes) if scene.when.start_s <= max(time_s, 0.0))
    scene = script.scenes[index]
    image = _scene_image(scene)
    since = time_s - scene.when.start_s
    if index and since < SCENE_FADE_S:
        image = Image.blend(_scene_image(script.scenes[index - 1]), image, since / SCENE_FADE_S)
    return image


@lru_cache(maxsize=16)
def _scene_image(scene: Scene) -> Image.Image:
    rng = np.random.default_rng([scene.layout, SCENES.index(scene.name)])
    side = CANVAS * OVERSAMPLE
    horizon = int(side * rng.uniform(0.5, 0.7))
    sky, ground = (np.array(c, float) + rng.uniform(-12, 12, 3) for c in GROUND[scene.name])
    rows = np.where(np.arange(side)[:, None] < horizon, sky, ground)
    rows = rows + np.linspace(10, -10, side)[:, None]
    noise = rng.normal(0, 3, (side, side, 1))
    image = Image.fromarray(np.clip(rows[:, None, :] + noise, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    places = rng.uniform(0, side, (14, 2))
    if scene.name == "night":
        for x, y in places:
            draw.ellipse([x - 2, y * 0.6 - 2, x + 2, y * 0.6 + 2], fill=(226, 226, 200))
    elif scene.name == "desert":
        for x, _ in places[:5]:
            width = rng.uniform(40, 80)
            draw.ellipse([x - width, horizon - 14, x + width, horizon + 40], fill=(226, 186, 124))
    elif scene.name == "sea":
        for x, y in places:
            level = horizon + y * (side - horizon) / side
            draw.arc([x - 16, level - 5, x + 16, level + 5], 180, 360, fill=(150, 200, 220), width=2)
    elif scene.name == "forest":
        for x, y in places[:9]:
            foot = horizon + y * 0.2
            draw.rectangle([x - 3, foot - 34, x + 3, foot], fill=(84, 60, 40))
            draw.ellipse([x - 14, foot - 70, x + 14, foot - 26], fill=(52, 106, 58))
    elif scene.name == "city":
        for x, y in places[:8]:
            top = horizon - 24 - y * 0.3
            draw.rectangle([x - 15, top, x + 15, horizon], fill=(122, 126, 136), outline=(84, 86, 92))
    else:
        for x, y in places:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=(255, 255, 255))
    return image


def _outline(shape: str, at: Pose) -> list[tuple[float, float]]:
    """The corners of a shape in pixels of the drawn (larger) image."""
    side = CANVAS * OVERSAMPLE
    if shape == "square":
        polar = [(1.0, math.pi * (0.25 + 0.5 * k)) for k in range(4)]
    elif shape == "triangle":
        polar = [(1.0, -math.pi / 2 + 2 * math.pi * k / 3) for k in range(3)]
    elif shape == "star":
        polar = [(1.0 if k % 2 == 0 else 0.42, -math.pi / 2 + math.pi * k / 5) for k in range(10)]
    elif shape == "cross":
        arm = math.hypot(1.0, 0.34)
        lean = math.atan2(0.34, 1.0)
        polar = []
        for k in range(4):
            turn = math.pi / 2 * k
            polar += [(arm, turn - lean), (arm, turn + lean), (0.48, turn + math.pi / 4)]
    else:
        polar = [(0.95, 2 * math.pi * k / 24) for k in range(24)]
    return [
        (
            (at.x + at.size * r * math.cos(a + at.angle)) * side,
            (at.y + at.size * r * math.sin(a + at.angle)) * side,
        )
        for r, a in polar
    ]


def _draw_object(image: Image.Image, track: Track, at: Pose) -> None:
    corners = _outline(track.shape, at)
    if at.opacity >= 1.0:
        ImageDraw.Draw(image).polygon(corners, fill=PAINT[track.colour], outline=(16, 16, 16), width=3)
        return
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(corners, fill=round(255 * at.opacity))
    image.paste(PAINT[track.colour], mask=mask)
