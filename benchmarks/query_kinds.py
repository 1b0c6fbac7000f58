"""How often the rules of rdmf.pipeline.evaluation.query_kinds agree with a reader, and the kinds of three datasets.

The labels (query_kind_labels.csv of the tests) are of 600 queries of the QVHighlights validation split in four parts,
explained in docs/query_kinds.md: the rules were made on `tune` and `retune`, and `unread` was drawn, read and labelled
after they were final. The sentences come from the annotations. Prints accuracy with a Wilson interval of 95%,
the confusions, precision and recall by kind, and the share of every kind.

    python benchmarks/query_kinds.py [--annotations ../shared/data/annotations] [--part unread]
"""

from __future__ import annotations

import argparse
import csv
import math
import os
from collections import Counter
from pathlib import Path

from rdmf.manifests.activitynet import read_activitynet
from rdmf.manifests.charades import read_charades
from rdmf.manifests.qvhighlights import read_qvhighlights
from rdmf.pipeline.evaluation.query_kinds import KINDS, kind_of

ROOT = Path(__file__).resolve().parents[1]
LABELS = ROOT / "tests" / "pipeline" / "evaluation" / "query_kind_labels.csv"
PARTS = ("tune", "retune", "report", "unread")
DATASETS = (
    ("qvhighlights", read_qvhighlights, "val"),
    ("charades_sta", read_charades, "test"),
    ("activitynet_captions", read_activitynet, "val"),
)


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927), as shares."""
    if not n:
        return math.nan, math.nan
    centre = (hits + z * z / 2) / (n + z * z)
    half = z * math.sqrt(hits * (n - hits) / n + z * z / 4) / (n + z * z)
    return centre - half, centre + half


def share(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{hits:4d} of {n:4d}  {100 * hits / n:5.1f} [{100 * low:.1f}, {100 * high:.1f}]" if n else "   0 of    0"


def print_agreement(part: str, pairs: list[tuple[str, str]]) -> None:
    """pairs: (label, answer of the rules)."""
    counts = Counter(pairs)
    print(f"\n{part}: accuracy {share(sum(label == answer for label, answer in pairs), len(pairs))}")
    print(f"  {'label':<12}" + "".join(f"{kind:>12}" for kind in KINDS) + "   precision, recall")
    for kind in KINDS:
        row = "".join(f"{counts[kind, answer]:12d}" for answer in KINDS)
        answered, labelled = (sum(n for pair, n in counts.items() if pair[i] == kind) for i in (1, 0))
        hits = counts[kind, kind]
        print(f"  {kind:<12}{row}   {share(hits, answered)},  {share(hits, labelled)}")


def main() -> None:
    shared = Path(os.environ.get("RDMF_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, default=shared / "annotations")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    annotations, parts = (arguments := parser.parse_args()).annotations, arguments.part or PARTS
    if not annotations.is_dir():
        print(f"the annotations folder {annotations} is absent; give it with --annotations")
        return
    with LABELS.open(newline="") as file:
        labels = list(csv.DictReader(file))
    texts = {query.qid: query.text for query in read_qvhighlights(annotations / "qvhighlights").queries}
    for part in parts:
        print_agreement(part, [(row["kind"], kind_of(texts[row["qid"]])) for row in labels if row["part"] == part])
    print()
    for name, read, split in DATASETS:
        found = Counter(kind_of(query.text) for query in read(annotations / name).queries if query.split == split)
        total = found.total()
        kinds = "  ".join(f"{kind} {found[kind]:5d} ({100 * found[kind] / total:4.1f}%)" for kind in KINDS)
        print(f"{name + ' ' + split:<26}{total:6d}  {kinds}")


if __name__ == "__main__":
    main()
