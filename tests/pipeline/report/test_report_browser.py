"""The browser of queries in headless Chromium: it lists, sorts, finds and draws, and runs nothing from outside."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.evaluation.predictions import Prediction, write_predictions
from rdmf.pipeline.report.write import write_report

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

QUERIES = 80
HOSTILE = (
    "</script><script>document.documentElement.dataset.taken = 1</script>",
    "<img src=x onerror='document.documentElement.dataset.taken = 2'>",
)
DRIVER = """<script>
const first = () => document.querySelector(".item").dataset.index;
const press = (name) => { document.querySelector(`#orders [value=${name}]`).click(); return first(); };
const told = { worst: press("worst"), best: press("best"), sure: press("sure"), apart: press("apart") };
press("given");
const search = document.getElementById("search");
search.value = "Sentence Number 7"; search.dispatchEvent(new Event("input"));
told.found = [...document.querySelectorAll(".item")].map((item) => +item.dataset.index);
search.value = ""; document.getElementById("kind").value = "scene";
document.getElementById("kind").dispatchEvent(new Event("change"));
told.scenes = document.getElementById("count").textContent;
document.querySelectorAll(".item")[2].click();
told.opened = document.querySelector("#detail h3").textContent;
told.rows = document.querySelectorAll("#detail tbody tr").length;
told.bars = document.querySelectorAll("#detail .bar").length;
told.lines = document.querySelectorAll("#detail .line").length;
const out = document.createElement("pre"); out.id = "told"; out.textContent = JSON.stringify(told);
document.body.append(out);
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two systems with clip scores."""
    folder = tmp_path_factory.mktemp("report")
    kinds = ("action", "object", "scene")
    queries = tuple(
        Query(
            f"q{i}", f"v{i}", HOSTILE[i] if i < len(HOSTILE) else f"sentence number {i}", "val", (Moment(10, 20),),
            Saliency((5, 6, 7), ((4.0,), (2.0,), (4.0,))), kinds[i % 3],
        )
        for i in range(QUERIES)
    )  # fmt: skip
    for seed, name in enumerate(("ours", "theirs")):
        rng = np.random.default_rng(seed)
        start = 10 + rng.uniform(-12, 12, (QUERIES, 5)).clip(-10)
        windows = np.stack([start, start + 10, np.sort(rng.random((QUERIES, 5)))[:, ::-1]], axis=2)
        made = [Prediction(q.qid, w, rng.normal(size=30)) for q, w in zip(queries, windows, strict=True)]
        write_predictions(made, folder / f"{name}.jsonl")
    truth = Manifest("mine", 2.0, {q.vid: Video(q.vid, 60.0) for q in queries}, queries)
    systems = [str(folder / "ours.jsonl"), str(folder / "theirs.jsonl")]
    return write_report(systems, folder / "page.html", truth, resamples=100, paired_resamples=100)[0]


def run(page: Path, fragment: str = "") -> tuple[str, str]:
    """The document after its script ran, and what the browser said."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=2000"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), *options, profile, "--dump-dom", page.as_uri() + fragment],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


def test_the_page_comes_alive_without_a_complaint_and_runs_nothing_from_outside(page: Path) -> None:
    dom, said = run(page, "#query-1")
    assert "CONSOLE" not in said
    assert "data-taken" not in dom
    assert dom.count('class="item"') == 60  # the first of 80
    opened = re.search(r'<article class="detail".*?<h3>(.*?)</h3>', dom, re.S)
    assert opened is not None
    assert opened[1].startswith("&lt;img src=x onerror=")
    assert 'class="timeline"' in dom


def test_queries_are_sorted_found_filtered_and_drawn(page: Path, tmp_path: Path) -> None:
    driven = tmp_path / "driven.html"
    text = re.sub(r"<meta http-equiv.*?>", "", page.read_text("utf-8"))  # whose policy lets no other script run
    driven.write_text(text.replace("</body>", DRIVER + "</body>"), "utf-8")
    found = re.search(r'<pre id="told">(.*?)</pre>', run(driven)[0], re.S)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    assert data is not None
    told, answers = json.loads(found[1]), [query[8] for query in json.loads(data[1])["queries"]]
    score, sure = np.array([a[0][2] for a in answers]), np.array([a[0][0][2] for a in answers])
    assert score[int(told["worst"])] == score.min()
    assert score[int(told["best"])] == score.max()
    assert sure[int(told["sure"])] == sure[score < 0.1].max()
    gaps = [abs(a[0][2] - a[1][2]) for a in answers]
    assert gaps[int(told["apart"])] == max(gaps)
    assert told["found"] == [7, *range(70, 80)]
    assert told["scenes"] == f"{QUERIES // 3} of {QUERIES} queries"
    assert told["opened"] == "sentence number 8"
    assert told["rows"] == told["bars"] == 10
    assert told["lines"] == 2
