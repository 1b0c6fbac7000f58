"""Comparisons: each number by its definition, the verdicts, what the command line names, published predictions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from rdmf import cli
from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.comparison.compare import compare
from rdmf.pipeline.comparison.comparison_text import markdown
from rdmf.pipeline.comparison.systems import System, parse_systems, read_systems
from rdmf.pipeline.config import Config
from rdmf.pipeline.evaluation.evaluate import Results, evaluate
from rdmf.pipeline.evaluation.intervals import resampled_means
from rdmf.pipeline.evaluation.predictions import Prediction, write_predictions
from rdmf.pipeline.evaluation.significance import bootstrap_p, holm
from rdmf.pipeline.training.train import train

# Comparisons

QUERIES = 60


def truth(saliency: bool = True) -> Manifest:
    rated = Saliency((2, 3), ((4.0,), (4.0,))) if saliency else None
    queries = tuple(Query(str(i), f"v{i // 2}", "a sentence", "val", (Moment(10, 20),), rated) for i in range(QUERIES))
    return Manifest("mine", 2.0, {q.vid: Video(q.vid, 60.0) for q in queries}, queries)


def predictions(right: float, seed: int, scores: bool = True) -> list[Prediction]:
    """The true window for that share of the queries, something else for the others."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(QUERIES):
        found = rng.random() < right
        window = np.array([[10, 20, 0.9] if found else [40, 50, 0.9]])
        clips = np.zeros(30)
        clips[2 if found else 20] = 1
        out.append(Prediction(str(i), window, clips if scores else None, vid=f"v{i // 2}"))
    return out


def system(name: str, *seeds: list[Prediction], by: Manifest | None = None) -> System:
    manifest = by or truth()
    return System(name, tuple(evaluate(p, manifest, "qvhighlights", resamples=0) for p in seeds))


