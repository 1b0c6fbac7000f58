from __future__ import annotations

import math
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rdmf.fuse import ReactionDiffusionFusion
from rdmf.fuse.rates import Rates
from rdmf.fuse.reaction_diffusion import react_and_diffuse
from rdmf.manifests.schema import Query
from rdmf.pipeline.config import Config, ContextConfig, parse_config
from rdmf.pipeline.inspection import trace as tracing
from rdmf.pipeline.inspection.trace import (
    Trace,
    check_traceable,
    follow,
    proven_step,
    read_traces,
    states_that_fit,
    trace,
    watch,
    write_traces,
)
from rdmf.pipeline.inspection.trace_figure import draw_traces, expected, outcome
from rdmf.pipeline.loading.dataset import Clips, Example, collate
from rdmf.pipeline.model import RDMF

TURING = {"d_video": 0.02, "d_text": 0.2, "feed": 0.04, "kill": 0.05, "diffusion_order": "turing"}
WINDOWS = np.array([[20.0, 50.0, 0.8], [60.0, 70.0, 0.3]])


def model_of(config: Config, **fusion) -> RDMF:
    """The model of a config with another fusion block, its rates off their initial values."""
    torch.manual_seed(0)
    model = RDMF(config.model, 12, 12).eval()
    model.fusion = ReactionDiffusionFusion(config.model.hidden, ffn=64, **fusion).eval()
    return model


