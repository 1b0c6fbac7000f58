"""Video Swin Transformer: one feature vector per clip.

Liu et al., Video Swin Transformer, arXiv 2106.13230. Parameters carry torchvision's names (`swin3d_t/s/b`),
so that its Kinetics-400 state dicts load strictly; the arithmetic follows it to the last quirk, so that the
weights mean the same here. What is computed is the same, how is not: shift, windows and their order are one gather,
windows are grouped by mask, so that no mask is stored per window, and the CPU goes through each layer piece by piece.

B clips, F frames, H x W pixels; D x H x W patches after embedding (frames / 2, pixels / 4), C channels;
W windows of N = d*h*w patches, h heads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Size = tuple[int, ...]
"""Time, height and width, always three."""

OTHER_REGION = -100.0
"""Added to the attention between patches that only the shift made neighbours; the weights learned with it."""

CACHED = {"cpu": 2**18}
"""Where layers go through their input piece by piece, and the numbers of a piece: four times as many between the
layers, 4 MB, stay in the cache and in memory that is in use: filling fresh memory costs nearly as much as a product."""


@dataclass(frozen=True)
class SwinConfig:
    """The shape of one Video Swin. Raises ValueError for a shape that cannot be built."""

    embed_dim: int
    """Channels after the patch embedding; they double at every further stage."""
    depths: tuple[int, ...]
    """Blocks per stage."""
    heads: tuple[int, ...]
    """Attention heads per stage."""
    patch: tuple[int, int, int] = (2, 4, 4)
    """Frames, rows and columns of a patch."""
    window: tuple[int, int, int] = (8, 7, 7)
    """Patches of an attention window along time, height and width."""
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    """Stochastic depth of the last block, in training only; earlier blocks have less, the first none."""

    def __post_init__(self) -> None:
        if not self.depths or len(self.depths) != len(self.heads) or min(self.depths) < 1:
            raise ValueError(f"expected one head count per stage, got {self.heads} for depths {self.depths}")
        if any(self.dim_of(stage) % heads for stage, heads in enumerate(self.heads)):
            raise ValueError(f"expected heads that divide {self.embed_dim} * 2^stage, got {self.heads}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"expected 0 <= drop_path < 1, got {self.drop_path}")

    def dim_of(self, stage: int) -> int:
        return self.embed_dim * 2**stage

    @property
    def dim(self) -> int:
        """Length of the feature vector."""
        return self.dim_of(len(self.depths) - 1)


VARIANTS: dict[str, SwinConfig] = {
    "t": SwinConfig(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "s": SwinConfig(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "b": SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    # made for 8 frames of 64 x 64: 4 x 16 x 16 patches, every stage a whole number of windows
    "nano": SwinConfig(32, (1, 1, 2), (2, 4, 8), window=(4, 4, 4), drop_path=0.0),
}


def pad_to_multiple(x: Tensor, multiple: Size) -> Tensor:
    """[B, D, H, W, C] -> the same with zeros at the far ends, so that D, H, W are multiples of `multiple`."""
    d, h, w = (-size % m for size, m in zip(x.shape[1:4], multiple, strict=True))
    return functional.pad(x, (0, 0, 0, w, 0, h, 0, d)) if d or h or w else x


def to_windows(x: Tensor, window: Size) -> Tensor:
    """[B, D, H, W, C], sizes multiples of the window's -> [B, W, N, C]."""
    b, *sizes, c = x.shape
    d, h, w = (size // side for size, side in zip(sizes, window, strict=True))
    x = x.view(b, d, window[0], h, window[1], w, window[2], c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, d * h * w, math.prod(window), c)


def relative_position_index(window: Size) -> Tensor:
    """int64 [N, N]: the row of the bias table for every pair of patches in a window, by their offset."""
    axes = [torch.arange(side) for side in window]
    at = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)  # [3, N]
    offset = at[:, :, None] - at[:, None, :] + torch.tensor(window)[:, None, None] - 1  # each >= 0
    _, h, w = (2 * side - 1 for side in window)
    return offset[0] * (h * w) + offset[1] * w + offset[2]


