"""Say in words what is asked for: actions, objects and scenes, each in many ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .world import Interval, Scene, Script, Track

COLOUR_WORDS = {
    "red": ("red", "red", "scarlet", "crimson"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "navy"),
    "yellow": ("yellow", "yellow", "golden"),
    "purple": ("purple", "purple", "violet"),
    "orange": ("orange", "orange", "amber"),
}
SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc", "ball"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle", "triangle", "wedge"),
    "star": ("star", "star"),
    "cross": ("cross", "cross", "plus sign"),
}
# {} is the object; the last form of each is a participle
ACTION_PHRASES = {
    "left": ("{} moves left", "{} slides to the left", "{} drifts leftward", "{} travelling left"),
    "right": ("{} moves right", "{} slides to the right", "{} drifts rightward", "{} travelling right"),
    "up": ("{} moves up", "{} rises", "{} climbs towards the top", "{} floating upward"),
    "down": ("{} moves down", "{} sinks", "{} falls towards the bottom", "{} dropping downward"),
    "grow": ("{} grows", "{} gets bigger", "{} swells up", "{} expanding in size"),
    "shrink": ("{} shrinks", "{} gets smaller", "{} dwindles", "{} contracting in size"),
    "spin": ("{} spins", "{} rotates", "{} turns around itself", "{} whirling on the spot"),
    "blink": ("{} blinks", "{} flashes on and off", "{} flickers", "{} flashing repeatedly"),
    "appear": (
        "{} slowly appears",
        "{} fades in",
        "{} gradually becomes visible",
        "{} emerging from nothing",
    ),
}
OBJECT_PHRASES = (
    "{} is visible",
    "there is {} on the screen",
    "{} can be seen",
    "{} in the picture",
    "a view with {}",
    "{} shows up somewhere",
)
SCENE_PHRASES = {
    "night": ("a starry night sky", "it is night", "stars shine in the dark", "a dark night landscape"),
    "desert": ("sand dunes in the desert", "a dry desert", "the desert with its dunes", "a sandy landscape"),
    "sea": ("the open sea", "waves on the water", "the ocean with small waves", "we are at sea"),
    "forest": ("trees in a forest", "a green forest", "we are in the woods", "woodland with trees"),
    "city": ("buildings of a city", "grey houses in town", "a city skyline", "we are in the city"),
    "snow": (
        "a snowy landscape",
        "snow covers the ground",
        "winter with falling snow",
        "white snow everywhere",
    ),
}
OPENINGS = ("", "", "", "the moment when ", "the part where ", "a shot in which ")
OPENINGS_TO_PARTICIPLE = ("", "", "we see ", "a shot of ")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a sentence asks for. A trait that is None is left open: 'something red', 'a star'."""

    kind: str
    """'action', 'object' or 'scene'."""
    colour: str | None = None
    shape: str | None = None
    action: str | None = None
    scene: str | None = None

    def fits(self, track: Track) -> bool:
        """Whether the object has the traits (its action aside)."""
        return self.colour in (None, track.colour) and self.shape in (None, track.shape)


def say(meaning: Meaning, rng: np.random.Generator) -> str:
    """One of the ways to say it."""
    if meaning.kind == "scene":
        assert meaning.scene is not None
        return _pick(SCENE_PHRASES[meaning.scene], rng)
    noun = _noun(meaning, rng)
    if meaning.action is None:
        return _pick(OBJECT_PHRASES, rng).format(noun)
    phrases = ACTION_PHRASES[meaning.action]
    phrase = _pick(phrases, rng)
    opening = _pick(OPENINGS_TO_PARTICIPLE if phrase == phrases[-1] else OPENINGS, rng)
    return opening + phrase.format(noun)


def when(meaning: Meaning, script: Script) -> list[tuple[Interval, Track | Scene]]:
    """Every time span of the script that the sentence is true of, and what it is true of, in order."""
    if meaning.kind == "scene":
        found: list[tuple[Interval, Track | Scene]] = [
            (scene.when, scene) for scene in script.scenes if scene.name == meaning.scene
        ]
    elif meaning.kind == "object":
        found = [(track.when, track) for track in script.tracks if meaning.fits(track)]
    else:
        found = [
            (track.act_when, track)
            for track in script.tracks
            if track.act_when is not None and track.action == meaning.action and meaning.fits(track)
        ]
    return sorted(found, key=lambda pair: pair[0].start_s)


def _noun(meaning: Meaning, rng: np.random.Generator) -> str:
    article = _pick(("the", "a"), rng)
    colour = _pick(COLOUR_WORDS[meaning.colour], rng) if meaning.colour else None
    if meaning.shape is None:
        return f"something {colour}" if rng.random() < 0.5 else f"{_article(article, colour or '')} {colour} object"
    shape = _pick(SHAPE_WORDS[meaning.shape], rng)
    if colour is None:
        return f"{_article(article, shape)} {shape}"
    if rng.random() < 0.2:
        return f"{_article(article, shape)} {shape} that is {colour}"
    return f"{_article(article, colour)} {colour} {shape}"


def _article(article: str, word: str) -> str:
    return "an" if article == "a" and word[:1] in "aeiou" else article


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
