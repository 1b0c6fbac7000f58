"""rdmf stability as a user meets it: rates of one's own, the rates of a run, numbers, words, figure, refusals."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from rdmf.extract.layout import StoreSpec
from rdmf.fuse.rates import Rates
from rdmf.pipeline.config import parse_config
from rdmf.pipeline.inspection.stability import System, analyse, horizon_sentence, system_of, system_of_run
from rdmf.pipeline.training.checkpoint import Best, RunInfo, build_model, save_best, save_run_info

TURING = ["--feed", 0.04, "--kill", 0.05, "--d-video", 0.02, "--d-text", 0.2]


def write_run(folder: Path, fusion: dict[str, object], shift: float = 0.0) -> Path:
    """A run of that fusion whose every learned rate has moved by `shift`."""
    model = {"hidden": 8, "fusion": {"kind": "reaction_diffusion", "ffn": 8} | fusion,
             "moment": {"queries": 2, "heads": 2, "layers": 1}}  # fmt: skip
    specs = [StoreSpec(kind, "topics", {"sha256": "1" * 64, "random": False}, {}, seconds, 4)
             for kind, seconds in (("video", 2.0), ("text", None))]  # fmt: skip
    info = RunInfo(
        parse_config({"model": model}, "test"), "tiny", 2.0, "features", (specs[0],), specs[1], 10,
        {"train": "train", "validation": "val"}, {}, "rdmf train",
    )  # fmt: skip
    network = build_model(info)
    for name, parameter in network.named_parameters():
        if name.endswith("shift"):
            torch.nn.init.constant_(parameter, shift)
    folder.mkdir()
    save_run_info(folder, info)
    save_best(folder, network, Best(1, 0.5, {"mAP": 0.5}))
    return folder


def test_without_options_the_papers_system_is_judged_and_nothing_else_is_on_standard_output(rdmf) -> None:
    ran = rdmf("stability", "--json", "-")
    assert ran.code == 0
    tree = json.loads(ran.out)
    empty, state = tree["steady_states"]
    assert (empty["u"], empty["v"], empty["stable"]) == (0, 1, True)
    assert (state["u"], state["v"], state["stable"]) == (pytest.approx(0.2), 0.5, False)
    assert (state["trace"], state["det"]) == (pytest.approx(0.02), 0)
    assert state["eigenvalues"] == [[pytest.approx(0.02), 0], [0, 0]]
    assert tree["turing_unstable"] is False
    assert tree["fastest_wavelength_clips"] is None
    assert 0.1 < tree["max_step"] < tree["max_step_once"] < tree["max_step_diffusion"]
    assert tree["growth_over_horizon"] == pytest.approx(math.exp(0.02 * 0.5))
    assert tree["proven"] is True


def test_the_page_tells_a_researcher_what_matters(rdmf) -> None:
    page = rdmf("stability").out
    for words in ("saddle-node", "not stable", "no Turing instability", "our reconstruction",
                  "over M dt = 0.5 the fastest mode (uniform) grows by 1.0 %: no pattern can form"):  # fmt: skip
        assert words in page
    page = rdmf("stability", *TURING, "--clip-seconds", 2).out
    for words in ("Turing-unstable", "0.3191", "0.2821", "5.12 clips = 10.2 s", "tenfold growth takes 1,117 steps"):
        assert words in page


def test_turing_waves_have_a_length_in_clips_and_seconds(rdmf) -> None:
    tree = json.loads(rdmf("stability", *TURING, "--clip-seconds", 2, "--json", "-").out)
    assert tree["turing_unstable"] is True
    assert tree["fastest_wavelength_clips"] == pytest.approx(5.1, abs=0.05)
    assert tree["fastest_wavelength_s"] == 2 * tree["fastest_wavelength_clips"]
    assert tree["fastest_growth"] == pytest.approx(0.0206, abs=5e-5)
    far = analyse(system_of("gray_scott", 0.0002, 0.002, {"feed": 0.04, "kill": 0.05}))
    assert far.to_json()["turing_out_of_reach"] is True
    assert far.to_json()["fastest_wavelength_clips"] is None


def test_growth_becomes_a_pattern_only_over_long_horizons() -> None:
    rates = ("gray_scott", 0.02, 0.2, {"feed": 0.04, "kill": 0.05})
    for steps, words in ((5, "no pattern can form"), (700, "begins to show"), (3000, "a pattern can form")):
        assert words in horizon_sentence(analyse(system_of(*rates, steps=steps)))
    # Growth of the uniform mode is no pattern, however large.
    assert "no pattern can form" in horizon_sentence(analyse(system_of(steps=5000)))


def test_other_kinetics_take_their_rates_by_name(rdmf) -> None:
    ran = rdmf(
        "stability", "--kinetics", "schnakenberg", "--rate", "a=0.2", "--d-video", 0.08, "--d-text", 1, "--json=-"
    )
    tree = json.loads(ran.out)
    assert tree["rates"] == {"d_video": 0.08, "d_text": 1, "a": 0.2, "b": 0.9}
    assert tree["steady_states"][0]["u"] == pytest.approx(1.1)


def test_a_run_is_judged_by_what_it_has_learned(rdmf, tmp_path) -> None:
    run = write_run(tmp_path / "run", {"steps": 7, "dt": 0.05}, shift=-0.5)
    ran = rdmf("stability", "--run", run, "--json", tmp_path / "s.json", "--figure", tmp_path / "s.png")
    assert ran.code == 0
    assert "moved" in ran.out
    tree = json.loads((tmp_path / "s.json").read_text())
    assert tree["rates_at_start"] == {"d_video": 0.2, "d_text": 0.1, "feed": 0.04, "kill": 0.06}
    assert all(tree["rates"][name] < start for name, start in tree["rates_at_start"].items())
    assert (tree["steps"], tree["dt"], tree["clip_seconds"]) == (7, 0.05, 2)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    longer = json.loads(rdmf("stability", "--run", run, "--steps", 50, "--json", "-").out)
    assert (longer["steps"], longer["rates"]) == (50, tree["rates"])


def test_an_untrained_run_is_the_papers_saddle_node_in_spite_of_single_precision(tmp_path) -> None:
    system = system_of_run(write_run(tmp_path / "run", {}))
    assert system.rates == (0.2, 0.1, 0.04, 0.06) == system.start
    assert "saddle-node" in analyse(system).regime


@pytest.mark.parametrize("kinetics", ["gray_scott", "gray_scott_substrate", "schnakenberg", "fitzhugh_nagumo"])
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_every_kinetics_can_be_drawn(rdmf, tmp_path, kinetics: str, ending: str) -> None:
    figure = tmp_path / f"figure.{ending}"
    assert rdmf("stability", "--kinetics", kinetics, "--d-text", 3, "--clip-seconds", 1, "--figure", figure).code == 0
    assert figure.stat().st_size > 10_000


@pytest.mark.parametrize("kinetics", ["gray_scott", "gray_scott_substrate", "schnakenberg", "fitzhugh_nagumo"])
def test_rates_far_from_any_sense_still_give_finite_numbers(kinetics: str) -> None:
    for rates in itertools.product((1e-30, 1e-9, 1.0, 1e6), repeat=4):
        analysis = analyse(System(Rates(*rates), kinetics, steps=3))
        assert json.dumps(analysis.to_json(), allow_nan=False)
        assert horizon_sentence(analysis)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--feed", 0], "expected feed above 0"),
        (["--kill", -0.1], "expected kill above 0"),
        (["--d-video", "nan"], "expected d_video above 0"),
        (["--d-text", "inf"], "expected d_text above 0"),
        (["--dt", 0], "expected dt above 0"),
        (["--steps", 0], "expected 1 to 10000 steps"),
        (["--clip-seconds", -2], "expected clip seconds above 0"),
        (["--integrator", "rk4"], "expected integrator euler or"),
        (["--kinetics", "brusselator"], "expected kinetics gray_scott or"),
        (["--kinetics", "schnakenberg", "--feed", 0.1], "expected a and b as the rates of schnakenberg"),
        (["--rate", "a"], "expected --rate name=number"),
        (["--rate", "feed=x"], "expected --rate name=number"),
        (["--feed", "x"], "Invalid value for '--feed'"),
        (["--run", "somewhere", "--feed", 0.1], "either --run, or rates"),
    ],
)
def test_wrong_values_are_exit_code_2_and_a_sentence(rdmf, arguments: list[object], named: str) -> None:
    ran = rdmf("stability", *arguments)
    assert ran.code == 2
    assert named in " ".join(ran.err.replace("│", " ").split())
    assert not ran.out


def test_runs_that_cannot_be_judged_are_exit_code_1_and_a_sentence(rdmf, tmp_path) -> None:
    attention = write_run(tmp_path / "attention", {"kind": "cross_attention", "heads": 2})
    broken = write_run(tmp_path / "broken", {})
    (broken / "best.safetensors").write_bytes((broken / "best.safetensors").read_bytes()[:-9])
    for run, named in (
        (attention, "has cross_attention"),
        (broken, "best.safetensors"),
        (tmp_path / "no", "is no run"),
    ):
        ran = rdmf("stability", "--run", run)
        assert ran.code == 1
        assert named in ran.err
        assert ran.err.count("\n") == 1
        assert not ran.out
    assert rdmf("stability", "--figure", tmp_path / "x.bmpp").code == 1