def test_what_is_better_worse_and_not_different_is_said() -> None:
    ours = predictions(0.7, 0)
    found = compare(
        system("ours", ours),
        [system("poor", predictions(0.1, 1)), system("same", ours), system("best", predictions(1.0, 2))],
        resamples=2000,
    )
    verdicts = {(t.metric, t.baseline): t.verdict for t in found.tests}
    for metric in ("R1@0.5", "mIoU", "HL-VeryGood-mAP"):
        assert verdicts[metric, "poor"] == "better"
        assert verdicts[metric, "same"] == "not shown"
        assert verdicts[metric, "best"] == "worse"
    said = {t.baseline: found.sentence(t) for t in found.tests if t.metric == "R1@0.5"}
    assert said["poor"].startswith("R1@0.5: ours is significantly better than poor, by ")
    assert "no significant difference; ours equals same" in said["same"]
    assert "significantly worse than best" in said["best"]
    for test in found.tests:
        assert test.difference == pytest.approx(test.value - test.baseline_value)
        assert test.low <= test.difference <= test.high
        assert (test.queries, test.videos) == (QUERIES, QUERIES // 2)
    json.dumps(found.to_json(), allow_nan=False)


def test_each_number_is_what_its_definition_says() -> None:
    a, b, c = (
        system(name, predictions(share, seed)) for name, share, seed in (("a", 0.6, 3), ("b", 0.5, 4), ("c", 0.4, 5))
    )
    found = compare(a, [b, c], resamples=500, seed=11)
    of = {(t.metric, t.baseline): t for t in found.tests}
    for metric in ("R1@0.5", "mIoU"):
        ours = a.columns[metric]
        references = {other.name: scipy.stats.ttest_rel(ours, other.columns[metric]) for other in (b, c)}
        corrected = holm([reference.pvalue for reference in references.values()])
        for (name, reference), p in zip(references.items(), corrected, strict=True):
            test = of[metric, name]
            assert (test.t, test.t_p, test.t_p_holm) == pytest.approx((reference.statistic, reference.pvalue, p))
            differences = ours - (b if name == "b" else c).columns[metric]
            assert test.effect_size == pytest.approx(differences.mean() / differences.std(ddof=1))
            means = resampled_means(differences[:, None], a.results[0].table["vid"], 500, seed=11)
            assert test.bootstrap_p == bootstrap_p(means[:, 0])
            assert (test.low, test.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    again = compare(a, [b, c], resamples=500, seed=11)
    assert again == found


def test_seeds_are_averaged_query_by_query_before_pairing() -> None:
    seeds = [predictions(0.5, s) for s in (1, 2, 3)]
    ours = system("ours", *seeds)
    each = np.stack([system("one", s).columns["mIoU"] for s in seeds])
    np.testing.assert_allclose(ours.columns["mIoU"], each.mean(axis=0))
    found = compare(ours, [system("other", predictions(0.4, 9))], resamples=200)
    assert found.seeds == {"ours": 3, "other": 1}
    assert found.tests[0].value == pytest.approx(ours.columns["R1@0.5"].mean())
    assert any("averaged query by query" in note for note in found.notes)
    assert "ours: mean of 3 seeds" in markdown(found)


def test_which_average_precision_is_compared_is_said() -> None:
    both = system("a", predictions(0.5, 1)), system("b", predictions(0.5, 2))
    assert compare(both[0], both[1:], resamples=100).ap.startswith("AP is HL-mAP at VeryGood")
    silent = system("b", predictions(0.5, 2, scores=False))
    found = compare(both[0], [silent], resamples=100)
    assert found.ap == "AP is MR-mAP: some system does not score clips"
    assert [t.metric for t in found.tests] == ["R1@0.5", "mIoU", "mAP"]
    plain = truth(saliency=False)
    no_truth = [system(n, predictions(0.5, s), by=plain) for n, s in (("a", 1), ("b", 2))]
    assert compare(no_truth[0], no_truth[1:], resamples=100).ap == "AP is MR-mAP: there are no saliency scores"
    more = compare(both[0], both[1:], ["mAP", "HL-Good-Hit1"], resamples=100)
    assert [t.metric for t in more.tests] == ["R1@0.5", "mIoU", "HL-VeryGood-mAP", "mAP", "HL-Good-Hit1"]


def test_one_test_without_the_other_is_no_verdict() -> None:
    """Videos of thirty queries that all go the same way: many queries, few independent draws."""
    rng = np.random.default_rng(8)
    queries = tuple(Query(str(i), f"v{i // 30}", "a", "val", (Moment(10, 20),)) for i in range(240))
    manifest = Manifest("mine", 2.0, {q.vid: Video(q.vid, 60.0) for q in queries}, queries)
    wins = np.repeat([1, 1, 1, 1, 1, -1, -1, -1], 30) * (rng.random(240) < 0.9)
    window, other = np.array([[10, 20, 0.9]]), np.array([[40, 50, 0.9]])
    ours = [Prediction(str(i), window if w >= 0 else other) for i, w in enumerate(wins)]
    theirs = [Prediction(str(i), window if w <= 0 else other) for i, w in enumerate(wins)]
    found = compare(system("a", ours, by=manifest), [system("b", theirs, by=manifest)], resamples=2000)
    (test, *_) = found.tests
    assert (test.t_p_holm < 0.05, test.bootstrap_p_holm > 0.05) == (True, True)
    assert test.verdict == "unsettled"
    assert "the two tests disagree" in found.sentence(test)
    assert any("fewer than 30 videos" in note for note in found.notes)


def test_what_cannot_be_compared_is_refused() -> None:
    ours = system("a", predictions(0.5, 1))
    fewer = Manifest("mine", 2.0, truth().videos, truth().queries[:10])
    with pytest.raises(ValueError, match="at least one baseline"):
        compare(ours, [])
    with pytest.raises(ValueError, match=r"the same queries .*got 60 queries .* and 10 queries"):
        compare(ours, [system("b", predictions(0.5, 1)[:10], by=fewer)])
    with pytest.raises(ValueError, match=r"metrics that every system has, of R1@0.3, .*, got 'speed'"):
        compare(ours, [system("b", predictions(0.5, 2))], ["speed"])


# What is named on the command line


def test_systems_are_paths_or_names_with_their_seeds(tmp_path: Path) -> None:
    for name in ("one/preds.jsonl", "two/preds.jsonl", "three.jsonl", "a=b.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    one, two, three, odd = (tmp_path / n for n in ("one/preds.jsonl", "two/preds.jsonl", "three.jsonl", "a=b.jsonl"))
    assert parse_systems([str(one), str(two), str(three)]) == {"one": (one,), "two": (two,), "three.jsonl": (three,)}
    assert parse_systems([f"ours={one},{two}", str(three)]) == {"ours": (one, two), "three.jsonl": (three,)}
    assert parse_systems([str(odd), str(one)]) == {"a=b.jsonl": (odd,), "preds.jsonl": (one,)}
    for wrong, message in (
        ([str(one), "nothing.jsonl"], "got 'nothing.jsonl'"),
        ([f"ours={one},nothing", str(two)], "got 'nothing'"),
        (["ours=", str(two)], "got 'ours='"),
        ([str(one), str(one)], "twice; a system cannot be its own baseline"),
        ([f"x={one}", f"x={two}"], "a different name for each system, got 'x' twice"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_systems(wrong)


@pytest.fixture
def rdmf(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rdmf", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


@pytest.mark.shared
def test_the_published_predictions_are_told_apart_where_they_can_be(
    rdmf: Callable, shared: Path, tmp_path: Path
) -> None:
    folder = shared / "predictions" / "qvhighlights_val"
    names = {"CG-DETR": "cg_detr_best", "QD-DETR": "qd_detr_video_checkpoint_best", "Moment-DETR": "moment_detr_sample"}
    three = [f"{name}={folder / path / 'preds.jsonl'}" for name, path in names.items()]
    truth = ["--annotations", shared / "annotations" / "qvhighlights" / "highlight_val_release.jsonl"]
    extra = ["--metric", "mAP-long", "--metric", "R5@0.3", "--resamples", "2000"]
    code, out, err = rdmf(*three, *truth, *extra, "--markdown", tmp_path / "t.md", "--json", "-")
    assert code == 0
    tree = json.loads(out)
    of = {(t["metric"], t["baseline"]): t for t in tree["tests"]}
    for metric in ("R1@0.5", "mIoU", "HL-VeryGood-mAP"):
        assert of[metric, "Moment-DETR"]["verdict"] == "better"
        assert of[metric, "Moment-DETR"]["t_p_holm"] < 1e-6
        assert of[metric, "Moment-DETR"]["low"] > 0
    assert 100 * of["R1@0.5", "Moment-DETR"]["difference"] == pytest.approx(67.35 - 53.94, abs=0.011)
    assert 100 * of["R1@0.5", "QD-DETR"]["difference"] == pytest.approx(67.35 - 62.90, abs=0.011)
    assert 0.05 < of["R1@0.5", "QD-DETR"]["effect_size"] < 0.2  # less than what is called small
    for test in tree["tests"]:
        excluded = not test["low"] <= 0 <= test["high"]
        assert test["significant"] <= excluded
        assert test["sentence"] in (tmp_path / "t.md").read_text("utf-8")
    for metric in ("mAP-long", "R5@0.3"):
        assert of[metric, "QD-DETR"]["verdict"] == "not shown"
        assert of[metric, "QD-DETR"]["t_p"] > 0.1
    assert "AP is HL-mAP at VeryGood" in err
    assert (tmp_path / "t.md").read_text("utf-8").count("\n| ") == 11  # the rule and two baselines of five metrics


def test_files_and_runs_are_compared_and_seeds_grouped(
    rdmf: Callable, tiny: type, tiny_config: Config, tmp_path: Path
) -> None:
    features = tiny.write(tmp_path / "features", {"train": 4, "val": 3}, without=("val000",))
    runs = []
    for seed in (0, 1):
        runs.append(tmp_path / f"run{seed}")
        training = tiny_config.training.model_copy(update={"epochs": 1, "seed": seed})
        train(features, runs[-1], tiny_config.model_copy(update={"training": training}))
    code, out, err = rdmf(runs[0], runs[1], "--resamples", "100")
    assert code == 0
    assert "run0" in out
    assert "4 queries without features in some run are left out of all" in err

    named = {"ours": (runs[0], runs[1]), "guess": (tmp_path / "guess.jsonl",)}
    manifest = tiny.manifest({"train": 4, "val": 3})
    guess = [
        Prediction(q.qid, np.array([[0.0, 5.0, 1.0]]), np.zeros(len(tiny.item(source(q.vid)).values)), vid=q.vid)
        for q in manifest.split("val")
    ]
    write_predictions(guess, tmp_path / "guess.jsonl")
    systems, notes = read_systems(named)
    assert [len(s.results) for s in systems] == [2, 1]
    assert systems[0].results[0].rdmf["counts"]["queries"] == 8  # without the video that has no features
    with pytest.raises(ValueError, match=r"4 are missing: .*--allow-missing"):
        read_systems(named, manifest)
    systems, notes = read_systems(named, manifest, allow_missing=True)
    assert any("4 of 12 queries have no prediction and count as wrong" in note for note in notes)
    with pytest.raises(ValueError, match="add --annotations"):
        read_systems({"guess": (tmp_path / "guess.jsonl",)})
    with pytest.raises(ValueError, match="a run among the systems for --features"):
        read_systems({"guess": (tmp_path / "guess.jsonl",)}, manifest, features=features)


def source(vid: str) -> object:
    from rdmf.extract.layout import Source

    return Source(vid, vid)


def test_wrong_usage_and_wrong_input_are_told_apart(rdmf: Callable, tmp_path: Path) -> None:
    assert rdmf(tmp_path / "one.jsonl")[0] == 2
    code, _, err = rdmf(tmp_path / "one.jsonl", tmp_path / "two.jsonl")
    assert (code, err.count("\n")) == (1, 1)
    assert "expected a file of predictions or a run" in err


def test_results_can_be_compared_from_python() -> None:
    results: list[Results] = [evaluate(predictions(0.5, s), truth(), resamples=0) for s in (1, 2)]
    assert compare(System("a", (results[0],)), [System("b", (results[1],))], resamples=100).dataset == "mine"
    with pytest.raises(ValueError, match="at least one result of 'a'"):
        System("a", ())
