"""Feature files of other tools: whose they are, what is in them, and which clips their rows become."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rdmf.extract import foreign
from rdmf.extract.alignment import Grid, fit_rows
from rdmf.extract.clips import clip_bounds
from rdmf.extract.foreign import FeatureFileError, find_files, l2_normalised, parse_stream, read_features
from rdmf.extract.imports import Recipe, locate_files, survey
from rdmf.extract.layout import Source

TWO = Grid(2.0, 2.0)


def rows(count: int, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


class Evil:
    """Runs code where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


# Whose file it is


@pytest.mark.parametrize(
    ("where", "named"),
    [("slowfast_features", "slowfast"), ("clip", "clip"), ("features_i3d", "i3d"), ("features", "features"),
     ("bmt/{id}_rgb.npy", "bmt_rgb"), ("bmt/v_{id}.pt", "bmt_v")],
)  # fmt: skip
def test_a_stream_is_named_after_its_folder_and_pattern(tmp_path, where, named):
    (tmp_path / where.split("/")[0]).mkdir()
    assert parse_stream(tmp_path / where).name == named


@pytest.mark.parametrize("where", ["absent", "here/{vid}.npy", "here/{id}.txt", "here/{id}_{id}.npy", "here/{id"])
def test_what_is_no_folder_or_pattern_is_refused(tmp_path, where):
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match="expected a"):
        parse_stream(tmp_path / where)


def test_sentences_are_found_under_their_id_with_and_without_qid(tmp_path):
    for name in ("qid7.npz", "8.npz", "qidqid9.npz", "qid9.pt", "README.md", "10.jpg"):
        (tmp_path / name).touch()
    found, unused = find_files(parse_stream(tmp_path), "text", ["7", "8", "qid9", "9", "10"])
    # qid9.pt is the file of the item that is called so; the item '9' has none
    assert {id_: path.name for id_, path in found.items()} == {"7": "qid7.npz", "8": "8.npz", "qid9": "qid9.pt"}
    assert unused == ["qidqid9.npz"]


def test_a_pattern_takes_its_own_files_of_a_shared_folder(tmp_path):
    for name in ("a_rgb.npy", "a_flow.npy", "b_rgb.npy"):
        (tmp_path / name).touch()
    found, unused = find_files(parse_stream(tmp_path / "{id}_rgb.npy"), "video", ["a"])
    assert {id_: path.name for id_, path in found.items()} == {"a": "a_rgb.npy"}
    assert unused == ["b_rgb.npy"]


def test_two_files_of_one_item_are_a_question_not_a_guess(tmp_path):
    (tmp_path / "a.npy").touch()
    (tmp_path / "a.npz").touch()
    with pytest.raises(ValueError, match=r"a\.npz and a\.npy .*\{id\}\.npz"):
        find_files(parse_stream(tmp_path), "video", ["a"])


@pytest.mark.parametrize("id_", ["../secret", "../secret.npz", "sub/x", "/etc/passwd", "..", "", "a\0b"])
def test_ids_never_reach_outside_their_folder(tmp_path, id_):
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    np.save(tmp_path / "secret.npy", rows(2))
    np.save(inside / "sub" / "x.npy", rows(2))
    assert find_files(parse_stream(inside), "video", [id_]) == ({}, [])
    assert find_files(parse_stream(inside / "{id}.npy"), "video", [id_]) == ({}, [])


def test_an_index_that_points_outside_its_folder_finds_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "secret.npz", features=rows(2))
    index = '{"format": "rdmf export 1", "files": {"a": "../secret.npz"}}'
    (tmp_path / "in" / "index.json").write_text(index)
    assert find_files(parse_stream(tmp_path / "in"), "video", ["a"]) == ({}, [])


# What is in it


