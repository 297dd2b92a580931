"""Pieces that several backbones share: attention, patches, initialisation, image weights.

Used by `bench/models/backbones/*.py` only. What a single backbone needs stays in that backbone's
file. timm is imported only where its weights are read: it takes three seconds, which every cell and
every `--plan` would pay (hence the few lines of `Mlp` and `DropPath` here).

Shape suffixes: G groups of tokens that attend to each other, L tokens per group; otherwise as in
`bench.task`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".bin")


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
        mixed = F.scaled_dot_product_attention(q, k, v)
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


def resize_positions(pos_1LD: Tensor, num_patches: int) -> Tensor:
    """Position embedding (class token first) for another square grid: bicubic, as timm does it."""
    if pos_1LD.shape[1] == num_patches + 1:
        return pos_1LD
    from timm.layers import resample_abs_pos_embed

    side = math.isqrt(num_patches)
    return resample_abs_pos_embed(pos_1LD, [side, side], num_prefix_tokens=1)


def resize_times(time_1TD: Tensor, frames: int) -> Tensor:
    """Time embedding for another number of frames: the nearest one, as the release does it."""
    if time_1TD.shape[1] == frames:
        return time_1TD
    return F.interpolate(time_1TD.mT, size=frames, mode="nearest").mT


def load_checked(
    module: nn.Module,
    state: dict[str, Tensor],
    *,
    may_ignore: tuple[str, ...] = (),
) -> None:
    """Load a state dict; raise ValueError on any missing, unexpected or wrongly shaped tensor.

    Only keys that start with one of `may_ignore` may be surplus. The error lists all mistakes, and
    leaves the module untouched.
    """
    own = module.state_dict()
    mistakes = [f"missing {k}" for k in own if k not in state]
    mistakes += [f"unexpected {k}" for k in state if k not in own and not k.startswith(may_ignore)]
    mistakes += [
        f"{k} is {tuple(state[k].shape)}, the model needs {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if mistakes:
        raise ValueError(
            f"these weights do not fit {type(module).__name__}; change its config or the weights:"
            + "".join(f"\n  {mistake}" for mistake in mistakes)
        )
    module.load_state_dict({k: state[k] for k in own})


@dataclass(frozen=True)
class ImageWeights:
    """The weights of a timm ViT, and what to write down about them."""

    state: dict[str, Tensor]
    heads: int  # not visible in the tensors
    record: dict[str, str]  # name, tag, file, sha256


def read_image_weights(
    name: str, folder: Path | None, *, sha256: str | None = None
) -> ImageWeights:
    """Weights of the timm ViT `name`, with its tag (`vit_tiny_patch16_224.augreg_in21k`), offline.

    Looks for `<folder>/<name>.{safetensors,pth,bin}`, then in the caches that timm's own downloads
    fill. Raises ValueError when there is no such model or file, when the file's SHA-256 is not
    `sha256`, and when the model differs from the plain ViT in something that tensors do not show
    (activation, epsilon).
    """
    import timm
    from timm.models import load_state_dict
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}; `timm.list_models('vit*', pretrained=True)`")
    if problem := missing_weights(name, folder):
        raise ValueError(problem)
    path = _find_weights(name, folder)
    assert path is not None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise ValueError(
            f"{path.name} has SHA-256 {digest}, but init_sha256 is {sha256}: "
            "other weights under the same name"
        )
    # On the meta device: only the sizes are needed, and a ViT-B would take a second to initialise.
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    block: Any = model.blocks[0] if isinstance(model, VisionTransformer) else None
    if block is None or not isinstance(block.mlp.act, nn.GELU) or block.norm1.eps != 1e-6:
        raise ValueError(f"{name} is not a plain ViT (GELU, norm epsilon 1e-6): cannot inflate it")
    source = timm.get_pretrained_cfg(name)
    return ImageWeights(
        state=checkpoint_filter_fn(load_state_dict(str(path), weights_only=True), model),
        heads=block.attn.num_heads,
        record={
            "name": name,
            "tag": (source and source.tag) or "",
            "file": path.name,
            "sha256": digest,
        },
    )


def missing_weights(name: str, folder: Path | None) -> str | None:
    """What to do when the weights of a timm model are not on this machine, else None."""
    if _find_weights(name, folder) is not None:
        return None
    wanted = f"{name}{{{','.join(WEIGHT_SUFFIXES)}}}"
    return (
        f"no weights for {name}: put {wanted} into {folder}, or download them once with "
        f"timm.create_model({name!r}, pretrained=True); nothing is downloaded here"
    )


def _find_weights(name: str, folder: Path | None) -> Path | None:
    """The local file of a timm model: in the folder, or in the cache of timm's own downloads."""
    if folder is not None:
        for suffix in WEIGHT_SUFFIXES:
            # Not with_suffix: the tag of a timm name looks like one.
            if (path := Path(folder) / f"{name}{suffix}").is_file():
                return path
    from huggingface_hub import try_to_load_from_cache

    for filename in ("model.safetensors", "pytorch_model.bin"):
        cached = try_to_load_from_cache(f"timm/{name}", filename)
        if isinstance(cached, str):
            return Path(cached)
    return None
