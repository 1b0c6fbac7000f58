"""The video encoders by name: normalisation, where weights come from, and weights that cannot be used."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rdmf.extract.encoders as encoders
from rdmf.extract.encoders import (
    PIXEL_MEAN,
    PIXEL_STD,
    VIDEO_ENCODERS,
    SwinEncoder,
    describe_video_encoder,
    load_text_encoder,
    load_video_encoder,
    normalise,
)
from rdmf.extract.layout import StoreSpec
from rdmf.extract.video_encoder import VideoEncoder, blocks, compiled, matrix_precision
from rdmf.extract.video_swin import VARIANTS, VideoSwin
from rdmf.extract.weights import WeightsError, cache_folder


@pytest.fixture
def clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 8, 64, 64, 3), dtype=np.uint8)


def nano_state(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return VideoSwin(VARIANTS["nano"]).state_dict()


def saved(state: object) -> bytes:
    torch.save(state, stream := io.BytesIO())
    return stream.getvalue()


def test_a_pixel_at_the_mean_becomes_zero_and_one_deviation_more_one() -> None:
    mean, std = np.array(PIXEL_MEAN) * 255, np.array(PIXEL_STD) * 255
    clip = np.zeros((1, 2, 3, 3, 3), np.uint8)
    clip[0, 0], clip[0, 1] = np.round(mean), np.round(mean + std)
    out = normalise(torch.from_numpy(clip))
    assert out.shape == (1, 3, 2, 3, 3)
    half_step = 0.5 / std.min()
    torch.testing.assert_close(out[:, :, 0], torch.zeros(1, 3, 3, 3), atol=half_step, rtol=0)
    torch.testing.assert_close(out[:, :, 1], torch.ones(1, 3, 3, 3), atol=half_step, rtol=0)


def test_normalising_keeps_every_pixel_at_its_place() -> None:
    clip = torch.arange(2 * 4 * 5 * 5 * 3, dtype=torch.int32).remainder(251).to(torch.uint8)
    clip = clip.view(2, 4, 5, 5, 3)
    out = normalise(clip)
    for b, f, y, x, c in [(0, 0, 0, 0, 0), (1, 3, 4, 2, 1), (0, 2, 1, 4, 2)]:
        expected = (clip[b, f, y, x, c] / 255 - PIXEL_MEAN[c]) / PIXEL_STD[c]
        assert float(out[b, c, f, y, x]) == pytest.approx(float(expected), rel=1e-5)


def test_clips_encode_to_float32_one_by_one_or_together(clips: np.ndarray) -> None:
    encoder = load_video_encoder("swin_nano", "random")
    features = encoder.encode(clips)
    assert features.shape == (3, encoder.dim)
    assert features.dtype == np.float32
    alone = np.concatenate([encoder.encode(clip[None]) for clip in clips])
    np.testing.assert_array_equal(features, alone)
    assert np.abs(features[0] - features[1]).max() > 1e-3
    backwards = encoder.encode(clips[:, ::-1])  # a view with negative strides
    assert np.abs(backwards - features).max() > 1e-3
    assert encoder.encode(clips[:0]).shape == (0, encoder.dim)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def small_encoder(kind: str, precision: str) -> VideoEncoder:
    """swin_nano, or the architecture of swin_t with random weights and clips of few pixels, in blocks of 3."""
    if kind == "nano":
        return load_video_encoder("swin_nano", "random", precision=precision)
    description = describe_video_encoder("swin_nano", "random", precision=precision)
    model = VideoSwin(VARIANTS["t"])
    encoders.fill_randomly(model)
    encoder = SwinEncoder(description._replace(dim=768), model, torch.device("cpu"))
    encoder.batch = 3
    return encoder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["nano", "t"])
def test_a_clip_has_the_same_bits_in_any_company(kind: str, precision: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    encoder = small_encoder(kind, precision)
    clips = rng.integers(0, 256, (2 * encoder.batch + 2, 8, 64, 64, 3), dtype=np.uint8)
    features = encoder.encode(clips)
    order = rng.permutation(len(clips))
    np.testing.assert_array_equal(encoder.encode(clips[order]), features[order])
    for part in np.split(order, [encoder.batch + 1]):
        np.testing.assert_array_equal(encoder.encode(clips[part]), features[part])


def test_blocks_are_of_one_size_and_hold_every_clip_in_order() -> None:
    clips = np.arange(7)
    assert [block.tolist() for block in blocks(clips, 3)] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert [block.tolist() for block in blocks(clips[:6], 3)] == [[0, 1, 2], [3, 4, 5]]
    assert list(blocks(clips[:0], 3)) == []


def test_a_block_is_of_many_small_clips_or_of_one_large_on_the_cpu() -> None:
    assert load_video_encoder("swin_nano", "random").batch == 16
    assert load_video_encoder("swin_t", "random").batch == 1


@pytest.mark.parametrize("weights", ["random", None], ids=["random", "shipped"])
def test_features_at_bf16_are_nearly_those_at_fp32_and_never_of_the_same_store(weights: str | None) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (16, 8, 64, 64, 3), dtype=np.uint8)
    encoder = load_video_encoder("swin_nano", weights)
    rounded = load_video_encoder("swin_nano", weights, precision="bf16")
    exact, features = encoder.encode(clips), rounded.encode(clips)
    assert features.dtype == np.float32
    assert 1e-5 < np.linalg.norm(features - exact) / np.linalg.norm(exact) < 0.02
    cosines = (features * exact).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.999
    stores = [StoreSpec("video", **e.spec, clip_seconds=2.0, dim=e.dim) for e in (encoder, rounded)]
    assert stores[0].fingerprint != stores[1].fingerprint
    assert rounded.spec["weights"] == {**encoder.spec["weights"], "precision": "bf16"}


def test_the_precision_is_fp32_unless_the_device_is_a_gpu() -> None:
    precisions = {
        device: [describe_video_encoder("swin_nano", None, device, precision).precision for precision in asked]
        for device, asked in {"cpu": ("auto", "fp32", "bf16"), "cuda:0": ("auto", "fp32", "tf32", "bf16")}.items()
    }
    assert precisions == {"cpu": ["fp32", "fp32", "bf16"], "cuda:0": ["bf16", "fp32", "tf32", "bf16"]}
    assert "precision" not in describe_video_encoder("swin_nano").spec["weights"]  # stores without it are of fp32
    with pytest.raises(ValueError, match="expected a precision out of auto, fp32, tf32, bf16, got 'half'"):
        describe_video_encoder("swin_nano", precision="half")
    with pytest.raises(ValueError, match="cpu cannot compute at precision tf32"):
        load_video_encoder("swin_nano", precision="tf32")
    with pytest.raises(ValueError, match="cannot compute on device 'abacus'"):
        describe_video_encoder("swin_nano", device="abacus")


def test_tf32_is_on_while_it_is_asked_for_and_no_longer() -> None:
    before = torch.get_float32_matmul_precision()
    with matrix_precision("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    with matrix_precision("fp32"):
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == before


def test_without_a_compiler_the_encoder_computes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(function: object, **options: object) -> Callable:
        def run(x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C compiler\nmore of it")

        return run

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.warns(UserWarning, match=r"torch.compile failed \(no C compiler\): computing without it"):
        run = compiled(torch.neg, torch.ones(2))
    assert run(torch.ones(1)).tolist() == [-1]


@pytest.mark.parametrize("wrong", ["dtype", "frames", "size", "channels last", "one clip"])
def test_clips_of_another_form_are_refused(clips: np.ndarray, wrong: str) -> None:
    changed = {
        "dtype": clips.astype(np.float32),
        "frames": clips[:, :7],
        "size": clips[:, :, :63],
        "channels last": np.moveaxis(clips, -1, 1),
        "one clip": clips[0],
    }[wrong]
    with pytest.raises(ValueError, match=r"swin_nano expects uint8 clips \[B, \(8, 64, 64, 3\)\], got"):
        load_video_encoder("swin_nano", "random").encode(changed)


@pytest.mark.parametrize(
    ("name", "dim", "frames", "size"),
    [
        ("swin_t", 768, 32, 224),
        ("swin_s", 768, 32, 224),
        ("swin_b", 1024, 32, 224),
        ("swin_nano", 128, 8, 64),
    ],
)
def test_a_description_needs_no_model(
    name: str, dim: int, frames: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "random_sha256", lambda variant: "ab" * 32)
    spec, described_dim, sampling = describe_video_encoder(name, "random")
    assert (described_dim, sampling.frames, sampling.size) == (dim, frames, size)
    assert spec["encoder"] == name
    assert spec["weights"] == {"source": "random", "sha256": "ab" * 32, "random": True}
    assert spec["preprocessing"]["span_s"] == sampling.span_s == pytest.approx(32 / 15 if size == 224 else 2)


def test_random_weights_are_the_same_every_time_and_named_as_random(clips: np.ndarray) -> None:
    torch.manual_seed(1)
    first = load_video_encoder("swin_nano", "random")
    torch.manual_seed(2)
    second = load_video_encoder("swin_nano", "random")
    np.testing.assert_array_equal(first.encode(clips), second.encode(clips))
    digest = hashlib.sha256()
    for name, parameter in first.model.named_parameters():
        digest.update(name.encode() + parameter.numpy().tobytes())
    assert first.spec["weights"] == {"source": "random", "sha256": digest.hexdigest(), "random": True}
    assert first.spec == describe_video_encoder("swin_nano", "random").spec


@pytest.mark.parametrize("kind", ["safetensors", "torch", "float16 without the index", "with a head"])
def test_a_file_of_weights_loads(tmp_path: Path, clips: np.ndarray, kind: str) -> None:
    state = nano_state()
    file = tmp_path / ("w.pth" if kind == "torch" else "w.safetensors")
    if kind == "float16 without the index":
        state = {name: value.half() for name, value in state.items() if not name.endswith("_index")}
    given = state | {"head.weight": torch.zeros(400, 128)} if kind == "with a head" else state
    if kind == "torch":
        file.write_bytes(saved(given))
    else:
        save_file(given, file)
    encoder = load_video_encoder("swin_nano", str(file))
    for name, parameter in encoder.model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, state[name].float())
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert encoder.spec["weights"] == {"source": f"local file {file.name}", "sha256": sha256, "random": False}
    model = VideoSwin(VARIANTS["nano"]).eval()
    model.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    expected = model(normalise(torch.from_numpy(clips))).detach().numpy()
    np.testing.assert_allclose(encoder.encode(clips), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: {k: v for k, v in s.items() if "mlp.0" not in k}, r"features\.0\.0\.mlp.* and 5 more"),
        (lambda s: s | {"neck.weight": torch.zeros(3)}, r"has besides neck\.weight;"),
        (lambda s: s | {"norm.bias": torch.zeros(127)}, r"has in another shape norm\.bias;"),
        (lambda s: s | {"norm.bias": torch.full((128,), torch.nan)}, r"not finite norm\.bias;"),
        (lambda s: {"state_dict": s}, "expected a state dict"),
        (lambda s: [1, 2], "expected a state dict"),
    ],
    ids=["lacks", "besides", "shape", "nan", "wrapped", "list"],
)  # fmt: skip
def test_weights_of_another_model_are_refused_by_name(tmp_path: Path, change: object, told: str) -> None:
    assert callable(change)
    (tmp_path / "w.pth").write_bytes(saved(change(nano_state())))
    with pytest.raises(WeightsError, match=told):
        load_video_encoder("swin_nano", str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", None], ids=["empty", "text", "cut short"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    file = tmp_path / name
    if content is None:
        save_file(nano_state(), file) if name.endswith("s") else file.write_bytes(saved(nano_state()))
        content = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot read the weights"):
        load_video_encoder("swin_nano", str(file))


class Bomb:
    """Pickles as a call of os.mkdir."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def test_code_in_a_file_of_weights_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(saved({"norm.bias": Bomb(str(tmp_path / "ran"))}))
    with pytest.raises(WeightsError, match="cannot read the weights"):
        load_video_encoder("swin_nano", str(tmp_path / "w.pth"))
    assert not (tmp_path / "ran").exists()


