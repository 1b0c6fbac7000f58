"""Video Swin against torchvision's, parameter by parameter and number by number."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rdmf.extract.video_swin as video_swin
from rdmf.extract.encoders import PIXEL_MEAN, PIXEL_STD, VIDEO_ENCODERS
from rdmf.extract.video_swin import (
    VARIANTS,
    Block,
    SwinConfig,
    VideoSwin,
    partition,
    relative_position_index,
    to_windows,
)


@pytest.fixture(scope="module")
def torchvision_video() -> ModuleType:
    """torchvision.models.video. Its CUDA wheel imports beside a CPU torch if its operators go undeclared."""
    declare = torch.library.register_fake

    def declare_others(op: Any, *args: Any, **kwargs: Any) -> Callable:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return declare(op, *args, **kwargs)

    if sys.modules.get("torchvision", 0) is None:  # hidden by the text encoder, which cannot use it
        del sys.modules["torchvision"]
    torch.library.register_fake = declare_others
    try:
        return importlib.import_module("torchvision.models.video")
    except ImportError as error:
        pytest.skip(f"torchvision, the reference, does not import here: {error}")
    finally:
        torch.library.register_fake = declare


def stir(model: nn.Module) -> nn.Module:
    """Draw every parameter, those too that initialise to a constant, so large that a wrong one shows."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 1.0 if "bias_table" in name else 0.06 if parameter.ndim > 1 else 0.2
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
        parameter.data += "norm" in name and name.endswith("weight")
    return model.eval()


@pytest.fixture(scope="module")
def pair(torchvision_video: ModuleType) -> tuple[nn.Module, VideoSwin]:
    reference = stir(torchvision_video.swin3d_t())
    ours = VideoSwin(VARIANTS["t"], num_classes=400).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    return reference, ours


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize(
    "size",
    [
        (7, 90, 70),  # padded to patches and to windows, merged at odd sizes, shifted in space alone
        (16, 64, 64),  # the window shrinks to the input
        (20, 36, 68),  # shifted in time too; in the second stage along one side of the frame only
        (1, 4, 4),  # one patch
    ],
    ids=str,
)
@torch.inference_mode()
def test_the_logits_are_torchvisions_at_any_size(pair: tuple[nn.Module, VideoSwin], size: tuple) -> None:
    reference, ours = pair
    clips = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    assert relative_error(ours(clips), reference(clips)) < 1e-4


@pytest.mark.slow
@torch.inference_mode()
def test_logits_and_features_are_torchvisions_at_the_native_size(pair: tuple[nn.Module, VideoSwin]) -> None:
    reference, ours = pair
    clips = torch.randn(1, 3, 32, 224, 224, generator=torch.Generator().manual_seed(1))
    pooled: list[Tensor] = []
    hook = reference.avgpool.register_forward_hook(lambda module, inputs, out: pooled.append(out.flatten(1)))
    logits = reference(clips)
    hook.remove()
    headless = VideoSwin(VARIANTS["t"]).eval()
    headless.load_state_dict({k: v for k, v in ours.state_dict().items() if not k.startswith("head.")})
    features = headless(clips)
    assert relative_error(features, pooled[0]) < 1e-4
    assert ours.head is not None
    assert relative_error(ours.head(features), logits) < 1e-4


@pytest.mark.parametrize("variant", ["t", "s", "b"])
def test_every_variant_has_torchvisions_parameters_and_buffers(torchvision_video: ModuleType, variant: str) -> None:
    with torch.device("meta"):
        reference = getattr(torchvision_video, f"swin3d_{variant}")()
        ours = VideoSwin(VARIANTS[variant], num_classes=400)
    shapes = {name: (value.shape, value.dtype) for name, value in ours.state_dict().items()}
    assert shapes == {name: (value.shape, value.dtype) for name, value in reference.state_dict().items()}


@pytest.mark.parametrize("size", [(32, 224, 224), (7, 90, 70)], ids=str)
@pytest.mark.parametrize("variant", ["t", "nano"])
def test_the_benchmark_counts_the_operations_that_torch_counts(variant: str, size: tuple[int, int, int]) -> None:
    file = Path(video_swin.__file__).parents[1] / "benchmarks" / "video_swin.py"
    if not file.is_file():
        pytest.skip("benchmarks are not installed")
    benchmark = runpy.run_path(str(file))
    counted = sum(operation.flops for operation in benchmark["operations"](VARIANTS[variant], size))
    assert counted == benchmark["counted_flops"](VARIANTS[variant], size)


@pytest.mark.parametrize("variant", ["t", "s", "b"])
def test_published_weights_and_normalisation_are_torchvisions(torchvision_video: ModuleType, variant: str) -> None:
    preset = getattr(torchvision_video, f"Swin3D_{variant.upper()}_Weights").KINETICS400_V1
    recipe = VIDEO_ENCODERS[f"swin_{variant}"]
    assert recipe.published == preset.url
    transforms = preset.transforms.keywords
    assert (transforms["mean"], transforms["std"]) == (PIXEL_MEAN, PIXEL_STD)
    assert transforms["crop_size"] == (recipe.sampling.size, recipe.sampling.size)


