"""How long an evaluation takes: rdmf against the official QVHighlights evaluator, in the same run, number by number.

The official evaluator is `standalone_eval` of github.com/jayleicn/moment_detr, which is not part of rdmf: give a
checkout of it and a Python that has scikit-learn. Both sides begin with parsed files, and are timed in turn. Prints
seconds (median and range), the ratio, and the largest difference of all numbers that both give.

    python benchmarks/evaluation.py --predictions preds.jsonl --annotations highlight_val_release.jsonl \\
        --official moment_detr [--official-python moment_detr/.venv/bin/python] [--repeat 5]

Without files, 1,550 made-up queries of the form of QVHighlights val take their place.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rdmf.pipeline.evaluation.evaluate import evaluate
from rdmf.pipeline.evaluation.predictions import read_predictions
from rdmf.pipeline.evaluation.truth import read_truth

OFFICIAL = """
import contextlib, json, sys, time
sys.path.insert(0, sys.argv[1])
from standalone_eval.eval import eval_submission
from standalone_eval.utils import load_jsonl
if __name__ == "__main__":
    predictions, truth = load_jsonl(sys.argv[2]), load_jsonl(sys.argv[3])
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            began = time.perf_counter()
            numbers = eval_submission(predictions, truth, verbose=False)
            seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "numbers": numbers}), flush=True)
"""


def make_files(folder: Path, queries: int = 1550) -> tuple[Path, Path]:
    """Annotations and predictions of 150 s videos, with windows on the 2 s grid."""
    rng = np.random.default_rng(0)
    truth, predictions = [], []
    for qid in range(queries):
        start = 2 * rng.integers(0, 70, rng.choice([1, 2, 3, 5, 25], p=[0.66, 0.18, 0.1, 0.05, 0.01]))
        windows = [[int(s), int(min(150, s + 2 * rng.integers(1, 40)))] for s in start]
        clips = list(range(windows[0][0] // 2, windows[0][1] // 2))
        truth.append({
            "qid": qid, "query": "a sentence", "duration": 150, "vid": f"v{qid}", "relevant_windows": windows,
            "relevant_clip_ids": clips, "saliency_scores": rng.integers(0, 5, (len(clips), 3)).tolist(),
        })  # fmt: skip
        ends = np.sort(2 * rng.integers(0, 76, (10, 2)), axis=1)
        listed = np.column_stack([ends, -np.sort(-rng.random(10).round(4))])
        listed[:, 1] += 2 * (listed[:, 0] == listed[:, 1])
        predictions.append({
            "qid": qid, "query": "a sentence", "vid": f"v{qid}", "pred_relevant_windows": listed.tolist(),
            "pred_saliency_scores": rng.normal(size=75).round(4).tolist(),
        })  # fmt: skip
    for name, records in (("highlight_val_release.jsonl", truth), ("preds.jsonl", predictions)):
        (folder / name).write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return folder / "preds.jsonl", folder / "highlight_val_release.jsonl"


def numbers_of(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from numbers_of(value, (*path, key))
        else:
            yield (*path, key), value


def show(name: str, seconds: list[float]) -> None:
    print(f"{name:<22} {np.median(seconds):8.3f} s   ({min(seconds):.3f} to {max(seconds):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--official", type=Path, help="a checkout of moment_detr")
    parser.add_argument("--official-python", default=sys.executable, help="a Python with scikit-learn")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    if (arguments.predictions is None) != (arguments.annotations is None):
        parser.error("give --predictions and --annotations, or neither")
    with tempfile.TemporaryDirectory() as folder:
        files = arguments.predictions, arguments.annotations
        if arguments.predictions is None:
            print("no files given: 1,550 made-up queries")
            files = make_files(Path(folder))
        compare(*files, arguments.official, arguments.official_python, arguments.repeat)


def compare(predictions_file: Path, annotations_file: Path, official: Path | None, python: str, repeat: int) -> None:
    predictions, truth = read_predictions(predictions_file), read_truth(annotations_file, "qvhighlights")
    process = None
    if official is None or not (official / "standalone_eval" / "eval.py").is_file():
        print("no official evaluator (--official names a checkout of moment_detr): there is nothing to compare with")
    else:
        files = [str(path.resolve()) for path in (official, predictions_file, annotations_file)]
        process = subprocess.Popen(
            [python, "-c", OFFICIAL, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
    ours: list[float] = []
    theirs: list[float] = []
    with_intervals: list[float] = []
    for repetition in range(repeat + 1):
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            print("evaluate", file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline() or "null")
            if answer is None:
                sys.exit("the official evaluator stopped; --official-python needs numpy and scikit-learn")
            theirs.append(answer["seconds"])
        for seconds, resamples in ((ours, 0), (with_intervals, 1000)):
            began = time.perf_counter()
            results = evaluate(predictions, truth, "qvhighlights", resamples=resamples)
            seconds.append(time.perf_counter() - began)
        if repetition == 0:
            for seconds in (ours, theirs, with_intervals):
                seconds.clear()  # the first warms up
    show("rdmf", ours)
    show("rdmf with intervals", with_intervals)
    if process is not None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        found, expected = dict(numbers_of(results.metrics)), dict(numbers_of(answer["numbers"]))
        worst = max(abs(found[key] - value) for key, value in expected.items())
        ratio = np.array(theirs) / np.array(ours)
        show("official evaluator", theirs)
        print(f"ratio                  {np.median(ratio):8.1f}     ({ratio.min():.1f} to {ratio.max():.1f})")
        print(f"largest difference of {len(expected)} numbers: {worst:.2f}")


if __name__ == "__main__":
    main()
