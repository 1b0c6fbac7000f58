from __future__ import annotations

import os
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.extract.extractors import one_by_one
from rdmf.extract.layout import Item, Source, StoreError, StoreSpec, text_sha256
from rdmf.extract.schedule import extract_store
from rdmf.manifests.files import write_manifest
from rdmf.manifests.schema import Manifest, Moment, Query, Saliency, Video
from rdmf.pipeline.loading import resident
from rdmf.pipeline.loading.dataset import Batch, MomentDataset, collate, open_features
from rdmf.pipeline.loading.memory import control_groups, free_memory
from rdmf.pipeline.loading.resident import Ragged, ResidentSplit, settle

CPU = torch.device("cpu")
RESIDENCES = ("device", "host", "mapped")
VIDEOS = {f"v{i}": clips for i, clips in enumerate((1, 7, 3, 12, 5))}
WIDTHS = {"first": 6, "second": 4}


def clips_in(store: str, vid: str) -> int:
    return VIDEOS[vid] + (store == "second" and VIDEOS[vid] % 3 == 0)


def write_ragged(folder: Path, fault: str = "") -> Path:
    """Two video stores, one of which has a clip more at times, in shards of two; sentences of 1 to 6 words."""

    def item(source: Source, store: str) -> Item:
        rng = np.random.default_rng([*source.id.encode(), *store.encode()])
        if store == "text":
            return Item(source.id, rng.normal(size=(rng.integers(1, 7), 5)), None, None, text_sha256(source.content))
        clips = clips_in(store, source.id) + 2 * (fault == "longer" and store == "second")
        edges = 2.0 * np.arange(clips + 1) + 0.5 * (fault == "shifted" and store == "second")
        edges[-1] -= 0.6  # the last clip is short
        times = np.stack([edges[:-1], edges[1:]], 1)
        return Item(source.id, rng.normal(size=(clips, WIDTHS[store])), times, float(edges[-1]), "0" * 64)

    scored = Saliency((0, 1), ((1.0, 4.0), (2.0, 3.0)), 2.0)
    labels = (  # several windows, one behind the end, none with and without scores, one as long as the video
        ((Moment(0.2, 1.9), Moment(3.0, 5.5), Moment(6, 30)), scored), ((Moment(0.5, 90.0), Moment(88, 90)), None),
        ((), scored), ((), None), ((Moment(0.0, 90.0),), None),
    )  # fmt: skip
    queries = tuple(
        Query(f"{vid}-{n}", vid, f"sentence {n}", "train", *label) for vid in VIDEOS for n, label in enumerate(labels)
    )
    manifest = Manifest("ragged", 2.0, {vid: Video(vid, 90.0) for vid in VIDEOS}, queries[::-1])
    sources = {"video": [Source(vid, vid) for vid in VIDEOS], "text": [Source(q.qid, q.text) for q in queries]}
    specs = [StoreSpec("video", name, {"sha256": "1" * 64}, {}, 2.0, width) for name, width in WIDTHS.items()]
    for spec in (*specs, StoreSpec("text", "text", {"sha256": "2" * 64}, {}, None, 5)):
        make = partial(item, store=spec.encoder)
        extract_store(
            folder / spec.kind / spec.folder_name, spec, sources[spec.kind],
            lambda make=make: one_by_one(make), shard_items=2,
        )  # fmt: skip
    write_manifest(manifest, folder / "manifest.parquet")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ragged(tmp_path_factory.mktemp("ragged"))


@pytest.fixture(scope="module", params=[("first", "second"), ("second",)], ids="+".join)
def dataset(request: pytest.FixtureRequest, folder: Path) -> MomentDataset:
    return MomentDataset(open_features(folder, request.param), "train")


def assert_same(a: Batch, b: Batch) -> None:
    for f in fields(Batch):
        one, other = getattr(a, f.name), getattr(b, f.name)
        assert one.dtype == other.dtype, f.name
        assert torch.equal(one, other), f.name


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 24), min_size=1, max_size=12))
def test_a_batch_is_bit_for_bit_the_collated_examples_wherever_the_features_live(dataset, rows):
    expected = collate([dataset[row] for row in rows])
    for residence in RESIDENCES:
        assert_same(ResidentSplit(dataset, residence=residence).batch(torch.tensor(rows)), expected)


def test_the_rows_cover_what_is_ragged(dataset):
    examples = [dataset[i] for i in range(len(dataset))]
    assert {len(e.spans) for e in examples} >= {0, 1, 3}
    assert {e.labelled for e in examples} == {True, False}
    assert len({len(e.words) for e in examples}) > 3
    assert len({len(e.clips.values) for e in examples}) == len(VIDEOS)


def test_another_video_s_sentences_are_asked_where_the_dataset_asks_them(dataset):
    swapped, rows = dataset.with_texts_of_other_videos(seed=2), torch.arange(len(dataset))
    batch = ResidentSplit(swapped).batch(rows)
    assert_same(batch, collate([swapped[i] for i in rows.tolist()]))
    assert not torch.equal(batch.words, ResidentSplit(dataset).batch(rows).words)


