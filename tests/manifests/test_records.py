"""Hostile files: each is refused with one sentence that names the file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmf.manifests.jsonl import read_jsonl
from rdmf.manifests.records import MAX_SECONDS, json_records, moments_inside, note_duration, parse_json
from rdmf.manifests.schema import AnnotationError

GOOD = '{"qid": 1, "vid": "a", "query": "x", "duration": 9, "relevant_windows": [[1, 2]]}'


def record(**changes: str) -> str:
    """A good line with keys replaced by JSON text; None leaves a key out."""
    values = {"qid": "1", "vid": '"a"', "query": '"x"', "duration": "9", "relevant_windows": "[[1, 2]]"}
    values |= changes
    return "{" + ", ".join(f'"{key}": {text}' for key, text in values.items()) + "}"


HOSTILE = {
    "broken JSON": ('{"qid": 1,', "expected valid JSON"),
    "not an object": ("[1, 2]", "a JSON object"),
    "a bare number": ("5", "a JSON object"),
    "null": ("null", "a JSON object"),
    "NaN": (record(duration="NaN"), "finite numbers, got NaN"),
    "-Infinity": (record(relevant_windows="[[-Infinity, 2]]"), "finite numbers, got -Infinity"),
    "a number that overflows to infinity": (record(duration="1e999"), "a duration in seconds"),
    "an integer of 400 digits": (record(duration="9" * 400), "a duration in seconds"),
    "an integer of 5000 digits": (record(duration="9" * 5000), "train.jsonl:2"),
    "a duration of a million years": (record(duration="3e13"), "a duration in seconds"),
    "a duration of zero": (record(duration="0"), "above 0"),
    "a negative duration": (record(duration="-1"), "a duration in seconds"),
    "a boolean as number": (record(duration="true"), "a duration in seconds"),
    "text as number": (record(duration='"9"'), "a duration in seconds"),
    "a boolean as id": (record(qid="true"), "a qid"),
    "a fraction as id": (record(qid="1.5"), "a qid"),
    "an empty id": (record(qid='""'), "query id"),
    "a list as video": (record(vid="[]"), "a vid"),
    "no video": ('{"query": "x"}', "the key 'vid', got query"),
    "no query": ('{"vid": "a"}', "the key 'query', got vid"),
    "a path as video": (record(vid='"../../etc/passwd"'), "plain file name"),
    "half a character in the id": (record(vid='"\\ud800"'), "video id"),
    "half a character in the query": (record(query='"x \\ud800"'), "whole characters"),
    "half a character in the kind": (record(kind='"\\udfff"'), "whole characters"),
    "an empty query": (record(query='" "'), "a sentence"),
    "a number as query": (record(query="5"), "a query as text"),
    "a number as kind": (record(kind="5"), "kind as text"),
    "windows that are no list": (record(relevant_windows="5"), "relevant_windows as a list"),
    "a window of three": (record(relevant_windows="[[1, 2, 3]]"), "a window as"),
    "a flat window": (record(relevant_windows="[1, 2]"), "a window as"),
    "text in a window": (record(relevant_windows='[["1", 2]]'), "seconds of a window"),
    "null in a window": (record(relevant_windows="[[null, 2]]"), "seconds of a window"),
    "scores without clips": (record(saliency_scores="[[1]]"), "the key 'relevant_clip_ids'"),
    "more scores than clips": (record(saliency_scores="[[1], [2]]", relevant_clip_ids="[1]"), "one row"),
    "a score out of range": (record(saliency_scores="[[5]]", relevant_clip_ids="[1]"), "scores from 0 to 4"),
    "a boolean score": (record(saliency_scores="[[true]]", relevant_clip_ids="[1]"), "rows of numbers"),
    "a huge score": (record(saliency_scores=f"[[{'9' * 400}]]", relevant_clip_ids="[1]"), "sensible size"),
    "a fraction as clip": (record(saliency_scores="[[1]]", relevant_clip_ids="[1.5]"), "integers >= 0"),
    "a huge clip": (record(saliency_scores="[[1]]", relevant_clip_ids="[99999999999]"), "integers >= 0"),
    "a repeated key": ('{"vid": "a", "vid": "b", "query": "x"}', "'vid' twice"),
    "deep nesting": ("[" * 100_000, "nested too deeply"),
    "bytes that are not UTF-8": (b'{"vid": "\xff"}', "UTF-8 text, got the byte 0xff"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_record_is_named_by_file_and_line(name: str, tmp_path: Path) -> None:
    line, message = HOSTILE[name]
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(AnnotationError) as caught:
        read_jsonl(tmp_path)
    text = str(caught.value)
    assert text.startswith("train.jsonl:2: expected") or "5000 digits" in name
    assert message in text
    assert len(text) < 300
    assert "\n" not in text


def complaint(path: Path) -> str:
    """What is said about a file; empty where it is read."""
    try:
        assert read_jsonl(path).queries
    except AnnotationError as error:
        return str(error)
    return ""


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "train.jsonl"
    path.write_bytes(data)
    said = complaint(path)
    assert said == "" or "train.jsonl" in said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


KEYS = ("qid", "duration", "relevant_windows", "relevant_clip_ids", "kind", "label", "clip_seconds")


@settings(max_examples=300, deadline=None)
@given(
    values=st.fixed_dictionaries(
        {"vid": st.just("v") | json_values, "query": st.just("x") | json_values},
        optional=dict.fromkeys(KEYS, json_values) | {"saliency_scores": st.just([[1]]) | json_values},
    )
)
def test_any_json_object_is_read_or_refused(values: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "train.jsonl"
    path.write_text(json.dumps(values), encoding="utf-8")
    said = complaint(path)
    assert said == "" or said.startswith("train.jsonl:1: expected")


@pytest.mark.parametrize("data", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_bytes(data)
    with pytest.raises(AnnotationError, match=r"val.jsonl: expected annotations, got an empty file"):
        read_jsonl(tmp_path)


def test_a_folder_in_place_of_a_file_and_an_absent_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").mkdir()
    with pytest.raises(AnnotationError, match="expected a file, got a folder"):
        read_jsonl(tmp_path)
    with pytest.raises(AnnotationError, match=r"none\.jsonl: expected a file, got nothing of that name"):
        read_jsonl(tmp_path / "none.jsonl")


def test_byte_order_mark_crlf_and_blank_lines_are_accepted_and_lines_still_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    text = '{"query": "caf\u00e9 \u2028 noir"}\r\n\r\n  {"query": "y"}'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    records = list(json_records(path))
    assert [r.source for r in records] == ["a.jsonl:1", "a.jsonl:3"]
    assert records[0].get("query") == "caf\u00e9 \u2028 noir"


def test_an_error_deep_in_a_document_is_named_by_its_own_line() -> None:
    with pytest.raises(AnnotationError, match=r"^doc.json:3: expected valid JSON"):
        parse_json('{"a": 1,\n"b": 2,\n"c" 3}', "doc.json")


seconds = st.floats(-50, MAX_SECONDS) | st.floats(-5, 40)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(seconds, seconds), max_size=5), st.none() | st.floats(0.1, 40))
def test_moments_lie_inside_the_video_and_nothing_is_lost_unsaid(pairs: list, duration_s: float | None) -> None:
    moments, findings = moments_inside(pairs, duration_s, "q", "f:1")
    assert all(m.start_s >= 0 and (duration_s is None or m.end_s <= duration_s) for m in moments)
    assert len(moments) + sum(f.action == "dropped window" for f in findings) == len(pairs)
    untouched = [(a, b) for a, b in pairs if 0 <= a < b and (duration_s is None or b <= duration_s)]
    assert len(findings) >= len(pairs) - len(untouched)
    assert set(untouched) <= {(m.start_s, m.end_s) for m in moments}


def test_the_first_length_of_a_video_counts_and_another_is_reported() -> None:
    durations: dict[str, float | None] = {}
    assert note_duration(durations, "v", None, "f:1") == []
    assert note_duration(durations, "v", 10.0, "f:2") == []
    assert note_duration(durations, "v", 10.0, "f:3") == []
    (finding,) = note_duration(durations, "v", 11.0, "f:4")
    assert (finding.source, finding.action) == ("f:4", "changed duration")
    assert durations == {"v": 10.0}
