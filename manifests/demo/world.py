"""What happens in a demo video: scenes that change, and objects that come, act and go.

A `Script` is pure data drawn from a seed; `pose` says where an object is at a time. Positions and sizes are fractions
of the canvas, times are seconds. Everything later (pixels, sentences, true windows, saliency) is read off the script,
so the annotations are true by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "cross")
ACTIONS = ("left", "right", "up", "down", "grow", "shrink", "spin", "blink", "appear")
SCENES = ("night", "desert", "sea", "forest", "city", "snow")

DURATION_S = (20.0, 60.0)
FRAME_RATES = (10, 12, 15)
SCENE_FADE_S = 0.5  # a new scene is faded in over this time
OBJECT_FADE_S = 0.25
MOVES = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
SPIN_TURNS_PER_S = 0.4
BLINKS_PER_S = 1.5
GROWTH = 2.1
SHARED_TRAIT = 0.6  # how often a new object shares its colour or its shape with an earlier one


@dataclass(frozen=True, slots=True)
class Interval:
    start_s: float
    end_s: float

    def contains(self, time_s: float) -> bool:
        return self.start_s <= time_s < self.end_s

    def overlap_s(self, start_s: float, end_s: float) -> float:
        return max(0.0, min(self.end_s, end_s) - max(self.start_s, start_s))


@dataclass(frozen=True, slots=True)
class Scene:
    name: str
    when: Interval
    layout: int
    """Seed of the places of trees, houses, stars."""


@dataclass(frozen=True, slots=True)
class Track:
    """One object from its coming to its going, with at most one action."""

    colour: str
    shape: str
    when: Interval
    x: float
    y: float
    size: float
    """Radius before the action."""
    angle: float
    action: str | None = None
    act_when: Interval | None = None
    distance: float = 0.0
    """How far a move goes."""


@dataclass(frozen=True, slots=True)
class Script:
    duration_s: float
    fps: int
    scenes: tuple[Scene, ...]
    tracks: tuple[Track, ...]
    """In drawing order."""


@dataclass(frozen=True, slots=True)
class Pose:
    x: float
    y: float
    size: float
    angle: float
    opacity: float


def pose(track: Track, time_s: float) -> Pose | None:
    """Where the object is and how it looks at `time_s`; None when it is not there."""
    if not track.when.contains(time_s):
        return None
    x, y, size, angle = track.x, track.y, track.size, track.angle
    since, left = time_s - track.when.start_s, track.when.end_s - time_s
    opacity = min(1.0, (since + 0.05) / OBJECT_FADE_S, (left + 0.05) / OBJECT_FADE_S)
    if track.action is not None and track.act_when is not None:
        length = track.act_when.end_s - track.act_when.start_s
        elapsed = min(max(time_s - track.act_when.start_s, 0.0), length)
        progress = elapsed / length
        if track.action in MOVES:
            dx, dy = MOVES[track.action]
            x, y = x + dx * track.distance * progress, y + dy * track.distance * progress
        elif track.action == "grow":
            size *= GROWTH**progress
        elif track.action == "shrink":
            size *= GROWTH**-progress
        elif track.action == "spin":
            angle += 2 * math.pi * SPIN_TURNS_PER_S * elapsed
        elif track.action == "blink" and 0 < elapsed < length and (elapsed * BLINKS_PER_S) % 1.0 >= 0.5:
            return None
        elif track.action == "appear":
            opacity = min(opacity, 0.08 + 0.92 * progress)
    return Pose(x, y, size, angle, opacity)


def bounds(track: Track) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) that the object never leaves."""
    size = track.size * (GROWTH if track.action == "grow" else 1.0)
    dx, dy = MOVES.get(track.action or "", (0.0, 0.0))
    xs, ys = (track.x, track.x + dx * track.distance), (track.y, track.y + dy * track.distance)
    return min(xs) - size, min(ys) - size, max(xs) + size, max(ys) + size


def write_script(rng: np.random.Generator) -> Script:
    """Draw the script of one video."""
    duration_s = round(float(rng.uniform(*DURATION_S)), 1)
    fps = int(rng.choice(FRAME_RATES))
    tracks: list[Track] = []
    wanted = round(duration_s / 3.2)
    for _ in range(wanted * 6):
        track = _draw_track(rng, duration_s, tracks)
        if not any(_collide(track, other) for other in tracks):
            tracks.append(track)
        if len(tracks) == wanted:
            break
    return Script(duration_s, fps, _draw_scenes(rng, duration_s), tuple(tracks))


def _draw_scenes(rng: np.random.Generator, duration_s: float) -> tuple[Scene, ...]:
    cuts, at = [0.0], 0.0
    while True:
        at += float(rng.uniform(4.0, 11.0))
        if at > duration_s - 4.0:
            break
        cuts.append(round(at, 1))
    cuts.append(duration_s)
    scenes: list[Scene] = []
    for start, end in pairwise(cuts):
        others = [s for s in SCENES if not scenes or s != scenes[-1].name]
        scenes.append(Scene(str(rng.choice(others)), Interval(start, end), int(rng.integers(1 << 30))))
    return tuple(scenes)


def _draw_track(rng: np.random.Generator, duration_s: float, earlier: list[Track]) -> Track:
    colour, shape = str(rng.choice(COLOURS)), str(rng.choice(SHAPES))
    if earlier and rng.random() < SHARED_TRAIT:  # distractors: the same colour, shape or object again
        other = earlier[int(rng.integers(len(earlier)))]
        which = rng.integers(3)
        colour = other.colour if which != 1 else colour
        shape = other.shape if which != 0 else shape
    length = min(float(rng.uniform(4.0, 13.0)), duration_s - 1.0)
    start = round(float(rng.uniform(0.0, duration_s - length)), 1)
    end = round(start + length, 1)
    size = float(rng.uniform(0.12, 0.19))
    action, act_when, distance = None, None, 0.0
    if rng.random() < 0.65:
        action = str(rng.choice([a for a in ACTIONS if not (a == "spin" and shape == "circle")]))
        act_length = min(float(rng.uniform(2.5, 5.5)), end - start - 1.2)
        act_start = start if action == "appear" else float(rng.uniform(start + 0.5, end - 0.5 - act_length))
        act_when = Interval(round(act_start, 1), round(act_start + act_length, 1))
        distance = float(rng.uniform(0.45, 0.62)) if action in MOVES else 0.0
        size = size * 0.6 if action == "grow" else max(size, 0.17) if action == "shrink" else size
    reach = size * (GROWTH if action == "grow" else 1.0) + 0.01
    dx, dy = MOVES.get(action or "", (0.0, 0.0))
    distance = min(distance, 0.99 - 2 * reach)
    x = rng.uniform(reach + max(0.0, -dx) * distance, 1 - reach - max(0.0, dx) * distance)
    y = rng.uniform(reach + max(0.0, -dy) * distance, 1 - reach - max(0.0, dy) * distance)
    return Track(
        colour,
        shape,
        Interval(start, end),
        float(x),
        float(y),
        size,
        float(rng.uniform(-0.3, 0.3)),
        action,
        act_when,
        distance,
    )


def _collide(a: Track, b: Track) -> bool:
    """Whether two objects would cover each other, or be the same object twice at once."""
    if a.when.overlap_s(b.when.start_s - 0.5, b.when.end_s + 0.5) == 0:
        return False
    if (a.colour, a.shape) == (b.colour, b.shape):
        return True
    al, at, ar, ab = bounds(a)
    bl, bt, br, bb = bounds(b)
    return min(ar, br) > max(al, bl) and min(ab, bb) > max(at, bt)