@pytest.mark.parametrize("residence", RESIDENCES)
@pytest.mark.parametrize("pad_to", [4, 8])
def test_padding_further_leaves_few_widths_and_changes_nothing_else(dataset, residence, pad_to):
    split, plain = ResidentSplit(dataset, residence=residence, pad_to=pad_to), ResidentSplit(dataset)
    for rows in torch.arange(len(dataset)).split(4):
        wide, narrow = split.batch(rows), plain.batch(rows)
        for f in fields(Batch):
            more, less = getattr(wide, f.name), getattr(narrow, f.name)
            inside = tuple(slice(n) for n in less.shape)
            assert torch.equal(more[inside], less)
            assert more.count_nonzero() == less.count_nonzero()  # 0 and False behind
        assert wide.clips.shape[1] % pad_to == wide.words.shape[1] % pad_to == 0
        assert wide.clips.shape[1] - narrow.clips.shape[1] < pad_to
        assert wide.spans.shape[1] == {1: 1, 2: 2, 3: 4}[narrow.spans.shape[1]]


def test_every_video_and_sentence_is_held_once_as_it_is_stored(dataset):
    split = ResidentSplit(dataset)
    clips = sum(min(clips_in(store.spec.encoder, vid) for store in dataset.features.video) for vid in VIDEOS)
    words = sum(len(dataset[i].words) for i in range(len(dataset)))
    dv, dt = dataset.features.dims
    assert split.nbytes == 2 * ((1 + clips) * dv + (1 + words) * dt)  # 2 bytes a number, a row of zeros each
    assert len(split) == len(dataset)
    assert split.lengths.tolist() == [len(dataset[i].clips.values) for i in range(len(dataset))]
    for i in range(len(dataset)):
        np.testing.assert_array_equal(split.times_s(i), dataset[i].clips.times_s)


@pytest.mark.parametrize("residence", RESIDENCES)
def test_a_batch_never_asks_the_device_for_a_number(dataset, residence):
    """The meta device has shapes and no numbers: whoever wants one of it fails."""
    rows = torch.tensor([3, 0, 14, 7])
    batch, expected = ResidentSplit(dataset, "meta", residence).batch(rows), ResidentSplit(dataset).batch(rows)
    for f in fields(Batch):
        there, here = getattr(batch, f.name), getattr(expected, f.name)
        assert there.is_meta
        assert (there.shape, there.dtype) == (here.shape, here.dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("residence", RESIDENCES)
def test_on_a_gpu_a_batch_is_the_same_and_nobody_waits_for_it(dataset, residence):
    rows = torch.tensor([3, 0, 14, 7])
    split = ResidentSplit(dataset, "cuda", residence)
    split.batch(rows)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = split.batch(rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert batch.clips.is_cuda
    assert_same(batch.to("cpu"), ResidentSplit(dataset).batch(rows))


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(0, 9))
def test_a_table_numbers_the_rows_of_its_items_and_0_behind_them(lengths, width):
    place = Ragged(lengths)
    numbers = iter(range(1, place.rows))
    packed = [[next(numbers) for _ in range(n)] for n in lengths]  # counted through all items
    items = torch.arange(len(lengths)).flip(0)
    expected = [(packed[item] + [0] * width)[:width] for item in items.tolist()]
    assert place.table(items, width).tolist() == expected
    assert next(numbers, None) is None


@pytest.mark.parametrize("fault", ["shifted", "longer"])
def test_stores_that_cut_a_video_differently_are_refused_at_the_start(tmp_path, fault):
    folder = write_ragged(tmp_path, fault)
    with pytest.raises(StoreError, match="same clip length"):
        ResidentSplit(MomentDataset(open_features(folder, ["first", "second"]), "train"))


@pytest.mark.parametrize(
    ("on_device", "on_host", "processes", "expected"),
    [(10, 10, 1, "device"), (1.9, 10, 1, "host"), (1.9, 10, 6, "mapped"), (1.9, 1.9, 1, "mapped")],
)
def test_features_live_in_the_fastest_place_that_has_twice_their_room(
    monkeypatch, on_device, on_host, processes, expected
):
    free = {"cuda": int(on_device * 1e9), "cpu": int(on_host * 1e9)}
    monkeypatch.setattr(resident, "free_memory", lambda device: free[device.type])
    residence, where = settle("auto", 10**9, torch.device("cuda"), processes)
    assert residence == expected
    assert (
        where
        == {
            "device": "features: 1.0 GB resident on cuda",
            "host": "features: 1.0 GB resident in memory",
            "mapped": "features: 1.0 GB read from their shards, batch by batch",
        }[expected]
    )


def test_a_place_without_room_or_that_is_none_is_refused():
    assert settle("mapped", 10**18, CPU)[0] == "mapped"
    for place in ("device", "host"):
        with pytest.raises(ValueError, match=r"got 1000000000\.0 GB for the .* GB free on cpu"):
            settle(place, 10**18, CPU)
    with pytest.raises(ValueError, match="expected a residence"):
        settle("gpu", 1, CPU)


def test_some_of_the_machine_s_memory_is_free():
    assert 0 < free_memory(CPU) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_job_s_limit_counts_wherever_it_is_set(tmp_path):
    membership = tmp_path / "cgroup"
    membership.write_text("5:cpu:/job\n4:memory:/job\n0::/slurm/job/step\n")

    def group(folder: str, limit: str, files: tuple[str, str], counted: str) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / files[0]).write_text(f"{limit}\n")
        (tmp_path / folder / files[1]).write_text("300\n")
        (tmp_path / folder / "memory.stat").write_text(f"anon 200\n{counted} 100\n")

    v2, v1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    assert list(control_groups(tmp_path / "absent", tmp_path)) == []
    group("slurm/job/step", "max", v2, "inactive_file")
    assert list(control_groups(membership, tmp_path)) == []
    group("slurm", "1000", v2, "inactive_file")
    group("memory/job", "900", v1, "total_inactive_file")
    assert sorted(control_groups(membership, tmp_path)) == [700, 800]