class Partition(NamedTuple):
    """How the patches of B clips fall into windows. Windows that need the same mask stand together."""

    order: Tensor
    """int64 [W * B * N]: which patch out of B * D * H * W is at each place, window after window."""
    inverse: Tensor
    """int64 [B * D * H * W]: the place of each patch."""
    counts: list[int]
    """Windows under each of the masks, of all clips together."""
    masks: Tensor
    """[masks, 1, N, N], added to attention: 0 within a region, OTHER_REGION between two of them."""


@torch.compiler.assume_constant_result
def partition(clips: int, sizes: Size, window: Size, shift: Size, device: torch.device) -> Partition:
    """Windows over maps whose sizes are multiples of the window's, after a cyclic shift; made once, then kept.

    Along an axis the last window then holds the far end and, in its last `shift` patches, the near end: two regions
    that do not attend to each other. So there are at most 2^3 masks, however many windows.
    """
    return _partition(clips, sizes, window, shift, device)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # inference's tensors are no use to a caller that trains
def _partition(clips: int, sizes: Size, window: Size, shift: Size, device: torch.device) -> Partition:
    patches = torch.arange(clips * math.prod(sizes)).view(clips, *sizes, 1)
    region = torch.zeros(1, *sizes, 1)
    for axis, (size, step) in enumerate(zip(sizes, shift, strict=True), start=1):
        patches = patches.roll(-step, axis)
        region.narrow(axis, size - step, step).add_(2**axis)
    regions, mask = to_windows(region, window)[0, :, :, 0].unique(dim=0, return_inverse=True)  # [masks, N], [W]
    order = to_windows(patches, window)[:, mask.argsort(stable=True), :, 0].transpose(0, 1).flatten()
    counts = (mask.bincount() * clips).tolist()
    masks = (regions[:, None, :, None] != regions[:, None, None, :]) * OTHER_REGION
    return Partition(order.to(device), order.argsort().to(device), counts, masks.to(device))