def test_every_layout_gives_the_same_numbers(tmp_path):
    x = rows(5)
    np.savez(tmp_path / "a.npz", features=x, other=rows(9))
    np.savez_compressed(tmp_path / "b.npz", anything=x)
    np.save(tmp_path / "c.npy", x.astype(np.float64))
    torch.save(torch.from_numpy(x), tmp_path / "d.pt")
    torch.save({"features": torch.from_numpy(x).requires_grad_()}, tmp_path / "e.pt")
    torch.save(torch.from_numpy(x), tmp_path / "f.pt", _use_new_zipfile_serialization=False)
    for path in sorted(tmp_path.iterdir()):
        values, times_s, duration_s = read_features(path, "video")
        np.testing.assert_array_equal(values, x)
        assert values.dtype == np.float32
        assert times_s is None
        assert duration_s is None


def test_half_precision_of_both_kinds_is_read(tmp_path):
    x = rows(3)
    np.savez(tmp_path / "a.npz", features=x.astype(np.float16))
    torch.save(torch.from_numpy(x).bfloat16(), tmp_path / "b.pt")
    np.testing.assert_allclose(read_features(tmp_path / "a.npz", "video").values, x, rtol=2**-10, atol=1e-6)
    np.testing.assert_allclose(read_features(tmp_path / "b.pt", "video").values, x, rtol=2**-8)


def test_text_is_the_tokens_unless_another_array_is_asked_for(tmp_path):
    tokens, pooled = rows(7), rows(1)[0]
    np.savez(tmp_path / "qid1.npz", pooler_output=pooled, last_hidden_state=tokens)
    np.testing.assert_array_equal(read_features(tmp_path / "qid1.npz", "text").values, tokens)
    np.testing.assert_array_equal(read_features(tmp_path / "qid1.npz", "text", "pooler_output").values, pooled[None])
    with pytest.raises(FeatureFileError, match=r"'mean' in .*qid1\.npz, got .*--text-key"):
        read_features(tmp_path / "qid1.npz", "text", "mean")
    with pytest.raises(FeatureFileError, match="--video-key"):
        read_features(tmp_path / "qid1.npz", "video")


def write_bad(name: str, path: Path, trace: Path) -> Path:
    x = rows(4)
    bad = x.copy()
    bad[2, 1] = np.nan
    npz = path.with_suffix(".npz")
    match name:
        case "object npz":
            np.savez(npz, features=np.array([Evil(trace)], dtype=object))
        case "object npy":
            np.save(path.with_suffix(".npy"), np.array([Evil(trace)], dtype=object))
            return path.with_suffix(".npy")
        case "pickle":
            path.with_suffix(".npy").write_bytes(pickle.dumps(Evil(trace)))
            return path.with_suffix(".npy")
        case "pickle pt":
            torch.save({"features": Evil(trace)}, path.with_suffix(".pt"))
            return path.with_suffix(".pt")
        case "nan":
            np.savez(npz, features=bad)
        case "one axis":
            np.savez(npz, features=x[0])
        case "three axes":
            np.savez(npz, features=x[None])
        case "no rows":
            np.savez(npz, features=x[:0])
        case "integers":
            np.savez(npz, features=x.astype(np.int64))
        case "text":
            np.savez(npz, features=np.array(["a", "b"]))
        case "complex":
            torch.save(torch.from_numpy(x).to(torch.complex64), path.with_suffix(".pt"))
            return path.with_suffix(".pt")
        case "integers pt":
            torch.save(torch.arange(6).reshape(3, 2), path.with_suffix(".pt"))
            return path.with_suffix(".pt")
        case "sparse pt":
            torch.save(torch.from_numpy(x).to_sparse(), path.with_suffix(".pt"))
            return path.with_suffix(".pt")
        case "list pt":
            torch.save([torch.from_numpy(x)], path.with_suffix(".pt"))
            return path.with_suffix(".pt")
        case "cut short":
            np.savez(npz, features=x)
            npz.write_bytes(npz.read_bytes()[:-80])
        case "cut short npy":
            np.save(path.with_suffix(".npy"), x)
            data = path.with_suffix(".npy").read_bytes()
            path.with_suffix(".npy").write_bytes(data[:-8])
            return path.with_suffix(".npy")
        case "empty":
            npz.touch()
        case "empty archive":
            zipfile.ZipFile(npz, "w").close()
        case "no array":
            with zipfile.ZipFile(npz, "w") as archive:
                archive.writestr("features", b"hello")
        case "header that lies":
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 512)}
            )
            path.with_suffix(".npy").write_bytes(header.getvalue() + b"\0" * 64)
            return path.with_suffix(".npy")
        case _:
            raise AssertionError(name)
    return npz


