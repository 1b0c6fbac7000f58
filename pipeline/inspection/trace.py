"""Watch a pattern form, or not: the species U and V of one sentence and one video over the steps of the reaction.

    U^0, V^0, U^1, V^1, ..., U^M, V^M    of equations (5) to (8), by the very steps that the run takes

U^M is what the model uses; saliency is read off every U^m by the model's own heads, which learned to read the last one
alone. `follow` goes on from there with the same rates to times that the model was not trained on, in Euler steps that
are as small as fuse/bounds.py asks of the state at hand, so that what grows there is the equation's doing.

Steps change a state by a few per cent, so traces are float32; where they would be too large, steps are left out.

Dimensions: S recorded states, T clips, L words, D hidden.
"""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn

from ...fuse.bounds import PROOFS
from ...fuse.integrate import INTEGRATORS
from ...fuse.rates import Rates
from ...fuse.reaction_diffusion import ReactionDiffusionFusion, SpeciesStepper
from ..fusion_config import FuserSettings, ReactionDiffusionConfig
from ..inference import cut
from ..loading.dataset import Clips, Example
from ..model import RDMF
from ..training.tensor_files import publish

MOST_NUMBERS = 2**26
"""Of all traces of a command: 256 MB."""
ROWS = 121
"""States recorded of a continuation."""
LONGEST = 20_000.0
"""Until when a reaction is followed."""
LARGEST_STEP = 0.25
"""Of a continuation, where fuse/bounds.py allows more: rates are below 1, so that is accurate enough to look at."""
VARIES = 0.02
"""A channel whose U has a larger standard deviation than this along the clips is no longer level."""
UNTIL = 500.0
"""Until when if nobody says: ten e-folds of the fastest wave where diffusion_order 'turing' starts."""
FORMAT = 1

_NO_REACTION = "expected a run that fuses by reaction_diffusion, got one with {}: it has no reaction to trace"


@dataclass(frozen=True)
class Trace:
    """Species over reaction time, for one sentence and one video (or the part of a long one that is read at once)."""

    sentence: str
    clip_times_s: np.ndarray
    """float64 [T, 2], start and end of the clips in the video."""
    times: np.ndarray
    """float64 [S], rising: the reaction time m dt of each state."""
    u: np.ndarray
    """float32 [S, T, D], video."""
    v: np.ndarray
    """float32 [S, T, D], text."""
    saliency: np.ndarray | None
    """float32 [S, T], what the heads make of each U^m: probabilities. None in a continuation."""
    kinetics: str
    integrator: str
    dt: float
    """Of the run's steps."""
    steps: int
    """M of the run. Fewer than M + 1 states of it were recorded where all would have been too many."""
    rates: dict[str, np.ndarray]
    """By name, d_video and d_text first: float32 [] each, or [D] where they were learned per channel."""
    continued: bool = False
    """Whether these are times after M dt: not what the model was trained on."""

    def __post_init__(self) -> None:
        states, clips, hidden = self.u.shape if self.u.ndim == 3 else (0, 0, 0)
        fits = (
            states * clips * hidden > 0
            and self.v.shape == self.u.shape
            and self.clip_times_s.shape == (clips, 2)
            and self.times.shape == (states,)
            and (np.diff(self.times) > 0).all()
            and (self.saliency is None or self.saliency.shape == (states, clips))
            and len(self.rates) == 4
            and all(rate.shape in ((), (hidden,)) for rate in self.rates.values())
        )
        if not fits:
            raise ValueError(f"expected a trace whose parts fit each other, got U of {self.u.shape} and others")

    @property
    def horizon(self) -> float:
        """M dt, the run's own."""
        return self.steps * self.dt

    def varying(self) -> np.ndarray:
        """[S]: the share of the channels whose U varies along the clips."""
        return np.asarray((self.u.std(1) > VARIES).mean(1))

    def wavelength(self) -> float | None:
        """Clips from crest to crest in the last U: the strongest cosine mode, the median over channels that vary."""
        last = self.u[-1].astype(np.float64)
        last = last[:, last.std(0) > VARIES]
        if not last.shape[1]:
            return None
        strongest = 1 + np.abs(dct(last, axis=0)[1:]).argmax(0)
        return float(np.median(2 * len(last) / strongest))


