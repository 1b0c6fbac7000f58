"""Video models of transformers: small ones of every type made here, compared with transformers' own processors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rdmf.extract.bert import import_transformers
from rdmf.extract.clips import centre_square
from rdmf.extract.encoders import describe_video_encoder, encoder_name, load_video_encoder
from rdmf.extract.hf_processor import parse_processor
from rdmf.extract.hf_video import FAMILIES, find_checkpoint
from rdmf.extract.layout import StoreSpec
from rdmf.extract.weights import WeightsError, sha256_of

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "patch_size": 8,
}  # fmt: skip
TEXT = {**SMALL, "vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": 2}
VISION = {**SMALL, "image_size": 16}
RESIZE_CROP = {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}
VJEPA2_PIXELS = {
    "video_processor_type": "VJEPA2VideoProcessor", "crop_size": {"height": 16, "width": 16}, "do_center_crop": True,
    "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4], "resample": 2, "rescale_factor": 1 / 255, "size": {"shortest_edge": 292},
}  # fmt: skip


def saved(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_videomae(t: Any, folder: Path, **options: Any) -> Path:
    config = t.VideoMAEConfig(**VISION, num_frames=4, **{"num_labels": 3, **options})
    return saved(folder, t.VideoMAEForVideoClassification(config), t.VideoMAEImageProcessorPil(**RESIZE_CROP))


def make_timesformer(t: Any, folder: Path) -> Path:
    config = t.TimesformerConfig(**VISION, num_frames=8, num_labels=3)
    processor = t.VideoMAEImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return saved(folder, t.TimesformerForVideoClassification(config), processor)


def make_vivit(t: Any, folder: Path) -> Path:
    kept = {key: value for key, value in VISION.items() if key != "patch_size"}
    config = t.VivitConfig(**kept, num_frames=4, tubelet_size=[2, 8, 8], num_labels=3)
    return saved(folder, t.VivitForVideoClassification(config), t.VivitImageProcessor(**RESIZE_CROP))


def make_vjepa2(t: Any, folder: Path) -> Path:
    config = t.VJEPA2Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=8, crop_size=16, frames_per_clip=4,
        pred_hidden_size=48, pred_num_hidden_layers=1, pred_num_attention_heads=2, num_pooler_layers=1,
    )  # fmt: skip
    t.VJEPA2ForVideoClassification(config).save_pretrained(folder)
    # its processor needs torchvision to be built; this is what it writes
    (folder / "video_preprocessor_config.json").write_text(json.dumps(VJEPA2_PIXELS))
    return folder


def make_xclip(t: Any, folder: Path) -> Path:
    vision = {
        **VISION, "num_frames": 4, "mit_hidden_size": 24, "mit_intermediate_size": 48, "mit_num_attention_heads": 2,
    }  # fmt: skip
    config = t.XCLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=24, prompt_num_attention_heads=2)
    folder = saved(folder, t.XCLIPModel(config), t.CLIPImageProcessorPil(**RESIZE_CROP))
    # as transformers 5 saves the processor of a model of pictures and text
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    (folder / "preprocessor_config.json").unlink()
    return folder


def make_clip(t: Any, folder: Path) -> Path:
    # some published checkpoints give the width of the projection at the top alone
    config = t.CLIPConfig(text_config={**TEXT, "projection_dim": 24}, vision_config=VISION, projection_dim=24)
    assert config.vision_config.projection_dim != 24
    return saved(folder, t.CLIPModel(config), t.CLIPImageProcessorPil(**RESIZE_CROP))


MAKERS: dict[str, Callable[..., Path]] = {
    "videomae": make_videomae, "timesformer": make_timesformer, "vivit": make_vivit, "vjepa2": make_vjepa2,
    "xclip": make_xclip, "clip": make_clip,
}  # fmt: skip


@pytest.fixture(scope="module")
def t() -> Any:
    return import_transformers()


@pytest.fixture(scope="module")
def made(t: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each type, with weights large enough for every layer to matter."""
    torch.manual_seed(0)
    folders = {kind: make(t, tmp_path_factory.mktemp("models") / f"tiny-{kind}") for kind, make in MAKERS.items()}
    for folder in folders.values():
        weights = load_file(folder / "model.safetensors")
        for value in weights.values():
            if value.is_floating_point() and value.ndim:
                value += 0.1 * torch.randn_like(value)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folders