@pytest.mark.parametrize(
    ("name", "told"),
    [("object npz", "never loaded"), ("object npy", "never loaded"), ("pickle", "never loaded"),
     ("pickle pt", "never loaded"), ("nan", "finite"), ("one axis", r"\[rows, dim\]"), ("three axes", r"\[rows, dim\]"),
     ("no rows", r"\[rows, dim\]"), ("integers", "floats"), ("text", "floats"), ("complex", "floats"),
     ("integers pt", "floats"), ("sparse pt", "floats"), ("list pt", "floats"), ("cut short", "cannot be read"),
     ("cut short npy", "cannot be read"), ("empty", "cannot be read"), ("empty archive", "got none"),
     ("no array", "floats"), ("header that lies", "cannot be read")],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name_and_runs_nothing(tmp_path, name, told):
    trace = tmp_path / "ran"
    path = write_bad(name, tmp_path / "bad", trace)
    with pytest.raises(FeatureFileError, match=told) as refused:
        read_features(path, "video")
    assert path.name in str(refused.value)
    assert str(refused.value).count("\n") == 0
    assert not trace.exists()


def test_a_file_that_unpacks_to_more_than_one_item_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", features=np.zeros((5000, 100), np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    monkeypatch.setattr(foreign, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(FeatureFileError, match="features of one item"):
        read_features(tmp_path / "bomb.npz", "video")


# Its rows as clips


@given(duration=st.floats(0.01, 5000), clip=st.sampled_from([0.5, 1.0, 2.0, 2.56, 64 / 30]))
def test_without_overlap_the_rows_are_the_clips_that_rdmf_would_cut(duration, clip):
    grid = Grid(clip, clip)
    bounds = clip_bounds(duration, clip)
    assert grid.expected_rows(duration) == (len(bounds), len(bounds))
    np.testing.assert_allclose(grid.times(len(bounds), duration), bounds)


@given(
    duration=st.floats(0.1, 500), clip=st.sampled_from([1.0, 2.0, 4.0]), overlap=st.sampled_from([1.0, 0.5, 0.25]),
    off=st.integers(-3, 3),
)  # fmt: skip
def test_kept_rows_are_windows_that_begin_inside_the_video(duration, clip, overlap, off):
    grid = Grid(clip, clip * overlap)
    fewest, most = grid.expected_rows(duration)
    assert 1 <= fewest <= most
    given_rows = max(1, most + off)
    fit = fit_rows([given_rows], duration, grid, tolerance=3)
    times = grid.times(fit.kept, duration)
    assert fit.kept == min(given_rows, most)
    assert (times[:, 0] < times[:, 1]).all()
    assert (times <= duration).all()
    assert fit.off == (max(0, given_rows - most) or min(0, given_rows - fewest))


def test_one_row_off_is_ordinary_and_more_is_said_with_both_counts():
    for given_rows, off, kept in ((15, -1, 15), (16, 0, 16), (17, 1, 16)):
        fit = fit_rows([given_rows], 30.7, TWO, tolerance=1)
        assert (fit.off, fit.kept) == (off, kept)
    with pytest.raises(ValueError, match=r"31 rows.*30\.7 s by 2 s are 16.*--clip-seconds.*--row-tolerance 15"):
        fit_rows([31], 30.7, TWO, tolerance=1)
    assert fit_rows([31], 30.7, TWO, tolerance=15).kept == 16
    assert fit_rows([31], None, TWO, tolerance=0).kept == 31


def test_overlapping_windows_may_stop_with_the_last_whole_one():
    grid = Grid(4.0, 1.0)
    assert grid.expected_rows(10.0) == (7, 10)
    assert [fit_rows([n], 10.0, grid, 1).off for n in (6, 7, 8, 10, 11)] == [-1, 0, 0, 0, 1]


def test_streams_are_cut_to_the_shortest_and_no_further_apart_than_allowed():
    fit = fit_rows([76, 75], 150.0, TWO, tolerance=1)
    assert (fit.kept, fit.spread, fit.off) == (75, 1, 0)
    with pytest.raises(ValueError, match=r"75 and 73 rows, more than 1 apart.*--row-tolerance 2"):
        fit_rows([75, 73], 150.0, TWO, tolerance=1)


@pytest.mark.parametrize("seconds", [(0.0, 1.0), (2.0, 0.0), (1.0, 2.0), (float("nan"), 1.0), (2.0, float("inf"))])
def test_clips_that_are_none_are_refused(seconds):
    with pytest.raises(ValueError, match="expected"):
        Grid(*seconds)


# Streams put together


def recipe_of(*folders: Path, **settings) -> Recipe:
    return Recipe("video", tuple(parse_stream(folder) for folder in folders), TWO, **settings)


@pytest.fixture
def two_streams(tmp_path) -> tuple[Path, Path]:
    """SlowFast and CLIP of three videos; the second has a row more of one."""
    wide, narrow = tmp_path / "slowfast_features", tmp_path / "clip_features"
    for folder, width, counts in ((wide, 24, (5, 6, 5)), (narrow, 8, (5, 5, 5))):
        folder.mkdir()
        for vid, count in zip("abc", counts, strict=True):
            np.savez(folder / f"{vid}.npz", features=rows(count, width, seed=width + ord(vid)) * 7)
    return wide, narrow


def test_streams_are_normalised_each_and_concatenated_in_the_order_given(two_streams):
    recipe = recipe_of(*two_streams)
    extraction = survey(recipe, locate_files(recipe, ["a", "b"]), {"a": 10.0})
    item = extraction.item(Source("b", ""))
    # as the Moment-DETR family reads them
    parts = []
    for folder in two_streams:
        with np.load(folder / "b.npz") as file:
            part = file["features"][:5]
        parts.append(part / (np.sqrt((part**2).sum(1, keepdims=True)) + 1e-5))
    np.testing.assert_allclose(item.values, np.hstack(parts), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(item.values, axis=1), np.sqrt(2), rtol=1e-5)
    assert recipe.encoder == "slowfast+clip"
    assert extraction.spec().dim == 32
    swapped = recipe_of(*reversed(two_streams))
    other = survey(swapped, locate_files(swapped, ["a", "b"]), {"a": 10.0})
    np.testing.assert_array_equal(other.item(Source("b", "")).values[:, :8], item.values[:, 24:])
    assert other.spec().fingerprint != extraction.spec().fingerprint


def test_normalising_the_whole_and_summing_are_what_they_say(two_streams):
    wide, _ = two_streams
    whole = recipe_of(wide, wide, normalise="whole", combine="sum")
    (item,) = (survey(whole, locate_files(whole, ["a"]), {}).item(Source("a", "")),)
    with np.load(wide / "a.npz") as file:
        x = file["features"]
    np.testing.assert_allclose(item.values, l2_normalised(2 * x), rtol=1e-5)
    raw = recipe_of(wide, normalise="none")
    np.testing.assert_array_equal(survey(raw, locate_files(raw, ["a"]), {}).item(Source("a", "")).values, x)


def test_rows_of_zeros_stay_zeros():
    assert np.isfinite(l2_normalised(np.zeros((2, 3), np.float32))).all()


def test_streams_of_unequal_width_cannot_be_summed(two_streams):
    recipe = recipe_of(*two_streams, combine="sum")
    with pytest.raises(ValueError, match="24 and 8"):
        survey(recipe, locate_files(recipe, "abc"), {})


def test_the_fingerprint_covers_the_content_of_every_file_and_not_where_it_lies(two_streams, tmp_path):
    def fingerprint(*folders: Path, durations: dict[str, float] | None = None) -> str:
        recipe = recipe_of(*folders)
        return survey(recipe, locate_files(recipe, "abc"), durations or {}).spec().fingerprint

    wide, narrow = two_streams
    first = fingerprint(wide, narrow)
    moved = tmp_path / "elsewhere" / "clip_features"
    moved.parent.mkdir()
    narrow.rename(moved)
    assert fingerprint(wide, moved) == first
    assert fingerprint(wide, moved, durations={"a": 10.0, "nobody": 3.0}) != first
    size = (moved / "c.npz").stat().st_size
    np.savez(moved / "c.npz", features=rows(5, 8, seed=99))
    assert (moved / "c.npz").stat().st_size == size
    assert fingerprint(wide, moved) != first


def test_a_width_that_most_files_do_not_have_is_the_failure_of_its_item(two_streams):
    wide, _ = two_streams
    np.savez(wide / "a.npz", features=rows(5, 3))
    recipe = recipe_of(wide)
    outcomes = list(survey(recipe, locate_files(recipe, "abc"), {})()([Source(v, "") for v in "abc"]))
    assert "width 24" in outcomes[0].reason
    assert [o.values.shape[1] for o in outcomes[1:]] == [24, 24]


def test_nothing_that_can_be_imported_is_said_with_the_reason(two_streams):
    wide, _ = two_streams
    recipe = recipe_of(wide)
    with pytest.raises(ValueError, match=r"not one of the 3 items.*5 rows, but 100 s"):
        survey(recipe, locate_files(recipe, "abc"), dict.fromkeys("abc", 100.0))
    with pytest.raises(ValueError, match=r"none of the 1 videos .* such as z\.npz, it has a\.npz"):
        locate_files(recipe, ["z"])


def test_a_file_that_goes_away_meanwhile_is_a_failure_and_not_the_end(two_streams):
    recipe = recipe_of(two_streams[0])
    located = locate_files(recipe, "abc")
    located.files["a"][0].unlink()
    outcomes = list(survey(recipe, located, {})()([Source(v, "") for v in "abc"]))
    assert "cannot be read" in outcomes[0].reason
    assert [o.id for o in outcomes[1:]] == ["b", "c"]


@pytest.mark.shared
def test_real_samples_of_other_tools_are_read(shared):
    clip = shared / "features" / "univtg_clip_sample"
    assert read_features(clip / "vid.npz", "video").values.shape == (15, 512)
    assert read_features(clip / "txt.npz", "text").values.shape == (12, 512)
    i3d = shared / "features" / "bmt_i3d_vggish_sample"
    recipe = Recipe(
        "video", tuple(parse_stream(i3d / f"{{id}}_{s}.npy") for s in ("rgb", "flow")), Grid(2.56, 2.56),
        normalise="none", combine="sum",
    )  # fmt: skip
    extraction = survey(recipe, locate_files(recipe, ["women_long_jump"]), {"women_long_jump": 35.155})
    item = extraction.item(Source("women_long_jump", ""))
    rgb, flow = (np.load(i3d / f"women_long_jump_{s}.npy") for s in ("rgb", "flow"))
    np.testing.assert_allclose(item.values, rgb + flow, rtol=1e-6)
    assert extraction.fits["women_long_jump"].off == 0  # 64 frames at 25 frames/s: the clip length is right
    assert item.times_s is not None
    assert item.times_s[-1, 1] == 35.155