def test_nano_gives_128_features_and_every_parameter_learns() -> None:
    model = VideoSwin(VARIANTS["nano"])
    features = model(torch.randn(2, 3, 8, 64, 64))
    assert features.shape == (2, 128)
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@torch.inference_mode()
def test_clips_of_a_batch_do_not_mix() -> None:
    model = stir(VideoSwin(SwinConfig(16, (2, 2), (2, 4), window=(2, 3, 3))))
    clips = torch.randn(3, 3, 10, 40, 52)
    one_by_one = torch.cat([model(clip[None]) for clip in clips])
    torch.testing.assert_close(model(clips), one_by_one, rtol=1e-4, atol=1e-5)


def test_windows_hold_every_patch_once_and_go_back_to_where_it_was() -> None:
    x = torch.randn(2, 4, 6, 9, 5)
    order, inverse, counts, masks = partition(2, (4, 6, 9), (2, 3, 3), (0, 0, 0), x.device)
    windows = x.reshape(-1, 5).index_select(0, order)
    assert order.sort().values.tolist() == list(range(2 * 4 * 6 * 9))
    assert torch.equal(windows.index_select(0, inverse).view(x.shape), x)
    assert torch.equal(windows.view(12, 2, 18, 5).transpose(0, 1), to_windows(x, (2, 3, 3)))
    assert counts == [24]
    assert not masks.any()


def test_pairs_share_a_bias_exactly_when_their_offsets_agree() -> None:
    window = (2, 3, 4)
    index = relative_position_index(window)
    at = torch.cartesian_prod(*(torch.arange(side) for side in window))
    offset = (at[:, None] - at[None]).flatten(0, 1)
    seen: dict[int, tuple[int, ...]] = {}
    for row, pair_offset in zip(index.flatten().tolist(), offset.tolist(), strict=True):
        assert seen.setdefault(row, tuple(pair_offset)) == tuple(pair_offset)
    assert len(set(seen.values())) == len(seen) == 3 * 5 * 7 == index.max() + 1


@pytest.mark.parametrize("shift", [(1, 1, 0), (0, 2, 1), (1, 1, 2)], ids=str)
def test_shifted_windows_attend_within_what_was_together_before_the_shift(shift: tuple[int, int, int]) -> None:
    sizes, window = (4, 6, 9), (2, 3, 3)
    at = torch.cartesian_prod(*(torch.arange(size) for size in (2, *sizes)))  # clip, time, row, column of each patch
    order, _, counts, masks = partition(2, sizes, window, shift, at.device)
    at = at[order].view(-1, 18, 4)
    assert torch.equal(at[:, :, 0], at[:, :1, 0].expand(-1, 18)), "a window is of one clip"
    near = ((at[:, :, None] - at[:, None]).abs() < torch.tensor((1, *window))).all(-1)
    assert torch.equal(masks[:, 0].repeat_interleave(torch.tensor(counts), 0) == 0, near)
    assert len(counts) == 2 ** sum(step > 0 for step in shift)


def test_a_model_that_gave_features_can_be_trained() -> None:
    model = VideoSwin(SwinConfig(8, (2,), (2,), window=(2, 3, 3)))
    clips = torch.randn(1, 3, 8, 24, 28)
    with torch.inference_mode():
        model(clips)  # what it keeps for the next clips of this size must not be of inference alone
    model(clips).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@torch.inference_mode()
def test_whole_or_in_pieces_of_any_size_the_features_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stir(VideoSwin(SwinConfig(8, (2, 2), (2, 4), window=(2, 3, 3))))
    clips = torch.randn(2, 3, 8, 26, 32)
    monkeypatch.setattr(video_swin, "CACHED", {})  # as on a GPU
    whole = model(clips)
    for most in (1, 1000, 2**30):
        monkeypatch.setattr(video_swin, "CACHED", {"cpu": most})
        torch.testing.assert_close(model(clips), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cached", [{"cpu": 2**18}, {}], ids=["in pieces", "whole"])
@torch.inference_mode()
def test_the_model_is_one_graph_to_a_compiler(cached: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_swin, "CACHED", cached)
    model = stir(VideoSwin(SwinConfig(8, (2, 1), (2, 4), window=(2, 3, 3)))).requires_grad_(False)
    clips = torch.randn(2, 3, 8, 26, 32)
    traced = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(traced(clips), model(clips), rtol=0, atol=0)
    torch.testing.assert_close(traced(-clips), model(-clips), rtol=0, atol=0)


def test_branches_are_dropped_in_training_alone_and_keep_their_expectation() -> None:
    block = Block(8, 2, (2, 2, 2), (0, 0, 0), mlp_ratio=2, drop_path=0.25)
    branch = torch.ones(4000, 1, 1, 1, 8)
    torch.manual_seed(0)
    dropped = block.train().stochastic_depth(branch)[..., 0].flatten()
    assert sorted(set(dropped.tolist())) == pytest.approx([0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.04)  # five standard deviations
    assert torch.equal(block.eval().stochastic_depth(branch), branch)


def test_stochastic_depth_grows_from_none_to_the_configured() -> None:
    with torch.device("meta"):
        model = VideoSwin(VARIANTS["t"])
    rates = [block.drop_path for block in model.modules() if isinstance(block, Block)]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"heads": (3,)}, "one head count per stage"),
        ({"heads": (3, 5)}, "divide"),
        ({"heads": (2, 4), "drop_path": 1.0}, "drop_path"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(fields: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SwinConfig(32, (1, 1), **fields)
