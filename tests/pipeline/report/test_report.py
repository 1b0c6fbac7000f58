"""The report as a file: whole, self-contained, true to the numbers, and safe with any text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rdmf import cli
from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.config import Config
from rdmf.pipeline.evaluation.evaluate import evaluate
from rdmf.pipeline.evaluation.headline import headline
from rdmf.pipeline.evaluation.predictions import Prediction, read_predictions, write_predictions
from rdmf.pipeline.evaluation.truth import read_truth
from rdmf.pipeline.report.browser import LEVELS, as_characters
from rdmf.pipeline.report.write import write_report
from rdmf.pipeline.training.train import train

QUERIES = 80
HOSTILE = (
    "</script><script>document.documentElement.dataset.taken = 1</script>",
    "<img src=x onerror='document.documentElement.dataset.taken = 2'> & \"quotes\"",
    "a | b [link](javascript:alert(1)) `code` *bold* $title ${title} %s {0}",
    "<!-- <![CDATA[ \u2028 \u2029 ]]> --> ünïcödé 漢字 🎬",
)
VOID = {"meta", "link", "input", "br", "img", "hr"}


class Parsed(HTMLParser):
    """A page taken apart: elements, their attributes, the texts of tables and scripts; and whether tags match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag, tag

    def handle_data(self, text):
        self.texts.append(text)
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += text
        elif self.tables and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += text

    @property
    def data(self) -> dict:
        return json.loads(self.scripts[0])

    def table(self, heading: str) -> dict[str, dict[str, str]]:
        """First cell -> heading -> cell of the first table with that heading."""
        head, *rows = next(table for table in self.tables if heading in table[0])
        return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def truth() -> Manifest:
    kinds = ("action", "object", "scene")
    queries = tuple(
        Query(
            f"q{i}", f"v{i // 2}", HOSTILE[i] if i < len(HOSTILE) else f"sentence number {i}", "val",
            (Moment(10, 20), Moment(30, 44)) if i % 3 else (Moment(10, 20),),
            Saliency((5, 6, 7), ((4.0,), (2.0,), (4.0,))), kinds[i % 3],
        )
        for i in range(QUERIES)
    )  # fmt: skip
    videos = {q.vid: Video(q.vid, 60.0) for q in queries}
    return Manifest("mine", 2.0, videos, queries)


def predictions(seed: int, scores: bool = True) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(QUERIES):
        starts, lengths = rng.uniform(0, 40, 7), rng.uniform(2, 20, 7)
        if rng.random() < 0.6:
            starts[0], lengths[0] = 10 + rng.uniform(-2, 2), 10
        windows = np.column_stack([starts, starts + lengths, np.sort(rng.random(7))[::-1]])
        out.append(Prediction(f"q{i}", windows, rng.normal(0, 3, 30) if scores else None, vid=f"v{i // 2}"))
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    out = {}
    for seed, name in enumerate(("ours", "theirs", "silent")):
        out[name] = folder / f"{name}.jsonl"
        write_predictions(predictions(seed, scores=name != "silent"), out[name])
    return out