@pytest.fixture
def copied(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the VideoMAE to damage."""
    return Path(shutil.copytree(made["videomae"], tmp_path / made["videomae"].name))


def clips_for(encoder: Any, count: int = 3) -> np.ndarray:
    sampling = encoder.sampling
    shape = (count, sampling.frames, sampling.size, sampling.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def processed(t: Any, kind: str, folder: Path, clips: np.ndarray) -> torch.Tensor:
    """Pixels as transformers makes them, [B, F, 3, C, C]."""
    if kind == "vjepa2":
        edge = (clips.shape[2] - 16) // 2
        inner = torch.from_numpy(clips[:, :, edge : edge + 16, edge : edge + 16]).permute(0, 1, 4, 2, 3)
        mean, std = (torch.tensor(VJEPA2_PIXELS[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
        return (inner / 255 - mean) / std
    if kind == "vivit":
        return t.VivitImageProcessor.from_pretrained(folder)(
            [list(clip) for clip in clips], return_tensors="pt"
        ).pixel_values.float()
    if kind in ("xclip", "clip"):
        file = "processor_config.json" if kind == "xclip" else "preprocessor_config.json"
        settings = json.loads((folder / file).read_text())
        processor = t.CLIPImageProcessorPil(**settings.get("image_processor", settings))
        frames = processor(list(clips.reshape(-1, *clips.shape[2:])), return_tensors="pt").pixel_values
        return frames.unflatten(0, clips.shape[:2])
    processor = t.VideoMAEImageProcessorPil.from_pretrained(folder)
    return processor([list(clip) for clip in clips], return_tensors="pt").pixel_values


@pytest.mark.parametrize("kind", MAKERS)
def test_pixels_are_those_of_the_models_own_processor(kind: str, t: Any, made: dict[str, Path]) -> None:
    encoder = load_video_encoder(f"hf:{made[kind]}")
    clips = clips_for(encoder)
    ours = encoder.pixels.prepare(torch.from_numpy(clips))
    torch.testing.assert_close(ours, processed(t, kind, made[kind], clips), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "vjepa2"])  # whose processor needs torchvision
def test_a_picture_of_any_shape_becomes_nearly_what_the_processor_makes_of_it(
    kind: str, t: Any, made: dict[str, Path]
) -> None:
    encoder = load_video_encoder(f"hf:{made[kind]}")
    rows, columns = np.mgrid[0:60, 0:100]
    picture = np.stack([rows * 4, columns * 2, rows + columns], axis=-1).astype(np.uint8)
    square = centre_square(picture, encoder.sampling.size)
    ours = encoder.pixels.prepare(torch.from_numpy(square)[None, None])
    theirs = processed(t, kind, made[kind], picture[None, None])
    levels = (ours - theirs).abs() * torch.tensor(encoder.pixels.std).view(3, 1, 1) / encoder.pixels.scale
    # of 255: half a pixel of this picture, whose rows are 4 levels apart, and the rounding of both
    assert levels.max() < 3.5


@pytest.mark.parametrize("kind", ["videomae", "timesformer", "vivit"])
def test_the_vector_is_what_the_models_own_classifier_is_given(kind: str, t: Any, made: dict[str, Path]) -> None:
    encoder = load_video_encoder(f"hf:{made[kind]}")
    clips = clips_for(encoder)
    names = {"videomae": "VideoMAE", "timesformer": "Timesformer", "vivit": "Vivit"}
    model = getattr(t, f"{names[kind]}ForVideoClassification").from_pretrained(made[kind]).eval()
    vectors = encoder.encode(clips)
    assert vectors.shape == (3, encoder.dim) == (3, 32)
    with torch.inference_mode():
        logits = model(processed(t, kind, made[kind], clips)).logits
        torch.testing.assert_close(model.classifier(torch.from_numpy(vectors)), logits, atol=1e-5, rtol=1e-5)


def test_v_jepa_2_is_the_mean_of_its_encoders_tokens(t: Any, made: dict[str, Path]) -> None:
    encoder = load_video_encoder(f"hf:{made['vjepa2']}")
    assert encoder.sampling.size == 18  # 16 * 256 / 224, whatever the file says
    clips = clips_for(encoder)
    model = t.VJEPA2ForVideoClassification.from_pretrained(made["vjepa2"]).eval()
    with torch.inference_mode():
        tokens = model.vjepa2(processed(t, "vjepa2", made["vjepa2"], clips)).last_hidden_state
    assert tokens.shape[1] == 2 * 2 * 2
    np.testing.assert_allclose(encoder.encode(clips), tokens.mean(1).numpy(), atol=1e-5)


def test_x_clip_is_the_embedding_that_it_compares_with_text(t: Any, made: dict[str, Path]) -> None:
    encoder = load_video_encoder(f"hf:{made['xclip']}")
    clips = clips_for(encoder)
    model = t.XCLIPModel.from_pretrained(made["xclip"]).eval()
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([[1, 5, 2]]), pixel_values=processed(t, "xclip", made["xclip"], clips))
    vectors = encoder.encode(clips)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 1e-3  # not scaled here
    np.testing.assert_allclose(vectors / lengths, out.video_embeds.numpy(), atol=1e-5)


def test_clip_is_the_mean_of_its_frames_embeddings(t: Any, made: dict[str, Path]) -> None:
    encoder = load_video_encoder(f"hf:{made['clip']}")
    assert (encoder.sampling.frames, encoder.dim) == (4, 24)
    clips = clips_for(encoder)
    model = t.CLIPModel.from_pretrained(made["clip"]).eval()
    with torch.inference_mode():
        pixels = processed(t, "clip", made["clip"], clips)
        each = torch.stack([model.get_image_features(clip).pooler_output for clip in pixels])
    np.testing.assert_allclose(encoder.encode(clips), each.mean(1).numpy(), atol=1e-5)


def test_a_videomae_that_was_not_finetuned_is_the_mean_of_its_tokens(t: Any, tmp_path: Path) -> None:
    config = t.VideoMAEConfig(
        **VISION, num_frames=4, use_mean_pooling=False, decoder_num_hidden_layers=1, decoder_hidden_size=16,
        decoder_num_attention_heads=2, decoder_intermediate_size=16,
    )  # fmt: skip
    folder = saved(
        tmp_path / "pretrained", t.VideoMAEForPreTraining(config), t.VideoMAEImageProcessorPil(**RESIZE_CROP)
    )
    encoder = load_video_encoder(f"hf:{folder}")
    assert encoder.spec["preprocessing"]["pooling"] == "mean of the tokens"
    clips = clips_for(encoder)
    with torch.inference_mode():
        model = t.VideoMAEModel.from_pretrained(folder).eval()
        tokens = model(processed(t, "videomae", folder, clips)).last_hidden_state
    np.testing.assert_allclose(encoder.encode(clips), tokens.mean(1).numpy(), atol=1e-5)


def test_a_clip_has_the_same_features_in_any_company(made: dict[str, Path]) -> None:
    encoder = load_video_encoder(f"hf:{made['vivit']}")
    encoder.batch = 4
    clips = clips_for(encoder, 6)
    together = encoder.encode(clips)
    for clip, vector in zip(clips, together, strict=True):
        np.testing.assert_array_equal(encoder.encode(clip[None])[0], vector)
    assert encoder.encode(clips[:0]).shape == (0, 32)


def test_clips_of_another_shape_are_refused(made: dict[str, Path]) -> None:
    encoder = load_video_encoder(f"hf:{made['vivit']}")
    with pytest.raises(ValueError, match=r"hf:tiny-vivit expects uint8 clips \[B, \(4, 20, 20, 3\)\]"):
        encoder.encode(clips_for(encoder)[:, :, :16])


@pytest.mark.parametrize(
    ("kind", "frames", "span_s"),
    [
        ("videomae", 16, 16 * 4 / 30),
        ("timesformer", 8, 8 * 32 / 30),
        ("timesformer", 16, 16 * 16 / 30),
        ("timesformer", 96, 96 * 4 / 30),
        ("vivit", 32, 32 * 2 / 25),
        ("vjepa2", 64, 64 * 2 / 30),
        ("vjepa2", 16, 16 * 4 / 30),
    ],
)
def test_frames_are_as_far_apart_as_in_the_published_training(kind: str, frames: int, span_s: float) -> None:
    assert FAMILIES[kind].span_s(frames) == pytest.approx(span_s)


@pytest.mark.parametrize(
    ("kind", "frames", "size", "span_s"),
    [
        ("videomae", 4, 20, 4 * 4 / 30), ("timesformer", 8, 16, 256 / 30), ("vivit", 4, 20, 8 / 25),
        ("vjepa2", 4, 18, 16 / 30), ("xclip", 4, 20, 64 / 30), ("clip", 4, 20, 2.0),
    ],
)  # fmt: skip
def test_the_spec_says_all_that_decides_the_features(
    kind: str, frames: int, size: int, span_s: float, made: dict[str, Path]
) -> None:
    spec, dim, sampling = describe_video_encoder(f"hf:{made[kind]}")
    assert (sampling.frames, sampling.size) == (frames, size)
    assert sampling.span_s == pytest.approx(span_s)
    assert spec["encoder"] == f"hf:tiny-{kind}"
    assert spec["weights"] == {
        "source": f"local folder tiny-{kind}",
        "sha256": sha256_of([made[kind] / "model.safetensors"]),
        "random": False,
    }
    made_of = spec["preprocessing"]
    assert (made_of["frames"], made_of["size"], made_of["model_crop"]) == (frames, size, 16)
    assert made_of["model_type"] == kind
    assert made_of["pooling"]
    assert StoreSpec("video", **spec, clip_seconds=2.0, dim=dim).folder_name.startswith(f"hf_tiny-{kind}-")
    assert load_video_encoder(f"hf:{made[kind]}").spec == spec


def test_vivit_is_centred_on_zero_and_the_others_are_not() -> None:
    settings = {**VJEPA2_PIXELS, "image_mean": 0.0, "image_std": 1.0}
    white, black = torch.full((1, 1, 18, 18, 3), 255, dtype=torch.uint8), torch.zeros(1, 1, 18, 18, 3)
    for kind, low in {"vivit": -1.0, "vjepa2": 0.0}.items():
        factor = {"rescale_factor": 1 / 127.5} if kind == "vivit" else {}
        pixels = parse_processor({**settings, "size": 18, **factor}, kind)
        assert pixels.prepare(white).unique().tolist() == pytest.approx([1.0])
        assert pixels.prepare(black).unique().tolist() == [low]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"do_flip_channel_order": True}, "do_flip_channel_order, which is not known here"),
        ({"do_resize": False}, "do_resize off"),
        ({"size": {"longest_edge": 20}}, "no square"),
        ({"size": {"height": 20, "width": 24}}, "no square"),
        ({"size": 10**9}, "no square"),
        ({"crop_size": None}, "no square"),
        ({"size": 12}, "a crop of 16 pixels from 12"),
        ({"image_std": [0.5, 0.0, 0.5]}, "standard deviation"),
        ({"image_mean": [0.5, 0.5]}, "not enough values"),
        ({"image_mean": float("nan")}, "mean"),
    ],
)
def test_a_processor_that_cannot_be_followed_is_refused(changed: dict[str, Any], complaint: str, copied: Path) -> None:
    file = copied / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(WeightsError, match=complaint):
        describe_video_encoder(f"hf:{copied}")


@pytest.mark.parametrize(
    ("gone", "complaint"),
    [
        ("config.json", "config.json, model.safetensors and preprocessor_config.json"),
        ("model.safetensors", "such as pytorch_model.bin, become safetensors"),
        ("preprocessor_config.json", "video_preprocessor_config.json or preprocessor_config.json"),
    ],
)
def test_a_folder_that_lacks_a_file_is_told_what_it_needs(gone: str, complaint: str, copied: Path) -> None:
    (copied / gone).unlink()
    (copied / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(WeightsError, match=complaint):
        load_video_encoder(f"hf:{copied}")


@pytest.mark.parametrize("kind", MAKERS)
def test_weights_that_lack_a_layer_are_refused_and_not_filled_with_noise(
    kind: str, made: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made[kind], tmp_path / "lacking"))
    weights = load_file(folder / "model.safetensors")
    lost = [name for name in weights if ".1." in name and "text" not in name and name.endswith("weight")][-1]
    del weights[lost]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack .*\.1\."):
        load_video_encoder(f"hf:{folder}")


def test_weights_that_the_vector_does_not_need_may_be_absent(made: dict[str, Path], tmp_path: Path) -> None:
    for kind, needless in {"xclip": "text_model.", "vjepa2": "vjepa2.predictor.", "videomae": "classifier."}.items():
        folder = Path(shutil.copytree(made[kind], tmp_path / kind))
        before = load_video_encoder(f"hf:{folder}")
        weights = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in weights.items() if not name.startswith(needless)}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        clips = clips_for(before)
        np.testing.assert_array_equal(load_video_encoder(f"hf:{folder}").encode(clips), before.encode(clips))


def test_damaged_weights_are_refused(copied: Path) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot read the model"):
        load_video_encoder(f"hf:{copied}")


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000, '{"model_type": ["videomae"]}', '{"num_frames": "x"}'])
def test_a_config_that_is_none_is_refused(content: str, copied: Path) -> None:
    (copied / "config.json").write_text(content)
    with pytest.raises(WeightsError):
        load_video_encoder(f"hf:{copied}")


def test_a_model_and_a_processor_of_different_sizes_are_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"image_size": 32}))
    with pytest.raises(WeightsError, match="32 pixels a side, its processor makes them 16"):
        describe_video_encoder(f"hf:{copied}")


@pytest.mark.parametrize("model_type", ["own", "videomae"])
def test_code_in_a_folder_is_never_run(model_type: str, copied: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (copied / "code.py").write_text(f"open({str(ran)!r}, 'w')\nclass Model: pass\nclass Config: pass\n")
    config = json.loads((copied / "config.json").read_text())
    own = {"model_type": model_type, "auto_map": {"AutoModel": "code.Model", "AutoConfig": "code.Config"}}
    (copied / "config.json").write_text(json.dumps(config | own))
    if model_type == "own":
        with pytest.raises(WeightsError, match="expected a model of type videomae, timesformer, vivit"):
            load_video_encoder(f"hf:{copied}")
    else:
        load_video_encoder(f"hf:{copied}")
    assert not ran.exists()


def test_half_precision_weights_compute_in_float32(copied: Path) -> None:
    halves = {name: value.half() for name, value in load_file(copied / "model.safetensors").items()}
    save_file(halves, copied / "model.safetensors", {"format": "pt"})
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    encoder = load_video_encoder(f"hf:{copied}")
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.float32}
    assert encoder.encode(clips_for(encoder)).dtype == np.float32


def test_what_is_neither_a_folder_nor_a_hub_id_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected hf:FOLDER or hf:OWNER/NAME, found no folder 'videomae'"):
        load_video_encoder("hf:videomae")
    with pytest.raises(WeightsError, match="expected a video encoder's folder"):
        load_video_encoder(f"hf:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="only rdmf's own encoders have random weights"):
        load_video_encoder("hf:someone/tiny", "random")


def test_a_hub_id_comes_from_the_hubs_cache_and_is_found_again_from_what_the_store_recorded(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(made["vivit"], tmp_path / "models--someone--tiny-vivit" / "snapshots" / commit)
    (tmp_path / "models--someone--tiny-vivit" / "refs").mkdir()
    (tmp_path / "models--someone--tiny-vivit" / "refs" / "main").write_text(commit)
    spec, dim, _ = describe_video_encoder("hf:someone/tiny-vivit")
    assert spec["weights"]["source"] == "huggingface.co/someone/tiny-vivit"
    stored = StoreSpec("video", **spec, clip_seconds=2.0, dim=dim)
    assert encoder_name(stored) == "hf:someone/tiny-vivit"
    local = StoreSpec("video", **describe_video_encoder(f"hf:{made['vivit']}").spec, clip_seconds=2.0, dim=dim)
    assert local.fingerprint == stored.fingerprint  # the same model is the same wherever it lies


def test_a_model_from_a_folder_is_found_again_where_that_is_now(made: dict[str, Path], tmp_path: Path) -> None:
    spec, dim, _ = describe_video_encoder(f"hf:{made['clip']}")
    name = encoder_name(StoreSpec("video", **spec, clip_seconds=2.0, dim=dim))
    with pytest.raises(WeightsError, match="--video-weights FOLDER"):
        load_video_encoder(name)
    moved = Path(shutil.copytree(made["clip"], tmp_path / "elsewhere"))
    again = load_video_encoder(name, str(moved)).spec
    assert (again["encoder"], again["weights"]["sha256"]) == (spec["encoder"], spec["weights"]["sha256"])
    assert again["preprocessing"] == spec["preprocessing"]


@pytest.mark.parametrize(("encoder", "complaint"), [("captions-minilm", "expects captions"), ("i3d", "none that rdmf")])
def test_features_that_do_not_come_from_pictures_have_no_encoder_to_load(encoder: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encoder_name(StoreSpec("video", encoder, {}, {}, 2.0, 8))


def test_a_checkpoint_that_asks_for_a_kernel_from_the_hub_gets_none(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    for key in ("attn_implementation", "_attn_implementation"):
        (copied / "config.json").write_text(json.dumps(config | {key: "someone/kernel"}))
        model = load_video_encoder(f"hf:{copied}").model
        assert model.config._attn_implementation in ("sdpa", "eager")


def test_every_family_is_one_of_transformers(t: Any) -> None:
    assert set(FAMILIES) == set(MAKERS)
    for kind, family in FAMILIES.items():
        assert kind in t.CONFIG_MAPPING
        assert hasattr(t, family.architecture)


def test_a_checkpoint_is_described_without_its_weights(copied: Path) -> None:
    assert find_checkpoint(f"hf:{copied}").pixels.crop == 16
