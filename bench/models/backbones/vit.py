"""ViT: one image, one class feature; any ViT or DeiT of timm, by timm's own `VisionTransformer`.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Touvron et al., "Training
data-efficient image transformers & distillation through attention", ICML 2021 (the default sizes
are DeiT-S). The backbone of the image domain of Yun et al., ICML 2022. Built by the engine through
`bench.find`; returns `Features` with T = 1, holds no head and no self-supervision.

    z_0 = [c + p_c, x_1 E + p_1, ..., x_N E + p_N],   z_l = block_l(z_{l-1}),   features = norm(z_L)

With `positions=False` the p_1 ... p_N are left out, and the patch tokens are a set: permuting the
patches of the image permutes the tokens and changes nothing else. The class token keeps p_c.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from bench.models.layers import (
    DropRate,
    Size,
    VitConfig,
    init_vit,
    resize_positions,
    why_impossible,
)
from bench.models.weights import load_checked, load_init, missing_weights, timm_model
from bench.task import Features

VERSION = 1
POSITIONS_OPTIONAL = True
# Parameters of timm's ViTs that are neither linear maps nor norms.
EMBEDDINGS = ("cls_token", "dist_token", "reg_token", "pos_embed")
CLASSIFIERS = ("head.", "head_dist.")


class Config(VitConfig):
    """DeiT-S by default: a plain ViT-S/16. `mlp_ratio` is of plain ViTs; `timm` has its own."""

    dim: Size = 384
    heads: Size = 6
    drop_path: DropRate = 0.1
    # timm's own architecture, when it is no plain ViT: "deit_small_distilled_patch16_224",
    # "vit_small_patch14_reg4_dinov2"; patch, dim, depth and heads must be the same as there
    timm: str | None = None


def skip(config: Config, *, frames: int, size: int) -> str | None:
    """Why no such model can exist, all reasons at once, or None."""
    reasons = [
        "a ViT sees one image: set input.frames: 1" if frames != 1 else None,
        why_impossible(config, size=size),
        None if config.timm is None else _why_not_timm(config, config.timm),
    ]
    return "; ".join(reason for reason in reasons if reason) or None


def missing(config: Config, weights: Path) -> str | None:
    """What is not on this machine and how to get it, or None."""
    return None if config.init is None else missing_weights(config.init, weights)


def build(config: Config, *, frames: int, size: int, weights: Path | None = None) -> ViT:
    """A model for images of `size` x `size` pixels: random, or with the weights of `config.init`.

    `weights` is the folder that `config.init` is looked up in (see `load_init`). Raises ValueError
    for impossible sizes and for weights that are absent or do not fit.
    """
    if reason := skip(config, frames=frames, size=size):
        raise ValueError(f"vit: {reason}")
    model = ViT(config, size=size)
    load_init(model, config, load_image_weights, folder=weights, plain=config.timm is None)
    return model


class ViT(nn.Module):
    """A `bench.task.Backbone` of images: clips of one frame."""

    loaded_weights: dict[str, str] | None  # what `load_init` put in: name, tag, file, sha256

    def __init__(self, config: Config, *, size: int) -> None:
        super().__init__()
        self.dim = config.dim
        self.patch = config.patch
        self.size = size
        self.loaded_weights = None
        self.vit = _plain(config, size) if config.timm is None else _named(config, size)
        init_vit(self, std=config.init_std)
        for name in EMBEDDINGS:
            if (embedding := getattr(self.vit, name, None)) is not None:
                nn.init.trunc_normal_(embedding, std=config.init_std)

    def forward(self, clip_BTCHW: Tensor, *, positions: bool = True) -> Features:
        """Normalised images (T = 1) -> class feature and patch tokens, both after the final norm.

        The class feature is what timm's classifier of this architecture would see: the class token,
        the mean of class and distillation token, or what is pooled where there is neither.
        """
        return self._features(self.vit.blocks(self._embed(clip_BTCHW, positions=positions)))

    def stages(self, clip_BTCHW: Tensor) -> Generator[Tensor, None, Features]:
        """tokens_BTND after the embedding and each block (depth + 1 in all), not normalised; returns
        what `forward` does.
        """
        tokens_BLD = self._embed(clip_BTCHW, positions=True)
        yield self._patches(tokens_BLD)[:, None]
        for block in self.vit.blocks:
            tokens_BLD = block(tokens_BLD)
            yield self._patches(tokens_BLD)[:, None]
        return self._features(tokens_BLD)

    def _features(self, tokens_BLD: Tensor) -> Features:
        """Of the last block's tokens."""
        tokens_BLD = self.vit.norm(tokens_BLD)
        cls_BD = self.vit.forward_head(tokens_BLD, pre_logits=True)
        # Where the mean of the tokens is the feature, the final norm is `fc_norm`, after pooling.
        patches_BND = self.vit.fc_norm(self._patches(tokens_BLD))
        return Features(cls_BD, patches_BND[:, None])

    def _embed(self, clip_BTCHW: Tensor, *, positions: bool) -> Tensor:
        """tokens_BLD: class, distillation and register tokens, then the patches."""
        _, T, _, H, W = clip_BTCHW.shape
        if T != 1:
            raise ValueError(f"a ViT sees one image at a time, got clips of {T} frames")
        if (self.size, self.size) != (H, W):
            raise ValueError(f"built for {self.size} x {self.size} pixels, got {H} x {W}")
        patches_BND = self.vit.patch_embed(rearrange(clip_BTCHW, "b 1 c h w -> b c h w"))
        # timm's own method, for how positions are added to the first tokens differs between ViTs.
        tokens_BLD = self.vit._pos_embed(patches_BND)
        if not positions:
            prefix = tokens_BLD[:, : self.vit.num_prefix_tokens]
            tokens_BLD = torch.cat([prefix, patches_BND], dim=1)
        return self.vit.norm_pre(tokens_BLD)

    def _patches(self, tokens_BLD: Tensor) -> Tensor:
        return tokens_BLD[:, self.vit.num_prefix_tokens :]


