"""`rdmf predict --trace`: a video file and sentences in, what the species did out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdmf.extract.extractors import TextExtraction, VideoExtraction
from rdmf.manifests.demo.dataset import DemoConfig, make_demo
from rdmf.pipeline.config import parse_config
from rdmf.pipeline.inspection.trace import read_traces, trace
from rdmf.pipeline.predict import encode, predict
from rdmf.pipeline.training.checkpoint import Best, RunInfo, build_model, save_best, save_run_info


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> tuple[Path, dict[str, Path]]:
    """A video, and runs with random weights that can be asked about it."""
    base = tmp_path_factory.mktemp("asked")
    make_demo(base / "demo", DemoConfig(seed=3, videos={"train": 1, "val": 1, "test": 1}), workers=1)
    specs = VideoExtraction("swin_nano", "random", 1.0).spec(), TextExtraction("bert_nano").spec()
    runs = {}
    for kind in ("reaction_diffusion", "cross_attention"):
        config = parse_config(
            {"model": {"hidden": 32, "fusion": {"kind": kind, "ffn": 32}, "moment": {"queries": 10, "heads": 4}}}, "x"
        )
        info = RunInfo(config, "demo", 1.0, "features", (specs[0],), specs[1], 75, {}, {}, "")
        runs[kind] = base / kind
        runs[kind].mkdir()
        save_run_info(runs[kind], info)
        torch.manual_seed(0)
        save_best(runs[kind], build_model(info), Best(1, 0.0, {}))
    return next((base / "demo" / "videos").iterdir()), runs


def test_the_command_writes_a_trace_and_draws_it(rdmf, asked, tmp_path):
    video, runs = asked
    file, figure = tmp_path / "t.npz", tmp_path / "t.png"
    run = runs["reaction_diffusion"]
    ran = rdmf("predict", video, "a red star spins", "it is night", "--run", run, "--trace", file, "--trace-figure",
               figure, "--trace-until", 30)  # fmt: skip
    assert ran.code == 0
    assert ran.out.count("confidence") == 2
    assert figure.read_bytes().startswith(b"\x89PNG")
    traces = read_traces(file)
    assert [(one.sentence, one.continued, one.times[-1]) for one in traces] == [
        ("a red star spins", False, 0.5), ("a red star spins", True, 30),
        ("it is night", False, 0.5), ("it is night", True, 30),
    ]  # fmt: skip
    (answer,) = predict(video, ["it is night"], run)
    np.testing.assert_allclose(traces[2].saliency[-1], answer.found.saliency, atol=1e-6)
    alone = encode(video, ["it is night"], run)
    np.testing.assert_allclose(
        trace(alone.model, alone.examples[0].clips, alone.examples[0].words).u, traces[2].u, atol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "options", "code", "says"),
    [
        ("reaction_diffusion", ["--trace", "{tmp}/t.pt"], 1, "ending in .npz"),
        ("reaction_diffusion", ["--trace", "{tmp}/no/t.npz"], 1, "folder for the trace"),
        ("reaction_diffusion", ["--trace-figure", "{tmp}/t.bmp"], 1, "ending in .png"),
        ("reaction_diffusion", ["--trace-figure", "{tmp}/t.gif", "--trace-until", "0.1"], 1, "horizon, 0.5"),
        ("reaction_diffusion", ["--trace-until", "10"], 2, "--trace-until needs"),
        ("cross_attention", ["--trace", "{tmp}/t.npz"], 1, "no reaction to trace"),
    ],
)
def test_what_cannot_be_traced_is_said_before_the_video_is_opened(rdmf, asked, tmp_path, kind, options, code, says):
    run = asked[1][kind]
    arguments = [option.format(tmp=tmp_path) for option in options]
    ran = rdmf("predict", tmp_path / "no video", "x", "--run", run, *arguments)
    assert ran.code == code
    assert says in " ".join(ran.err.replace("│", " ").split())
    assert code == 2 or ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