def trace(model: RDMF, clips: Clips, words: Tensor, sentence: str = "", most_states: int | None = None) -> Trace:
    """Species and saliency after every step. words [L, Dt]; the model in evaluation mode, on any device.

    most_states: where the run has more, only so many are recorded, evenly, the first and the last among them.
    Raises ValueError for a model that fuses by something else.
    """
    if not isinstance(model.fusion, ReactionDiffusionFusion):
        raise ValueError(_NO_REACTION.format(type(model.fusion).__name__))
    assert not model.training
    fusion, device = model.fusion, next(model.parameters()).device
    mask = torch.ones(1, len(clips.values), dtype=torch.bool, device=device)
    word_mask = torch.ones(1, len(words), dtype=torch.bool, device=device)
    kept = _evenly(fusion.steps + 1, most_states)
    states, saliency = [], []
    with torch.no_grad():
        projected = model.projected(clips.values[None].to(device), mask, clips.positions[None].to(device))
        x = model.diffusion(projected, mask)  # [1, T, D]
        x = model.told(x, clips.values[None].to(device), mask, words[None].to(device), word_mask)
        w = model.project_words(words[None].to(device))
        rates = fusion.rates()
        u, v = fusion.species(fusion.norm_clips(x), w, word_mask)
        state: tuple[Tensor, ...] = u, v.expand(u.shape)
        stepper = SpeciesStepper(mask, rates, fusion.dt, fusion.kinetics, u.dtype)
        for step in range(fusion.steps + 1):
            if step:
                state = INTEGRATORS[fusion.integrator](stepper, state)
            if step in kept:
                states.append([species[0].float().cpu().numpy() for species in state])
                fused = _stopped_at(fusion, state[0])(x, mask, w, word_mask)
                saliency.append(model.saliency(fused, mask)[0].sigmoid().float().cpu().numpy())
    video, text = (np.stack(species) for species in zip(*states, strict=True))
    return Trace(
        sentence, clips.times_s, np.array(kept) * fusion.dt, video, text, np.stack(saliency), fusion.kinetics,
        fusion.integrator, fusion.dt, fusion.steps,
        {name: rate.float().cpu().numpy() for name, rate in zip(fusion.rate_names, rates, strict=True)},
    )  # fmt: skip


def check_traceable(fusion: FuserSettings, until: float | None = None) -> None:
    """Raises ValueError for a run that has no reaction, or none that can be followed until then."""
    if not isinstance(fusion, ReactionDiffusionConfig):
        raise ValueError(_NO_REACTION.format(getattr(fusion, "kind", "?")))
    if until is not None:
        check_until(until, fusion.steps * fusion.dt)


def follow(trace: Trace, until: float, rows: int = ROWS) -> Trace:
    """The same equations from the last state of a trace on, to reaction time `until`: `rows` states, evenly in time."""
    check_until(until, trace.horizon)
    start = float(trace.times[-1])
    times = np.linspace(start, until, max(2, rows))
    rates = Rates(*(torch.from_numpy(np.asarray(rate)) for rate in trace.rates.values()))
    largest = Rates(*(rate.max().item() for rate in rates))
    mask = torch.ones(1, trace.u.shape[1], dtype=torch.bool)
    state: tuple[Tensor, ...] = tuple(torch.from_numpy(x[-1:].copy()) for x in (trace.u, trace.v))
    stepper = SpeciesStepper(mask, rates, LARGEST_STEP, trace.kinetics, torch.float32)
    states = [state]
    for before, after in pairwise(times.tolist()):
        now = before
        while after - now > 1e-9 * after:
            stepper.dt = min(after - now, LARGEST_STEP, proven_step(trace.kinetics, largest, *state))
            state = stepper.explicit(state)
            now += stepper.dt
        states.append(state)
    u, v = (torch.cat(species).numpy() for species in zip(*states, strict=True))
    return replace(trace, times=times, u=u, v=v, saliency=None, continued=True)


def proven_step(kinetics: str, rates: Rates[float], u: Tensor, v: Tensor) -> float:
    """The largest dt at which one Euler step from this very state has a load of 1 (fuse/bounds.py)."""
    proof = PROOFS[kinetics]
    size, d = (u.abs().max().item(), v.abs().max().item()), (rates.d_video, rates.d_text)
    if proof.swapped:
        size, d = size[::-1], d[::-1]
    return 1 / proof.load((*size, sum(size)), d, (rates.first, rates.second))


def check_until(until: float, horizon: float) -> None:
    """Raises ValueError for a time that a reaction cannot be followed to."""
    if not horizon < until <= LONGEST:
        raise ValueError(
            f"expected a time to follow the reaction to after the run's own horizon, {horizon:g}, and up to "
            f"{LONGEST:g}, got {until:g}"
        )


@dataclass(frozen=True)
class Watched:
    """All that was traced of one sentence."""

    parts: tuple[Trace, ...]
    """One; more for a long video that is read in overlapping parts, each of which reacts on its own."""
    shown: int
    """The part whose middle is nearest to the best window."""
    continued: Trace | None
    """That part, followed further."""
    windows: np.ndarray
    """float64 [K, 3]: the windows found in the whole video, start_s, end_s, confidence."""

    @property
    def own(self) -> Trace:
        return self.parts[self.shown]

    @property
    def traces(self) -> tuple[Trace, ...]:
        return self.parts if self.continued is None else (*self.parts, self.continued)