# timm's models ------------------------------------------------------------------------------------


def _plain(config: Config, size: int) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=size,
        patch_size=config.patch,
        num_classes=0,
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        drop_path_rate=config.drop_path,
    )


def _named(config: Config, size: int) -> Any:
    assert config.timm is not None
    return timm_model(
        config.timm,
        img_size=size,
        num_classes=0,
        dynamic_img_size=False,
        drop_path_rate=config.drop_path,
    )


@dataclass(frozen=True)
class _Sizes:
    patch: int
    dim: int
    depth: int
    heads: int


@cache
def _sizes(name: str) -> _Sizes:
    """Of a ViT of timm. Raises ValueError for other names and other kinds of models."""
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):  # only the sizes are needed
        model: Any = timm_model(name)
    if not isinstance(model, VisionTransformer):
        raise ValueError(
            f"{name} is a {type(model).__name__}, and this backbone is for timm's ViTs and DeiTs "
            "(class VisionTransformer); other classifiers can be evaluated, with "
            f"`python -m bench.evaluate EVALUATION --model timm:{name}`"
        )
    embed: Any = model.patch_embed
    patch = embed.feat_ratio() if hasattr(embed, "feat_ratio") else embed.patch_size
    patch = patch[0] if isinstance(patch, tuple) else patch
    # How the attention of a block is called differs between kinds of blocks.
    attention: Any = next(m for m in model.blocks[0].modules() if hasattr(m, "num_heads"))
    return _Sizes(patch, model.embed_dim, len(model.blocks), attention.num_heads)


def _why_not_timm(config: Config, name: str) -> str | None:
    architecture, _, tag = name.partition(".")
    if tag:
        return (
            f"timm: {name} is an architecture with a tag; write `timm: {architecture}`, and for "
            f"its weights `init: {name}`"
        )
    try:
        sizes = _sizes(name)
    except ValueError as error:
        return str(error)
    wrong = [k for k, v in vars(sizes).items() if getattr(config, k) != v]
    reasons = []
    if wrong:
        written = ", ".join(f"{k}: {v}" for k, v in vars(sizes).items())
        reasons.append(f"{name} has another {' and '.join(wrong)} than the config: write {written}")
    if config.mlp_ratio != Config().mlp_ratio:
        reasons.append(f"mlp_ratio is of plain ViTs only, {name} has its own: leave it out")
    if config.init is not None and (own := config.init.partition("@")[0].partition(".")[0]) != name:
        reasons.append(f"init has the weights of {own}, but timm is {name}: write the same in both")
    return "; ".join(reasons) or None


# Weights ------------------------------------------------------------------------------------------


def as_image_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of this backbone under the names that they have in timm."""
    return {key.removeprefix("vit."): tensor for key, tensor in state.items()}


def load_image_weights(model: ViT, state: dict[str, Tensor]) -> None:
    """The state dict of a timm model of this architecture, of any image size.

    The position embedding is interpolated to the model's grid; the classifier is left out.
    Anything else missing or unexpected raises ValueError.
    """
    state, vit = dict(state), model.vit
    if "pos_embed" in state and vit.pos_embed is not None:
        # The first tokens' positions, where they have any, are not part of the grid.
        first = 0 if vit.no_embed_class else vit.num_prefix_tokens
        count = vit.patch_embed.num_patches
        state["pos_embed"] = resize_positions(state["pos_embed"], count, first=first)
    load_checked(vit, state, may_ignore=CLASSIFIERS)
