"""What several backbones share: their options, attention, patches, initialisation, interpolation.

Used by `bench/models/backbones/*.py` only; image weights are in `weights.py`. What a single
backbone needs stays in that backbone's file. timm is imported only where it is needed: it takes
three seconds, which every cell and every `--plan` would pay (hence the few lines of `Mlp` and
`DropPath` here).

Shape suffixes: G groups of tokens that attend to each other, L tokens per group; otherwise as in
`bench.task`.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

import pydantic
import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from bench import task


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt d) v of each head, (..., L, d); fused except where that is slower.

    On a CPU, PyTorch's fused kernel takes 2 to 10 times as long in bfloat16, and twice as long for
    a handful of keys; there the L x L map is small enough to be written out.
    """
    few = 4 * k.shape[-2] <= k.shape[-1]
    if q.device.type == "cpu" and (q.dtype == torch.bfloat16 or few):
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention with one fused q, k, v projection (Vaswani et al. 2017).

    Parameter names and layout are timm's, so that image weights load without renaming.
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_GLD: Tensor) -> Tensor:
        """x_GLD -> x_GLD; the tokens of one group see each other."""
        q, k, v = rearrange(
            self.qkv(x_GLD), "g l (three h d) -> three g h l d", three=3, h=self.heads
        )
        mixed = attend(q, k, v)
        return self.proj(rearrange(mixed, "g h l d -> g l (h d)"))


class Mlp(nn.Module):
    """Two linear maps with a GELU between; parameter names are timm's."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, drops a residual path of whole groups."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_GLD: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x_GLD
        kept = x_GLD.new_empty(len(x_GLD), *[1] * (x_GLD.ndim - 1)).bernoulli_(1.0 - self.rate)
        return x_GLD * kept / (1.0 - self.rate)


class Block(nn.Module):
    """A pre-norm transformer block around the given attention:

    x <- x + attn(norm1(x)),  x <- x + mlp(norm2(x))
    """

    def __init__(
        self, dim: int, attention: nn.Module, *, mlp_ratio: float, epsilon: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=epsilon)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=epsilon)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_GLD: Tensor, **attention: int) -> Tensor:
        """x_GLD -> x_GLD; what else the attention must know (`frames`) is handed on to it."""
        x_GLD = x_GLD + self.drop_path(self.attn(self.norm1(x_GLD), **attention))
        return x_GLD + self.drop_path(self.mlp(self.norm2(x_GLD)))


class PatchEmbed(nn.Module):
    """Non-overlapping patches of every frame, projected linearly (Dosovitskiy et al. 2021)."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """clip_BTCHW -> tokens_BTND, row-major over the patch grid."""
        grid = self.proj(rearrange(clip_BTCHW, "b t c h w -> (b t) c h w"))
        return rearrange(grid, "(b t) d h w -> b t (h w) d", b=len(clip_BTCHW))


def init_vit(model: nn.Module, *, std: float) -> None:
    """Initialisation of the released ViTs (std 0.02) in place.

    Linear maps from a truncated normal, biases zero, layer norms the identity; convolutions keep
    PyTorch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def resize_positions(pos_1LD: Tensor, num_patches: int, *, first: int = 1) -> Tensor:
    """Position embedding for another square grid: bicubic, as timm does it.

    The `first` positions are of the class token and the like, and stay as they are.
    """
    if pos_1LD.shape[1] == num_patches + first:
        return pos_1LD
    from timm.layers import resample_abs_pos_embed

    side = math.isqrt(num_patches)
    return resample_abs_pos_embed(pos_1LD, [side, side], num_prefix_tokens=first)


def resize_times(time_1TD: Tensor, frames: int) -> Tensor:
    """Time embedding for another number of frames: the nearest one, as the release does it."""
    if time_1TD.shape[1] == frames:
        return time_1TD
    return F.interpolate(time_1TD.mT, size=frames, mode="nearest").mT


Size = Annotated[int, Field(ge=1, le=100_000)]
DropRate = Annotated[float, Field(ge=0.0, lt=1.0)]


class VitConfig(task.Config):
    """What every ViT says of itself; ViT-B/16. A backbone adds its own, and may have other defaults."""

    patch: Size = 16  # pixels
    dim: Size = 768
    depth: Size = 12
    heads: Size = 12
    mlp_ratio: float = Field(default=4.0, gt=0.0, le=100.0)
    drop_path: DropRate = 0.0  # of the last block; grows linearly from 0 in the first
    # of random linear maps and embeddings; 0.02, as released, suits the widths of the papers, and a
    # model of width 48 or 96 that is trained from scratch learns far faster with 0.1
    init_std: float = Field(default=0.02, ge=0.0, le=10.0)
    # timm ViT that it starts from, with its tag: "vit_base_patch16_224.orig_in21k_ft_in1k"
    init: str | None = None
    init_sha256: str | None = None  # of that model's weight file

    @pydantic.model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"{self.dim} channels do not divide into {self.heads} heads")
        return self

    @classmethod
    def tiny(cls) -> Self:
        return cls(patch=8, dim=16, depth=2, heads=2)


def why_impossible(config: VitConfig, *, size: int) -> str | None:
    """What no ViT of these sizes can be, whatever its attention, or None."""
    if size % config.patch:
        return f"frames of {size} pixels do not divide into patches of {config.patch}"
    if config.init_sha256 is not None and config.init is None:
        return "init_sha256 without init"
    return None
