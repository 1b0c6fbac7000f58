"""Real files, cut and flipped: every one ends in features or in a named failure, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdmf.extract.decode_pool import DecodeLimits
from rdmf.extract.extractors import VideoExtraction
from rdmf.extract.layout import Source
from rdmf.extract.reader import FeatureStore
from rdmf.extract.schedule import extract_store
from rdmf.extract.workers import Workers

MUTATIONS = 510
LARGEST = 700_000  # bytes of a file that is mutated
STAGES = {"open", "probe", "decode", "memory", "timeout", "crash", "extract"}
Mutation = Callable[[bytearray, np.random.Generator], bytes]


def cut(raw: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(raw[: rng.integers(0, len(raw))])


def cut_the_middle(raw: bytearray, rng: np.random.Generator) -> bytes:
    a, b = sorted(rng.integers(0, len(raw), 2).tolist())
    return bytes(raw[:a] + raw[b:])


def flip_bits(raw: bytearray, rng: np.random.Generator) -> bytes:
    for at in rng.integers(0, len(raw), int(rng.choice([1, 4, 32, 500]))):
        raw[at] ^= 1 << int(rng.integers(8))
    return bytes(raw)


def flip_the_header(raw: bytearray, rng: np.random.Generator) -> bytes:
    """Headers and tables lie at the ends: sizes, counts, codecs, times."""
    ends = np.r_[0 : min(400, len(raw)), max(0, len(raw) - 4000) : len(raw)]
    for at in rng.choice(ends, 6):
        raw[at] = int(rng.integers(256))
    return bytes(raw)


def overwrite(raw: bytearray, rng: np.random.Generator) -> bytes:
    start, length = int(rng.integers(len(raw))), int(rng.integers(1, 5000))
    filling = rng.integers(0, 256, length, np.uint8) if rng.random() < 0.5 else np.full(length, 255, np.uint8)
    raw[start : start + length] = filling.tobytes()
    return bytes(raw)


MUTATE: list[Mutation] = [cut, cut_the_middle, flip_bits, flip_the_header, overwrite]


@pytest.mark.shared
@pytest.mark.slow
def test_mutated_real_files_end_in_features_or_a_named_failure(shared: Path, tmp_path: Path) -> None:
    files = sorted(p for p in (shared / "videos").iterdir() if p.suffix not in (".json", ".mp3"))
    files = [path for path in files if 0 < path.stat().st_size < LARGEST]
    (tmp_path / "in").mkdir()
    sources = []
    for i in range(MUTATIONS):
        path, mutate = files[i % len(files)], MUTATE[i % len(MUTATE)]
        mutated = mutate(bytearray(path.read_bytes()), np.random.default_rng(i))
        target = tmp_path / "in" / f"{i:03}-{mutate.__name__}-{path.name}"
        target.write_bytes(mutated)
        sources.append(Source(target.name, str(target)))
    extraction = VideoExtraction("swin_nano", None, 1.0, limits=DecodeLimits(memory_gib=2, seconds=20))
    with Workers(2) as workers:
        receipt = extract_store(tmp_path / "out", extraction.spec(), sources, extraction, workers)
    store = FeatureStore.open(tmp_path / "out")
    assert receipt.written + receipt.failed == MUTATIONS
    assert {*store.ids, *(f.id for f in store.failures)} == {source.id for source in sources}
    assert all(failure.stage in STAGES and failure.reason for failure in store.failures)
    assert receipt.failed > MUTATIONS / 10  # the mutations do damage,
    assert receipt.written > MUTATIONS / 10  # and not only that
    assert store.verify() == []
