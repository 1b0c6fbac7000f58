from __future__ import annotations

import json
import os
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdmf.pipeline.training.tensor_files import publish, read_file, read_state, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7, dtype=torch.int64), "c": torch.zeros(0, 2)}
STATE = {"epoch": 3, "note": 'a "quoted" {"sha256": "%s"}' % ("0" * 64), "scores": {"mAP": 0.25}}


def test_what_is_written_is_read(tmp_path):
    write_tensors(tmp_path / "x", TENSORS, STATE)
    tensors, state = read_file(tmp_path / "x", "")
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[k], TENSORS[k]) for k in TENSORS)
    assert state == STATE == read_state(tmp_path / "x", "")


def test_to_other_tools_it_is_plain_safetensors(tmp_path):
    write_tensors(tmp_path / "x.safetensors", TENSORS, STATE)
    assert torch.equal(load_file(tmp_path / "x.safetensors")["a"], TENSORS["a"])


def test_the_same_tensors_and_state_give_the_same_bytes(tmp_path):
    write_tensors(tmp_path / "x", TENSORS, STATE)
    write_tensors(tmp_path / "y", dict(reversed(TENSORS.items())), STATE)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_every_flipped_bit_and_every_cut_is_refused(tmp_path):
    write_tensors(tmp_path / "x", TENSORS, STATE)
    good, path = (tmp_path / "x").read_bytes(), tmp_path / "y"
    for at in range(len(good)):
        damaged = bytearray(good)
        damaged[at] ^= 1 << random.Random(at).randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            read_file(path, "")
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(ValueError, match="damaged"):
            read_file(path, "")


def test_a_file_without_a_digest_is_taken_only_where_that_is_asked_for(tmp_path):
    save_file({"a": TENSORS["a"]}, tmp_path / "x")
    with pytest.raises(ValueError, match="no checksum"):
        read_file(tmp_path / "x", "")
    tensors, state = read_file(tmp_path / "x", "", sealed=False)
    assert torch.equal(tensors["a"], TENSORS["a"])
    assert state == {}


def test_a_missing_file_is_said_as_the_caller_wants_it(tmp_path):
    for read in (read_file, read_state):
        with pytest.raises(ValueError, match="no epoch yet"):
            read(tmp_path / "x", "no epoch yet")


def header(text: str) -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"\xff" * 8, b"\xff" * 100, header("[]"), header("{"), header('{"__metadata__": 3}'),
     header('{"__metadata__": {"rdmf": "[1]"}}'), header('{"__metadata__": {"rdmf": "{\\"state\\": 4}"}}'),
     header("[" * 100_000)],
    ids=range(10),
)  # fmt: skip
def test_rubbish_is_named_as_damage(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        read_state(tmp_path / "x", "")
    with pytest.raises(ValueError, match="damaged"):
        read_file(tmp_path / "x", "", sealed=False)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_tensors(tmp_path / "x", TENSORS, STATE)
    before = (tmp_path / "x").read_bytes()

    def parts():
        yield b"half of it"
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        publish(tmp_path / "x", parts())
    assert (tmp_path / "x").read_bytes() == before
    assert os.listdir(tmp_path) == ["x"]


def test_a_state_may_say_what_json_can(tmp_path):
    state = {"nested": {"list": [1, None, "ä\n"]}}
    write_tensors(tmp_path / "x", {}, state)
    assert read_state(tmp_path / "x", "") == json.loads(json.dumps(state))
