"""Motionformer: a ViT whose attention follows each patch through the frames (trajectory attention).

Patrick et al., "Keeping Your Eye on the Ball: Trajectory Attention in Video Transformers", NeurIPS
2021; the variant and its initialisation are those of the TIME release (Yun et al., ICML 2022),
against whose outputs `tests/models/test_parity.py` compares. Built by the engine through `bench.find`;
returns `Features`, holds no head and no self-supervision.

Blocks are a ViT's, over the class token and all T N patch tokens of the clip; their attention, with
its equations, is in `_trajectory_attention.py`.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from bench.models.backbones._trajectory_attention import TrajectoryAttention
from bench.models.layers import (
    Block,
    DropRate,
    PatchEmbed,
    Size,
    VitConfig,
    init_vit,
    resize_times,
    why_impossible,
)
from bench.models.weights import fitted, load_checked, load_init, missing_weights
from bench.task import Features

VERSION = 1
EPSILON = 1e-6  # of every layer norm; timm's ViT


class Config(VitConfig):
    """ViT-B/16 as in the TIME release by default; upstream's has `tubelet: 2`."""

    drop_path: DropRate = 0.2
    tubelet: Size = 1  # frames that make up one token
    project_values: bool = False  # the value path as published instead of as released
    pre_logits: bool = True  # a tanh layer after the final norm, on every token


def skip(config: Config, *, frames: int, size: int) -> str | None:
    """Why no such model can exist, or None."""
    if frames % config.tubelet:
        return f"{frames} frames do not divide into tubelets of {config.tubelet}"
    return why_impossible(config, size=size)


def missing(config: Config, weights: Path) -> str | None:
    """What is not on this machine and how to get it, or None."""
    return None if config.init is None else missing_weights(config.init, weights)


def build(config: Config, *, frames: int, size: int, weights: Path | None = None) -> Motionformer:
    """A model for clips of `frames` x `size` x `size` pixels: random, or inflated.

    `weights` is the folder that `config.init` is looked up in (see `load_init`). Raises ValueError
    for impossible sizes and for weights that are absent or do not fit.
    """
    if reason := skip(config, frames=frames, size=size):
        raise ValueError(f"motionformer: {reason}")
    model = Motionformer(config, frames=frames, size=size)
    load_init(model, config, load_image_weights, folder=weights)
    return model


class TubeletEmbed(nn.Module):
    """Non-overlapping patches of `tubelet` frames each, projected linearly.

    One frame per token is `PatchEmbed`, with that module's parameters: a 2-D convolution.
    """

    def __init__(self, patch: int, tubelet: int, dim: int) -> None:
        super().__init__()
        size = (tubelet, patch, patch)
        self.proj = nn.Conv3d(3, dim, kernel_size=size, stride=size)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """clip_BTCHW -> tokens (B, T / tubelet, N, D), row-major over the patch grid."""
        grid = self.proj(rearrange(clip_BTCHW, "b t c h w -> b c t h w"))
        return rearrange(grid, "b d t h w -> b t (h w) d")