def example_of(clips: int, sentence: str = "a red star spins") -> Example:
    generator = torch.Generator().manual_seed(clips)
    edges = np.arange(clips + 1) * 2.0
    values = 3 * torch.eye(12)[torch.arange(clips) // 7 % 12] + torch.randn(clips, 12, generator=generator)
    seen = Clips(values, np.stack([edges[:-1], edges[1:]], 1))
    words = torch.randn(3, 12, generator=generator)
    return Example(Query("q", "v", sentence, "predict"), seen, words, torch.zeros(0, 2), torch.zeros(clips), False)


def traced(model: RDMF, clips: int = 24, **options) -> Trace:
    example = example_of(clips)
    return trace(model, example.clips, example.words, example.query.text, **options)


@pytest.fixture
def paper(tiny_config: Config) -> Trace:
    return traced(model_of(tiny_config))


VARIANTS = {
    "paper": {}, "loop": {"method": "loop"}, "per channel": {"rates_per_channel": True}, "turing": TURING,
    "ssprk3": {"integrator": "ssprk3"}, "imex": {"integrator": "imex", "steps": 20},
    "substrate": {"kinetics": "gray_scott_substrate"},
    "schnakenberg": {"kinetics": "schnakenberg", "dt": 0.05, "diffusion_order": "free"},
    "fitzhugh_nagumo": {"kinetics": "fitzhugh_nagumo", "dt": 0.05, "diffusion_order": "free"},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_last_state_is_what_the_model_itself_maps_back_and_its_saliency_what_it_says(tiny_config, variant):
    model = model_of(tiny_config, **VARIANTS[variant])
    used = []
    model.fusion.norm_reacted.register_forward_pre_hook(lambda _, inputs: used.append(inputs[0]))
    batch = collate([example_of(24)])
    with torch.no_grad():
        output = model(batch.clips, batch.clip_mask, batch.positions, batch.words, batch.word_mask)
    found = traced(model)
    np.testing.assert_allclose(found.u[-1], used[0][0], atol=1e-6)
    np.testing.assert_allclose(found.saliency[-1], output.saliency_logits[0].sigmoid(), atol=1e-6)
    assert found.u.shape == (model.fusion.steps + 1, 24, 32)
    np.testing.assert_allclose(found.times, np.arange(model.fusion.steps + 1) * model.fusion.dt)


@pytest.mark.parametrize("more", [{"relevance": 2}, {"context": ContextConfig(layers=1, ffn=16)}], ids=str)
def test_a_model_whose_clips_are_told_more_is_followed_with_it(tiny_config, more):
    model_config = tiny_config.model.model_copy(update=more)
    torch.manual_seed(0)
    model = RDMF(model_config, 12, 12).eval()
    batch = collate([example_of(24)])
    with torch.no_grad():
        output = model(batch.clips, batch.clip_mask, batch.positions, batch.words, batch.word_mask)
    np.testing.assert_allclose(traced(model).saliency[-1], output.saliency_logits[0].sigmoid(), atol=1e-6)


def test_every_state_follows_from_the_one_before_by_equations_5_to_7(paper):
    d_u, d_v, feed, kill = (paper.rates[name] for name in ("d_video", "d_text", "feed", "kill"))
    for u, v, u_next, v_next in zip(paper.u, paper.v, paper.u[1:], paper.v[1:], strict=False):
        f, g = u * u * v - (feed + kill) * u, feed * (1 - v) - u * u * v
        np.testing.assert_allclose(u_next, u + 0.1 * (d_u * _laplacian(u) + f), atol=1e-6)
        np.testing.assert_allclose(v_next, v + 0.1 * (d_v * _laplacian(v) + g), atol=1e-6)
        # diffusion moves mass along the clips and makes none: U + V changes by what is fed and killed alone
        mass = (u_next + v_next - u - v).sum(0)
        np.testing.assert_allclose(mass, 0.1 * (feed * (1 - v) - (feed + kill) * u).sum(0), atol=1e-4)


def _laplacian(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((1, 1), (0, 0)), mode="edge")
    return padded[2:] - 2 * x + padded[:-2]


def test_a_trace_starts_with_species_between_0_and_1_and_the_same_sentence_for_every_clip(paper):
    assert ((paper.u[0] > 0) & (paper.u[0] < 1)).all()
    assert (paper.v[0] == paper.v[0][:1]).all()
    assert (paper.v[1] != paper.v[1][:1]).any()


def test_saliency_of_each_state_is_that_of_a_model_which_stops_there(tiny_config):
    whole = traced(model_of(tiny_config, steps=4))
    for steps in (1, 2, 3, 4):
        stopped = traced(model_of(tiny_config, steps=steps))
        np.testing.assert_allclose(whole.saliency[steps], stopped.saliency[-1], atol=1e-6)


def test_where_all_states_are_too_many_the_first_and_the_last_are_among_those_kept(tiny_config):
    model = model_of(tiny_config, steps=40)
    whole, thin = traced(model), traced(model, most_states=5)
    np.testing.assert_allclose(thin.times, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(thin.u, whole.u[::10])
    np.testing.assert_array_equal(thin.saliency, whole.saliency[::10])


def test_how_many_states_fit_falls_with_what_is_asked_until_it_is_refused(monkeypatch):
    monkeypatch.setattr(tracing, "MOST_NUMBERS", 100_000)
    one, three = (states_that_fit([example_of(30)] * n, 75, 32) for n in (1, 3))
    assert one == 100_000 // (2 * 30 * 32)
    assert three == one // 3
    with pytest.raises(ValueError, match="fewer sentences"):
        states_that_fit([example_of(30)] * 30, 75, 32)


def test_a_long_video_is_traced_part_by_part_as_it_is_read(tiny_config):
    model = model_of(tiny_config)
    example = example_of(60)
    watched = watch(model, example, WINDOWS[:1], max_clips=16)
    assert [part.clip_times_s[0, 0] for part in watched.parts] == [0, 16, 32, 48, 64, 80, 88]
    first, last = watched.own.clip_times_s[0, 0], watched.own.clip_times_s[-1, 1]
    assert first <= 20 < 50 <= last + 2
    alone = trace(model, Clips(example.clips.values[8:24], example.clips.times_s[8:24]), example.words)
    np.testing.assert_allclose(watched.parts[1].u, alone.u, atol=1e-6)


def test_a_continuation_goes_on_where_the_run_ends_and_follows_the_equations(tiny_config):
    for variant in ("paper", "turing", "per channel"):
        own = traced(model_of(tiny_config, **VARIANTS[variant]))
        far = follow(own, 20.5, rows=5)
        np.testing.assert_array_equal(far.u[0], own.u[-1])
        np.testing.assert_allclose(far.times, [0.5, 5.5, 10.5, 15.5, 20.5])
        start = (torch.from_numpy(x[-1:]).double() for x in (own.u, own.v))
        rates = Rates(*(torch.from_numpy(rate).double() for rate in own.rates.values()))
        exact, _ = react_and_diffuse(
            *start, torch.ones(1, 24, dtype=torch.bool), rates, 0.01, 2000, integrator="ssprk3"
        )
        # Euler at a quarter: an error of first order in it, of U that is of order 1
        np.testing.assert_allclose(far.u[-1], exact[0].numpy(), atol=0.03)
        assert far.continued
        assert far.saliency is None


@pytest.mark.parametrize("order", ["paper", "turing"])
def test_a_continuation_keeps_gray_scott_positive_and_v_at_most_1(tiny_config, order):
    far = follow(traced(model_of(tiny_config, **VARIANTS[order])), 100.0)
    assert (far.u >= 0).all()
    assert (far.v >= 0).all()
    assert (far.v <= 1 + 1e-6).all()


def test_a_continuation_from_a_large_state_stays_bounded_where_fixed_steps_would_not(paper):
    states = np.full_like(paper.u, 8.0)
    far = follow(Trace(**{**vars(paper), "u": states, "saliency": None}), 10.0)
    assert ((far.u >= 0) & (far.u <= 9)).all()
    assert ((far.v >= 0) & (far.v <= 1)).all()
    rates = Rates(*map(torch.from_numpy, paper.rates.values()))
    start = torch.from_numpy(states[:1]), torch.from_numpy(paper.v[:1])
    _, fixed = react_and_diffuse(*start, torch.ones(1, 24, dtype=torch.bool), rates, 0.25, 4)
    assert (fixed < 0).any()


def test_steps_get_smaller_where_the_activator_is_large():
    rates = Rates(0.2, 0.1, 0.04, 0.06)
    u, v = torch.full((1, 4, 2), 3.0), torch.full((1, 4, 2), 0.5)
    assert proven_step("gray_scott", rates, u, v) == pytest.approx(1 / (4 * 0.1 + 0.04 + 9))
    assert proven_step("gray_scott_substrate", rates, v, u) == pytest.approx(1 / (4 * 0.2 + 0.04 + 9))


@pytest.mark.parametrize("until", [0.5, 0.1, -1, math.nan, math.inf, 1e6])
def test_a_time_that_cannot_be_followed_to_is_refused(paper, tiny_config, until):
    with pytest.raises(ValueError, match="horizon"):
        follow(paper, until)
    with pytest.raises(ValueError, match="horizon"):
        check_traceable(tiny_config.model.fusion, until)


def test_a_turing_run_grows_waves_of_the_length_that_linear_theory_gives(tiny_config):
    own = traced(model_of(tiny_config, **TURING), clips=60)
    far = follow(own, 500.0)
    feed, loss = 0.04, 0.09
    v = (1 - math.sqrt(1 - 4 * loss**2 / feed)) / 2  # equations (9) to (11)
    u = loss / v
    q = np.linspace(0.01, math.pi, 2000)
    mu = 4 * np.sin(q / 2) ** 2
    trace_, det = (
        loss - u * u - feed - 0.22 * mu,
        (loss - 0.02 * mu) * (-(u * u + feed) - 0.2 * mu) + 2 * loss * u * u,
    )
    growth = (trace_ + np.sqrt(np.maximum(trace_**2 - 4 * det, 0))) / 2
    fastest = 2 * math.pi / q[growth.argmax()]
    assert fastest == pytest.approx(5.1, abs=0.05)
    assert far.varying()[-1] > 0.9
    assert far.wavelength() == pytest.approx(fastest, rel=0.25)
    assert "Turing-unstable" in expected(own)
    assert f"{fastest:.1f} clips" in expected(own)
    assert "from crest to crest" in outcome(own, far)


def test_at_the_paper_s_rates_all_channels_come_to_rest_level(tiny_config):
    own = traced(model_of(tiny_config), clips=60)
    far = follow(own, 500.0)
    assert own.varying()[-1] > 0.9  # the clips differ, so does U within the run's own horizon
    assert far.varying()[-1] == 0
    assert far.wavelength() is None
    np.testing.assert_allclose(far.u[-1], 0, atol=0.01)
    np.testing.assert_allclose(far.v[-1], 1, atol=0.01)
    assert "saddle-node" in expected(own)
    assert "32 come to the empty state" in outcome(own, far)


def test_the_wavelength_is_that_of_a_cosine(paper):
    clip = np.arange(24)[:, None] + 0.5
    u = 0.3 + 0.1 * np.cos(np.pi * 8 * clip / 24) * np.ones((1, 24, 32))
    level = np.full_like(u, 0.3)
    for states, expect in ((u, 6.0), (level, None)):
        made = Trace(**{**vars(paper), "times": np.array([1.0]), "u": states, "v": level, "saliency": None})
        assert made.wavelength() == (None if expect is None else pytest.approx(expect))


def test_a_file_gives_back_what_was_written(tmp_path, tiny_config):
    watched = watch(model_of(tiny_config, rates_per_channel=True), example_of(30, "“it’s” $5, 5 €"), WINDOWS, 75, 20.0)
    write_traces(tmp_path / "t.npz", watched.traces)
    back = read_traces(tmp_path / "t.npz")
    assert [one.continued for one in back] == [False, True]
    for one, other in zip(watched.traces, back, strict=True):
        assert (one.sentence, one.kinetics, one.integrator, one.dt, one.steps) == (
            other.sentence, other.kinetics, other.integrator, other.dt, other.steps,
        )  # fmt: skip
        for name in ("clip_times_s", "times", "u", "v"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.saliency is None) == (other.saliency is None)
        assert [*one.rates] == [*other.rates]
        np.testing.assert_array_equal(one.rates["feed"], other.rates["feed"])
    with np.load(tmp_path / "t.npz", allow_pickle=False) as plain:  # as anyone reads it, without rdmf
        np.testing.assert_array_equal(plain["0/u"], watched.own.u)
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


class _Opens:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_that_is_no_trace_is_refused_in_one_sentence(tmp_path, paper):
    path = tmp_path / "t.npz"
    write_traces(path, [paper])
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}

    def rewrite(change: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
        with zipfile.ZipFile(path, "w", kind) as file:
            for name, data in (members | change).items():
                file.writestr(name, data)
        return path.read_bytes()

    np.save(tmp_path / "o.npy", np.array([_Opens(tmp_path / "opened")], dtype=object), allow_pickle=True)
    pickled = (tmp_path / "o.npy").read_bytes()
    damaged = {
        "text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2],
        "pickle": rewrite({"0/u.npy": pickled}), "parts that do not fit": rewrite({"0/u.npy": members["0/times.npy"]}),
        "no json": rewrite({"about.npy": members["0/times.npy"]}),
        "compressed": rewrite({}, zipfile.ZIP_DEFLATED),
    }  # fmt: skip
    for what, data in damaged.items():
        path.write_bytes(data)
        with pytest.raises(ValueError, match="no trace, or damaged"):
            pytest.fail(f"read a trace from {what}: {read_traces(path)}")
    assert not (tmp_path / "opened").exists()
    with pytest.raises(ValueError, match="there is no trace"):
        read_traces(tmp_path / "none.npz")


def test_a_path_that_cannot_be_written_is_refused_and_what_was_there_is_kept(tmp_path, paper):
    (tmp_path / "folder.npz").mkdir()
    for path, says in (
        (tmp_path / "t.pkl", "npz"),
        (tmp_path / "no" / "t.npz", "folder"),
        (tmp_path / "folder.npz", "name"),
    ):
        with pytest.raises(ValueError, match=says):
            write_traces(path, [paper])
    (tmp_path / "t.npz").write_bytes(b"before")
    broken = Trace(**{**vars(paper), "sentence": {"no": {1, 2}}})
    with pytest.raises(TypeError):
        write_traces(tmp_path / "t.npz", [broken])
    assert (tmp_path / "t.npz").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.npz", "t.npz"]


def test_cross_attention_has_nothing_to_trace():
    config = parse_config({"model": {"hidden": 32, "fusion": {"kind": "cross_attention"}}}, "x")
    with pytest.raises(ValueError, match="reaction_diffusion, got one with cross_attention"):
        check_traceable(config.model.fusion)
    with pytest.raises(ValueError, match="no reaction to trace"):
        traced(RDMF(config.model, 12, 12).eval())


@pytest.mark.parametrize(("max_clips", "clips"), [(75, 30), (75, 1), (16, 60)])
def test_a_figure_has_both_parts_and_says_which_is_not_the_model_s(tmp_path, tiny_config, max_clips, clips):
    model = model_of(tiny_config)
    watched = [watch(model, example_of(clips, f"costs $\\none or ${n}"), WINDOWS, max_clips, 60.0, 20) for n in (6, 7)]
    draw_traces(watched, tmp_path / "t.svg")
    said = (tmp_path / "t.svg").read_text()  # matplotlib leaves each text beside its shape, as a comment
    for text in ("the run's own horizon (M dt = 0.5)", "continued to t = 60 (not what the model was trained on)",
                 "costs $\\none or $7", "Linear theory says"):  # fmt: skip
        assert text in said
    assert ("part 2 of 7" in said) == (max_clips == 16)
    draw_traces(watched[:1], tmp_path / "t.png")
    with Image.open(tmp_path / "t.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), int)
    for half in (pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]):
        assert np.ptp(half, 2).max() > 50  # colours in both


def test_an_animation_shows_the_run_s_states_and_then_the_continuation(tmp_path, tiny_config):
    watched = watch(model_of(tiny_config), example_of(12), WINDOWS[:0], 75, 60.0, 7)
    draw_traces([watched], tmp_path / "t.gif")
    with Image.open(tmp_path / "t.gif") as moving:
        frames, durations = [], []
        for i in range(moving.n_frames):
            moving.seek(i)
            frames.append(np.asarray(moving.convert("RGB")))
            durations.append(moving.info["duration"])
    assert len(frames) == 6 + 6  # the continuation starts with the run's last state, which is there already
    assert durations[:6] == [350] * 6
    assert durations[-1] == 3000
    assert all((a != b).any() for a, b in pairwise(frames))