def watch(
    model: RDMF,
    example: Example,
    windows: np.ndarray,
    max_clips: int,
    until: float | None = None,
    most_states: int | None = None,
) -> Watched:
    """Trace a sentence as `inference.ask` reads it: part by part where the video is long."""
    clips = example.clips
    slices = cut(len(clips.values), max_clips)
    parts = tuple(
        trace(model, Clips(clips.values[part], clips.times_s[part]), example.words, example.query.text, most_states)
        for part in slices
    )
    best = windows[0, :2].mean() if len(windows) else 0.0
    shown = int(np.argmin([abs(part.clip_times_s[[0, -1], [0, 1]].mean() - best) for part in parts]))
    rows = ROWS if most_states is None else min(ROWS, most_states)
    return Watched(parts, shown, None if until is None else follow(parts[shown], until, rows), windows)


def states_that_fit(examples: Iterable[Example], max_clips: int, hidden: int) -> int:
    """How many states of each sentence are few enough to keep. Raises ValueError where not even two are."""
    clips = sum(part.stop - part.start for e in examples for part in cut(len(e.clips.values), max_clips))
    states = MOST_NUMBERS // (2 * clips * hidden)
    if states < 2:
        raise ValueError(
            f"expected traces that are small enough to keep, got {clips:,} clips in all of {hidden} channels: "
            "trace fewer sentences at once, or a part of the video"
        )
    return states


def check_trace_path(path: Path) -> None:
    """Raises ValueError for a file that could not be written, before the work is done."""
    if path.suffix.lower() != ".npz":
        raise ValueError(f"expected a trace ending in .npz, got {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"expected a folder for the trace at {path.parent}, there is none")
    if path.is_dir():
        raise ValueError(f"expected a file for the trace, got the folder {path}; give another name")


ARRAYS = ("clip_times_s", "times", "u", "v", "saliency")
SAID = ("sentence", "kinetics", "integrator", "dt", "steps", "continued")


def write_traces(path: Path, traces: Sequence[Trace]) -> None:
    """A .npz, whole or not at all: '0/u', '0/v', ..., '1/u', ... and what is said of them as JSON in 'about'."""
    check_trace_path(path)
    arrays: dict[str, np.ndarray] = {}
    for i, one in enumerate(traces):
        arrays |= {f"{i}/{name}": value for name in ARRAYS if (value := getattr(one, name)) is not None}
        arrays |= {f"{i}/rates/{name}": rate for name, rate in one.rates.items()}
    about = {
        "format": FORMAT,
        "traces": [{name: getattr(one, name) for name in SAID} | {"rates": [*one.rates]} for one in traces],
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
    publish(path, [buffer.getbuffer()])


def read_traces(path: Path) -> list[Trace]:
    """What `write_traces` wrote. Raises ValueError where that is not what the file holds."""
    try:
        with zipfile.ZipFile(path) as file:
            if any(member.compress_type != zipfile.ZIP_STORED for member in file.infolist()):
                raise ValueError("it is compressed")  # nothing may unpack to more than it is
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["format"] != FORMAT:
                raise ValueError(f"it is of format {about['format']}")
            return [_of(file, str(i), said) for i, said in enumerate(about["traces"])]
    except FileNotFoundError:
        raise ValueError(f"there is no trace {path}; write one with `rdmf predict --trace`") from None
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError) as error:
        raise ValueError(f"{path} is no trace, or damaged ({error})") from None


def _of(file: Any, key: str, said: dict[str, Any]) -> Trace:
    """One trace of an open file."""
    arrays: dict[str, Any] = {name: file[at] if (at := f"{key}/{name}") in file else None for name in ARRAYS}
    rates = {name: file[f"{key}/rates/{name}"] for name in said["rates"]}
    return Trace(**{name: said[name] for name in SAID}, **arrays, rates=rates)


def _stopped_at(fusion: ReactionDiffusionFusion, u: Tensor) -> nn.Module:
    """The block around a reaction that has come to U [1, T, D]: all that follows is the block's own."""
    stopped = copy.copy(fusion)
    stopped.mix = lambda clips, *_: fusion.back(fusion.norm_reacted(u.to(clips.dtype)))  # type: ignore[method-assign]
    return stopped


def _evenly(count: int, most: int | None) -> list[int]:
    """At most so many of 0 .. count - 1, the first and the last among them."""
    kept = count if most is None else min(count, max(2, most))
    return [round(place) for place in np.linspace(0, count - 1, kept).tolist()]