class PreLogits(nn.Module):
    """tanh(W x + b); named as in the release."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).tanh()


class Motionformer(nn.Module):
    """A `bench.task.Backbone`. T in its features is the number of tubelets.

    Another frame count than it was built for works: the nearest time embedding stands in.
    """

    loaded_weights: dict[str, str] | None  # what `load_init` put in: name, tag, file, sha256

    def __init__(self, config: Config, *, frames: int, size: int) -> None:
        super().__init__()
        self.dim = config.dim
        self.patch = config.patch
        self.tubelet = config.tubelet
        self.size = size
        self.loaded_weights = None
        num_patches = (size // config.patch) ** 2
        self.patch_embed: PatchEmbed | TubeletEmbed = (
            PatchEmbed(config.patch, config.dim)
            if config.tubelet == 1
            else TubeletEmbed(config.patch, config.tubelet, config.dim)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, config.dim))
        self.time_embed = nn.Parameter(torch.zeros(1, frames // config.tubelet, config.dim))
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                TrajectoryAttention(config.dim, config.heads, project_values=config.project_values),
                mlp_ratio=config.mlp_ratio,
                epsilon=EPSILON,
                drop_path=rate,
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(config.dim, eps=EPSILON)
        self.pre_logits = PreLogits(config.dim) if config.pre_logits else nn.Identity()

        init_vit(self, std=config.init_std)
        nn.init.trunc_normal_(self.cls_token, std=config.init_std)
        nn.init.trunc_normal_(self.pos_embed, std=config.init_std)

    def forward(self, clip_BTCHW: Tensor) -> Features:
        """Normalised clip -> class feature and patch tokens, after final norm and pre-logits."""
        x_BLD, frames = self._embed(clip_BTCHW)
        for block in self.blocks:
            x_BLD = block(x_BLD, frames=frames)
        return self._features(x_BLD, frames)

    def stages(self, clip_BTCHW: Tensor) -> Generator[Tensor, None, Features]:
        """tokens_BTND after the embedding and each block (depth + 1 in all), not normalised; returns
        what `forward` does.
        """
        x_BLD, frames = self._embed(clip_BTCHW)
        yield _patches(x_BLD, frames)
        for block in self.blocks:
            x_BLD = block(x_BLD, frames=frames)
            yield _patches(x_BLD, frames)
        return self._features(x_BLD, frames)

    def _features(self, x_BLD: Tensor, frames: int) -> Features:
        x_BLD = self.pre_logits(self.norm(x_BLD))
        return Features(x_BLD[:, 0], _patches(x_BLD, frames))

    def _embed(self, clip_BTCHW: Tensor) -> tuple[Tensor, int]:
        """Class token and patch tokens (B, 1 + T N, D), frame after frame; T."""
        B, T, _, H, W = clip_BTCHW.shape
        if (self.size, self.size) != (H, W):
            raise ValueError(f"built for {self.size} x {self.size} pixels, got {H} x {W}")
        if T % self.tubelet:
            raise ValueError(f"{T} frames do not divide into tubelets of {self.tubelet}")
        tokens_BTND = self.patch_embed(clip_BTCHW)
        frames = tokens_BTND.shape[1]
        position_LD = self.pos_embed[0]
        time_1TD = resize_times(self.time_embed, frames)
        tokens_BTND = tokens_BTND + (time_1TD[0, :, None] + position_LD[None, 1:])
        # The class token carries a position but no time: there is one for the whole clip.
        cls_B1D = (self.cls_token + position_LD[:1]).expand(B, -1, -1)
        return torch.cat([cls_B1D, rearrange(tokens_BTND, "b t n d -> b (t n) d")], dim=1), frames


def _patches(x_BLD: Tensor, frames: int) -> Tensor:
    return rearrange(x_BLD[:, 1:], "b (t n) d -> b t n d", t=frames)


# Weights ------------------------------------------------------------------------------------------

# What no image model has: these keep their initial values.
NEW = (".attn.proj_q.", ".attn.proj_kv.", "pre_logits.", "time_embed")


def load_image_weights(model: Motionformer, state: dict[str, Tensor]) -> None:
    """Inflation of a timm ViT's state dict, as the release does it.

    The second step of the attention, the pre-logits layer and the time embedding (zero) stay as
    they are; the position embedding is interpolated to the model's grid; the patch projection of a
    tubelet is the image's on the middle frame and zero on the others. The image classifier is left
    out; anything else missing or unexpected raises ValueError.
    """
    state = fitted(model, {k: v for k, v in state.items() if not k.startswith("pre_logits.")})
    projection = "patch_embed.proj.weight"
    if isinstance(model.patch_embed, TubeletEmbed) and projection in state:
        inflated = torch.zeros_like(model.patch_embed.proj.weight)
        inflated[:, :, inflated.shape[2] // 2] = state[projection]
        state[projection] = inflated
    own = model.state_dict()
    state |= {name: own[name] for name in own if any(part in name for part in NEW)}
    load_checked(model, state, may_ignore=("head.",))


# Released checkpoints (see bench/models/released.py) ----------------------------------------------


def recognise(state: dict[str, Tensor]) -> bool:
    """Whether these are the tensors of a released Motionformer: TIME's or upstream's."""
    return "temp_embed" in state and "blocks.0.attn.proj_kv.weight" in state


def describe_released(state: dict[str, Tensor], *, heads: int | None = None) -> dict[str, Any]:
    """{"config": fields of Config, "frames": T, "size": pixels} from the tensors' shapes.

    Head counts leave no trace in the tensors: 64 channels each, as in every ViT of the paper,
    unless given. Nor does the value path: `project_values` is left at its default, as released.
    """
    projection = state.get("patch_embed_3d.proj.weight", state["patch_embed.proj.weight"])
    dim, _, *_, patch = projection.shape
    tubelet = projection.shape[2] if projection.ndim == 5 else 1
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
    return {
        "config": {
            "patch": patch,
            "tubelet": tubelet,
            "dim": dim,
            "depth": depth,
            "heads": heads or max(1, dim // 64),
            "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / dim,
            "pre_logits": "pre_logits.fc.weight" in state,
        },
        "frames": state["temp_embed"].shape[1] * tubelet,
        "size": side * patch,
    }


def from_released(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Released tensors without auxiliary heads -> (backbone's, classifier head's), our names.

    With tubelets, the release keeps the image model's 2-D patch projection beside the 3-D one and
    does not use it.
    """
    if any(key.startswith("head0.") for key in state):
        raise ValueError(
            "this Motionformer has several classifiers (head0, head1: verbs and nouns of "
            "EPIC-Kitchens); one classifier is supported: rename one of them to head and delete "
            "the other"
        )
    head = {k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")}
    rest = {k: v for k, v in state.items() if not k.startswith("head.")}
    if "patch_embed_3d.proj.weight" in rest:
        rest = {k: v for k, v in rest.items() if not k.startswith("patch_embed.")}
    renamed = {"temp_embed": "time_embed"}
    return {
        renamed.get(k, k.replace("patch_embed_3d.", "patch_embed.")): v for k, v in rest.items()
    }, head