@pytest.fixture(scope="module")
def written(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Page and Markdown of three systems, one of a hostile name and one without clip scores."""
    systems = [str(files["ours"]), f"<b>theirs</b>|={files['theirs']}", str(files["silent"])]
    html, text = write_report(
        systems, tmp_path_factory.mktemp("report"), truth(), resamples=200, paired_resamples=200
    )  # fmt: skip
    return html.read_text("utf-8"), text.read_text("utf-8")


@pytest.fixture(scope="module")
def parsed(written: tuple[str, str]) -> Parsed:
    return Parsed(written[0])


def test_the_headline_table_has_the_numbers_and_intervals_of_evaluate(
    parsed: Parsed, written: tuple[str, str], files: dict[str, Path]
) -> None:
    table = parsed.table("R1@0.5")
    assert list(table["ours.jsonl"]) == ["R1@0.5", "R1@0.7", "mAP@0.5", "mAP@0.75", "mAP avg.", "HL-mAP", "Hit@1"]
    for shown, file in (("ours.jsonl", "ours"), ("<b>theirs</b>|", "theirs"), ("silent.jsonl", "silent")):
        judged = evaluate(read_predictions(files[file]), truth(), resamples=200)
        full = judged.metrics["full"]
        assert table[shown]["mAP@0.5"].startswith(f"{full['MR-mAP']['0.5']:.2f}")
        assert table[shown]["mAP@0.75"].startswith(f"{full['MR-mAP']['0.75']:.2f}")
        for heading, number in headline(judged).items():
            cell = table[shown].get({"mAP": "mAP avg."}.get(heading, heading))
            if cell is not None:
                assert cell == number.replace(" ", "", 1)
                assert number in written[1]
    assert table["silent.jsonl"]["HL-mAP"] == "-"


def test_every_table_of_the_page_is_in_its_markdown(parsed: Parsed, written: tuple[str, str]) -> None:
    lines = [re.sub(r"[\s*\\]", "", line) for line in written[1].splitlines() if line.startswith("|")]
    for table in parsed.tables:
        for row in table:
            assert "|" + "|".join(re.sub(r"[\s*\\]", "", cell) for cell in row) + "|" in lines
    for title in ("Differences", "By group of queries", "Does the confidence predict the IoU?"):
        assert f"## {title}" in written[1]


def test_the_page_loads_nothing_and_lets_only_its_own_script_run(written: tuple[str, str], parsed: Parsed) -> None:
    for tag, attributes in parsed.elements:
        assert tag not in ("iframe", "object", "embed", "base", "img", "video", "audio", "source", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,", "data:,")), (tag, name, value)
    page = re.sub(r'<script type="application/json".*?</script>', "", written[0], flags=re.S)
    assert not re.search(
        r"url\(|@import|fetch\(|XMLHttpRequest|import\(|innerHTML|insertAdjacentHTML|document\.write", page
    )
    assert set(re.findall(r"https?://[^\"'\s<)]+", page)) <= {"http://www.w3.org/2000/svg"}
    policy = next(a["content"] for t, a in parsed.elements if t == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[1].encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_text_from_outside_stays_text(parsed: Parsed, written: tuple[str, str]) -> None:
    assert Counter(tag for tag, _ in parsed.elements)["script"] == 2
    assert [query[1] for query in parsed.data["queries"]][: len(HOSTILE)] == list(HOSTILE)
    assert parsed.data["systems"][1][0] == "<b>theirs</b>|"
    assert "b" not in {tag for tag, _ in parsed.elements}
    assert "<b>" not in re.sub(r"\\<b\\>", "", written[1])
    assert "](javascript" not in written[1]


def test_every_query_is_embedded_with_its_truth_and_predictions(parsed: Parsed, files: dict[str, Path]) -> None:
    data, made = parsed.data, read_predictions(files["ours"])
    table = evaluate(made, truth(), resamples=0).table
    assert len(data["queries"]) == QUERIES
    for i, (qid, _, vid, seconds, kind, clip, windows, annotated, answers) in enumerate(data["queries"]):
        query = truth().queries[i]
        assert (qid, vid, seconds, kind, clip) == (query.qid, query.vid, 60.0, query.kind, 2.0)
        assert windows == [x for w in query.windows for x in (w.start_s, w.end_s)]
        assert [LEVELS.index(c) for c in annotated[4:9]] == [0, 63, 32, 63, 0]
        found, scores, score = answers[0]
        np.testing.assert_allclose(np.reshape(found, (5, 4))[:, :3], made[i].windows[:5], atol=0.006)
        assert found[3] == pytest.approx(table["iou"][i], abs=6e-4)
        assert score == pytest.approx(table["iou"][i], abs=6e-5)
        assert LEVELS.index(scores[int(np.argmax(made[i].saliency))]) == 63
        assert answers[2][1] == ""  # the system without clip scores


def test_characters_keep_a_score_to_a_63rd() -> None:
    values = np.linspace(-2, 5, 500)
    read = np.array([LEVELS.index(c) for c in as_characters(values, -2, 5)]) / 63 * 7 - 2
    assert np.abs(read - values).max() <= 7 / 63 / 2 + 1e-9
    assert as_characters(np.ones(3), 1, 1) == "000"


def test_one_file_without_saliency_or_kinds_makes_a_report_of_what_it_provides(
    files: dict[str, Path], tmp_path: Path
) -> None:
    plain = replace(truth(), queries=tuple(replace(q, saliency=None, kind=None) for q in truth().queries))
    html, _ = write_report([str(files["silent"])], tmp_path / "one.html", plain, resamples=100, protocol="charades")
    page = Parsed(html.read_text("utf-8"))
    assert list(page.table("mIoU")["silent.jsonl"]) == ["R1@0.3", "R1@0.5", "R1@0.7", "mIoU"]
    anchors = {attributes.get("id") for tag, attributes in page.elements if tag == "section"}
    assert {"results", "recall", "calibration", "cases", "queries"} <= anchors
    assert not {"differences", "settings", "sharpness", "smoothing"} & anchors
    assert (tmp_path / "one.md").is_file()


def test_clip_scores_alone_make_a_report(tmp_path: Path) -> None:
    only_scores = [Prediction(p.qid, None, p.saliency, vid=p.vid) for p in predictions(5)]
    write_predictions(only_scores, tmp_path / "scores.jsonl")
    for protocol, heading in (("qvhighlights", "HL-mAP"), ("highlights", "mAP of clips")):
        html, _ = write_report(
            [str(tmp_path / "scores.jsonl")], tmp_path / protocol, truth(), resamples=100, protocol=protocol
        )  # fmt: skip
        page = Parsed(html.read_text("utf-8"))
        assert heading in page.table(heading)["scores.jsonl"]
        assert page.data["score"] == "AP"
        assert all(query[8][0][0] == [] and query[8][0][2] is not None for query in page.data["queries"])


def test_queries_without_prediction_or_truth_or_length_are_shown(tmp_path: Path) -> None:
    some = [replace(p, windows=np.empty((0, 3))) if i % 9 == 0 else p for i, p in enumerate(predictions(6)) if i % 5]
    bare = replace(
        truth(),
        videos={vid: replace(video, duration_s=None) for vid, video in truth().videos.items()},
        queries=tuple(
            replace(q, saliency=None, windows=q.windows if i % 7 else ()) for i, q in enumerate(truth().queries)
        ),
    )
    write_predictions([replace(p, saliency=None) for p in some], tmp_path / "some.jsonl")
    html, _ = write_report([str(tmp_path / "some.jsonl")], tmp_path, bare, resamples=100, allow_missing=True)
    queries = Parsed(html.read_text("utf-8")).data["queries"]
    assert len(queries) == QUERIES
    assert queries[0][3] is None
    assert queries[0][8][0] == [[], "", None]


def test_runs_files_and_seeds_are_reported_together(tiny_features: Path, tiny_config: Config, tmp_path: Path) -> None:
    for seed in (0, 1):
        training = tiny_config.training.model_copy(update={"epochs": 1, "seed": seed})
        train(tiny_features, tmp_path / f"run{seed}", tiny_config.model_copy(update={"training": training}))
    from rdmf.pipeline.comparison.evaluate_run import evaluate_run

    judged = evaluate_run(tmp_path / "run0", predictions_to=tmp_path / "same.jsonl", resamples=100)
    seeds = f"two seeds={tmp_path / 'run0'},{tmp_path / 'run1'}"
    html, text = write_report([seeds, str(tmp_path / "same.jsonl")], tmp_path / "mixed", resamples=100)
    page = Parsed(html.read_text("utf-8"))
    table = page.table("R1@0.5")
    assert table["same.jsonl"]["R1@0.5"] == headline(judged.run)["R1@0.5"].replace(" ", "", 1)
    assert "± " in table["two seeds (2 seeds)"]["R1@0.5"]
    assert page.data["systems"][0] == ["two seeds", 2, True]
    said = text.read_text("utf-8")
    assert "chosen on val by mAP, so these numbers are a little too good" in said
    assert "with and without the IoU head" in said
    anchors = {attributes.get("id") for tag, attributes in page.elements if tag == "section"}
    assert {"differences", "sharpness", "smoothing"} <= anchors
    assert "settings" not in anchors  # one run config, two seeds

    html, _ = write_report([str(tmp_path / "run0")], tmp_path / "run.html", resamples=100, split="test")
    assert "the epoch was chosen on val" in html.read_text("utf-8")


@pytest.mark.shared
def test_the_published_predictions_fit_on_one_small_page(shared: Path, tmp_path: Path) -> None:
    folder = shared / "predictions" / "qvhighlights_val"
    names = ("cg_detr_best", "qd_detr_video_checkpoint_best", "moment_detr_sample")
    systems = [str(folder / name / "preds.jsonl") for name in names]
    annotations = read_truth(shared / "annotations" / "qvhighlights")
    html, _ = write_report(systems, tmp_path, annotations, resamples=100, paired_resamples=500)
    assert html.stat().st_size < 3e6
    page = Parsed(html.read_text("utf-8"))
    assert len(page.data["queries"]) == 1550
    for name in names:
        published = json.loads((folder / name / "metrics.json").read_text())["brief"]
        row = page.table("R1@0.5")[name]
        for heading, key in (
            ("R1@0.5", "MR-full-R1@0.5"), ("R1@0.7", "MR-full-R1@0.7"), ("mAP avg.", "MR-full-mAP"),
            ("mAP@0.5", "MR-full-mAP@0.5"), ("mAP@0.75", "MR-full-mAP@0.75"),
            ("HL-mAP", "HL-min-VeryGood-mAP"), ("Hit@1", "HL-min-VeryGood-Hit1"),
        ):  # fmt: skip
            assert row[heading].startswith(f"{published[key]:.2f}["), (name, heading)


# The command


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["rdmf", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)  # type: ignore[arg-type]


def test_the_command_says_what_it_wrote_and_what_is_wrong(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rdmf.manifests.files import write_manifest

    write_manifest(truth(), tmp_path / "manifest.parquet")
    given = ("--annotations", tmp_path, "--resamples", 100)
    assert (
        run_command(monkeypatch, files["ours"], files["theirs"], *given, "--out", tmp_path / "a", "--title", "<Mine>")
        == 0
    )
    assert str(tmp_path / "a" / "report.html") in capsys.readouterr().out
    assert "<h1>&lt;Mine&gt;</h1>" in (tmp_path / "a" / "report.html").read_text("utf-8")
    assert "# \\<Mine\\>" in (tmp_path / "a" / "report.md").read_text("utf-8")

    assert run_command(monkeypatch, files["ours"], "--out", tmp_path / "b") == 1
    assert "add --annotations" in capsys.readouterr().err
    assert run_command(monkeypatch, files["ours"], *given, "--out", tmp_path / "b.pdf") == 1
    assert "ending in .html" in capsys.readouterr().err
    assert run_command(monkeypatch, "nothing.jsonl", *given, "--out", tmp_path / "b") == 1
    assert "nothing.jsonl" in capsys.readouterr().err
    assert run_command(monkeypatch, files["ours"], *given) == 2
    assert run_command(monkeypatch, "--out", tmp_path / "b") == 2
    assert not (tmp_path / "b").exists()