@dataclass
class Publisher:
    """A web server of one file."""

    address: str
    content: bytes = b""
    status: int = 200
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """Serves weights that swin_nano is then published with; the cache is a folder that is not there yet."""
    content = saved(nano_state())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests.append(self.path)
            self.send_response(served.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(served.content)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        name = f"nano-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        served = Publisher(f"http://127.0.0.1:{server.server_address[1]}/{name}", content)
        monkeypatch.setitem(VIDEO_ENCODERS, "swin_nano", replace(VIDEO_ENCODERS["swin_nano"], published=served.address))
        monkeypatch.setenv("RDMF_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served
        server.shutdown()


def test_published_weights_are_downloaded_once(publisher: Publisher, tmp_path: Path) -> None:
    spec = load_video_encoder("swin_nano").spec
    sha256 = hashlib.sha256(publisher.content).hexdigest()
    assert spec["weights"] == {"source": publisher.address, "sha256": sha256, "random": False}
    assert describe_video_encoder("swin_nano").spec == spec
    assert len(publisher.requests) == 1
    assert [file.read_bytes() for file in (tmp_path / "cache").iterdir()] == [publisher.content]


def test_a_damaged_download_in_the_cache_is_replaced(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    file = tmp_path / "cache" / publisher.address.rsplit("/", 1)[1]
    file.write_bytes(publisher.content[:1000])
    load_video_encoder("swin_nano")
    assert file.read_bytes() == publisher.content


@pytest.mark.parametrize("fault", ["404", "other content", "cut short", "no server"])
def test_a_download_that_fails_says_how_to_do_it_by_hand_and_leaves_nothing(
    publisher: Publisher, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = publisher.address
    if fault == "404":
        publisher.status = 404
    elif fault == "other content":
        publisher.content = publisher.content[::-1]
    elif fault == "cut short":
        publisher.content = publisher.content[:5000]
    else:
        address = f"http://127.0.0.1:9/{address.rsplit('/', 1)[1]}"
        recipe = replace(VIDEO_ENCODERS["swin_nano"], published=address)
        monkeypatch.setitem(VIDEO_ENCODERS, "swin_nano", recipe)
    with pytest.raises(WeightsError, match=r"by hand .* --video-weights FILE") as caught:
        load_video_encoder("swin_nano")
    assert address in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_by_hand_is_known_as_the_published_one(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(publisher.content)
    spec = describe_video_encoder("swin_nano", str(tmp_path / "mine.pth")).spec
    assert publisher.requests == []
    assert spec == describe_video_encoder("swin_nano").spec


def test_a_download_by_hand_with_another_hash_than_its_name_is_damaged(publisher: Publisher, tmp_path: Path) -> None:
    file = tmp_path / publisher.address.rsplit("/", 1)[1]
    file.write_bytes(publisher.content + b"\0")
    with pytest.raises(WeightsError, match="is damaged"):
        load_video_encoder("swin_nano", str(file))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for name in ("RDMF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path("/home/someone/.cache/rdmf/weights")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/rdmf/weights")
    monkeypatch.setenv("RDMF_CACHE", "~/weights")
    assert cache_folder() == Path("/home/someone/weights")


def test_the_shipped_encoder_runs(clips: np.ndarray) -> None:
    if not (encoders.SHIPPED / "video.safetensors").is_file():
        pytest.skip("extract/nano/video.safetensors is not there yet: python -m rdmf.extract.nano.train makes it")
    encoder = load_video_encoder("swin_nano")
    assert encoder.spec["weights"]["source"] == "shipped with rdmf"
    assert encoder.spec["weights"]["random"] is False
    features = encoder.encode(clips)
    assert features.shape == (3, 128)
    assert np.isfinite(features).all()


def test_shipped_weights_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "SHIPPED", tmp_path)
    with pytest.raises(WeightsError, match=r"lacks the weights of swin_nano .* --video-weights FILE"):
        load_video_encoder("swin_nano")
    with pytest.raises(WeightsError, match="lacks bert_nano"):
        load_text_encoder("bert_nano")


def test_what_does_not_exist_is_refused_with_what_does(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out of swin_t, swin_s, swin_b, swin_nano or hf:.*, got 'i3d'"):
        load_video_encoder("i3d", "random")
    with pytest.raises(ValueError, match=r"cannot compute on device 'abacus' .* pass cpu"):
        load_video_encoder("swin_nano", "random", device="abacus")
    with pytest.raises(WeightsError, match="found none at"):
        load_video_encoder("swin_t", str(tmp_path / "w.pth"))