def pieces(x: Tensor) -> tuple[Tensor, ...]:
    """x along its first axis; where CACHED says so in even parts of no more than about so many numbers."""
    most = CACHED.get(x.device.type)
    return (x,) if most is None else x.tensor_split(min(len(x), -(-x.numel() // most)))


class WindowAttention(nn.Module):
    """Multi-head self-attention inside (shifted) windows, with a learned bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: Size, shift: Size) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        offsets = math.prod(2 * side - 1 for side in window)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window))

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, H, W, C] -> the same shape."""
        b, *sizes, c = x.shape
        # An axis no longer than the window is one window, and has nothing to shift.
        axes = list(zip(sizes, self.window, self.shift, strict=True))
        window = tuple(min(size, side) for size, side, _ in axes)
        shift = tuple(step if size > side else 0 for size, side, step in axes)
        n = math.prod(window)
        x = pad_to_multiple(x, window)
        padded = tuple(x.shape[1:4])
        order, inverse, counts, masks = partition(b, padded, window, shift, x.device)

        # A window that shrank along height or width takes the index of the full window's first N x N pairs,
        # which are other offsets. torchvision does so, hence features of small inputs agree.
        index = self.relative_position_index[:n, :n].flatten()
        bias = self.relative_position_bias_table.t().index_select(1, index).view(1, self.heads, n, n)
        biases = (bias + mask for mask in masks.to(bias.dtype))
        windows = x.reshape(-1, c).index_select(0, order).view(-1, n, c)
        if x.device.type in CACHED:
            groups = zip(windows.split(counts), biases, strict=True)
            attended = torch.cat([self.attend(x, [len(x)], [bias]) for group, bias in groups for x in pieces(group)])
        else:
            attended = self.attend(windows, counts, biases)
        x = attended.view(-1, c).index_select(0, inverse).view(b, *padded, c)
        return x[:, : sizes[0], : sizes[1], : sizes[2]]

    def attend(self, x: Tensor, counts: Sequence[int], biases: Iterable[Tensor]) -> Tensor:
        """Windows [W, N, C] -> the same shape; the first counts[0] with biases[0], [1, h, N, N], and so on."""
        w, n, c = x.shape
        qkv = self.qkv(x).view(w, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [3, W, h, N, C / h]
        groups = zip(qkv.split(counts, 1), biases, strict=True)
        parts = [functional.scaled_dot_product_attention(q, k, v, attn_mask=bias) for (q, k, v), bias in groups]
        return self.proj(torch.cat(parts).transpose(1, 2).reshape(w, n, c))


class Block(nn.Module):
    """Attention and feed-forward, each normalised first and added back; training drops whole branches."""

    def __init__(self, dim: int, heads: int, window: Size, shift: Size, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        # The identity keeps the second layer at torchvision's name, mlp.3.
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, H, W, C] -> the same shape."""
        x = x + self.stochastic_depth(self.attn(self.norm1(x)))
        fed = torch.cat([self.mlp(self.norm2(piece)) for piece in pieces(x.flatten(0, 3))])
        return x + self.stochastic_depth(fed.view(x.shape))

    def stochastic_depth(self, branch: Tensor) -> Tensor:
        """Drop the branch for a clip with probability `drop_path`, scaled so that its expectation stays."""
        if not (self.training and self.drop_path):
            return branch
        kept = torch.rand(branch.shape[0], 1, 1, 1, 1, device=branch.device) >= self.drop_path
        return branch * kept / (1 - self.drop_path)


class PatchEmbedding(nn.Module):
    """Non-overlapping patches of frames and pixels, each to one normalised vector."""

    def __init__(self, patch: tuple[int, int, int], dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(3, dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, F, H, W] -> [B, D, H, W, C]."""
        x = pad_to_multiple(x.movedim(1, -1), self.patch)
        d, h, w = (size // side for size, side in zip(x.shape[1:4], self.patch, strict=True))
        patches = to_windows(x, self.patch).flatten(2)  # [B, D H W, frames rows columns 3]; the weights likewise
        x = functional.linear(patches, self.proj.weight.movedim(1, -1).flatten(1), self.proj.bias)
        return self.norm(x).view(-1, d, h, w, x.shape[-1])


class PatchMerging(nn.Module):
    """Between stages: 2 x 2 neighbours in space (never in time) become one patch of twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, H, W, C] -> [B, D, ceil(H / 2), ceil(W / 2), 2 C]."""
        x = pad_to_multiple(x, (1, 2, 2))
        x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [B, D, H / 2, row, W / 2, column, C]
        # columns outermost: the order that the weights of the reduction expect
        return self.reduction(self.norm(x.permute(0, 1, 2, 4, 5, 3, 6).flatten(4)))


class VideoSwin(nn.Module):
    """Normalised clips to features or, where `num_classes` is given, to class logits.

    With `num_classes=400` the state dict has exactly the keys of torchvision's swin3d; without a number of
    classes it lacks `head.weight` and `head.bias`.
    """

    def __init__(self, config: SwinConfig, num_classes: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config.patch, config.embed_dim)
        half = tuple(side // 2 for side in config.window)
        last_block = max(sum(config.depths) - 1, 1)
        done, layers = 0, list[nn.Module]()
        for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
            dim = config.dim_of(stage)
            if stage:
                layers.append(PatchMerging(dim // 2))
            blocks = []
            for i in range(depth):
                drop_path = config.drop_path * (done + i) / last_block
                shift = half if i % 2 else (0, 0, 0)
                blocks.append(Block(dim, heads, config.window, shift, config.mlp_ratio, drop_path))
            layers.append(nn.Sequential(*blocks))
            done += depth
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(config.dim)
        self.head = None if num_classes is None else nn.Linear(config.dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Float [B, 3, F, H, W], any size -> [B, dim]: the mean over positions; or [B, num_classes].

        In bfloat16 the mean is float32 all the same.
        """
        x = self.norm(self.features(self.patch_embed(clips)))
        x = x.mean((1, 2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        return x if self.head is None else self.head(x.to(self.head.weight.dtype))
