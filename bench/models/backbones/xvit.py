"""X-ViT: a ViT on each frame whose keys and values borrow channels from the neighbouring frames.

Bulat et al., "Space-time Mixing Attention for Video Transformer", NeurIPS 2021; the variant and its
initialisation are those of the TIME release (Yun et al., ICML 2022), against whose outputs
`tests/models/test_parity.py` compares. Built by the engine through `bench.find`; returns `Features`, holds
no classifier and no self-supervision.

Every frame has its own class token, and attends only within itself; but of the D channels of the
keys and values of every token, with s = D / `shift_div`,

    channels [0, s) are those of frame t + 1,  [s, 2 s) those of frame t - 1,  the rest its own

(zero beyond the ends of the clip), which is space-time attention over a window of three frames at
the cost of attention over one. The frames' class tokens, after the final norm, go through a small
transformer over time with a class token of its own, a norm, a linear map and a GELU: the clip's
feature. The patch tokens are those before that temporal head, as in the release.

The released classifier has dropout 0.5 before it: `train.dropout`.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from bench.models.layers import (
    Attention,
    Block,
    PatchEmbed,
    VitConfig,
    attend,
    init_vit,
    resize_times,
    why_impossible,
)
from bench.models.weights import fitted, load_checked, load_init, missing_weights
from bench.task import Features

VERSION = 1
EPSILON = 1e-6  # of the layer norms on frames; timm's ViT
HEAD_EPSILON = 1e-5  # of those in the temporal head; PyTorch's default


class Config(VitConfig):
    """ViT-B/16 with the release's shift by default."""

    # The part of the channels that comes from the next frame, and again from the previous one.
    shift_div: int = Field(default=4, ge=2)
    shift_blocks: int = Field(default=15, ge=0)  # so many blocks, from the first one, shift
    temporal_depth: int = Field(default=1, ge=0, le=1000)  # blocks of the temporal head


def skip(config: Config, *, frames: int, size: int) -> str | None:
    """Why no such model can exist, or None."""
    if config.shift_div > config.dim:
        return f"1 / {config.shift_div} of {config.dim} channels is none to shift"
    return why_impossible(config, size=size)


def missing(config: Config, weights: Path) -> str | None:
    """What is not on this machine and how to get it, or None."""
    return None if config.init is None else missing_weights(config.init, weights)


def build(config: Config, *, frames: int, size: int, weights: Path | None = None) -> XViT:
    """A model for clips of `frames` x `size` x `size` pixels: random, or inflated.

    `weights` is the folder that `config.init` is looked up in (see `load_init`). Raises ValueError
    for impossible sizes and for weights that are absent or do not fit.
    """
    if reason := skip(config, frames=frames, size=size):
        raise ValueError(f"xvit: {reason}")
    model = XViT(config, frames=frames, size=size)
    load_init(model, config, load_image_weights, folder=weights)
    return model


class ShiftedAttention(Attention):
    """Attention within each frame, over keys and values that were shifted by `shift`."""

    def __init__(self, dim: int, heads: int, *, channels: int) -> None:
        super().__init__(dim, heads)
        self.channels = channels  # s of the module docstring; 0 for no shift

    def forward(self, x_BTLD: Tensor) -> Tensor:
        """x_BTLD -> x_BTLD; L tokens of each frame see each other."""
        B = len(x_BTLD)
        q, kv = self.qkv(x_BTLD).tensor_split([x_BTLD.shape[-1]], dim=-1)
        kv = shift(rearrange(kv, "b t l (two d) -> b t l two d", two=2), channels=self.channels)
        q = rearrange(q, "b t l (h d) -> (b t) h l d", h=self.heads)
        k, v = rearrange(kv, "b t l two (h d) -> two (b t) h l d", h=self.heads)
        mixed = attend(q, k, v)
        return self.proj(rearrange(mixed, "(b t) h l d -> b t l (h d)", b=B))


def shift(x: Tensor, *, channels: int) -> Tensor:
    """x (B, T, ..., D) with `channels` channels from the next frame, as many from the previous."""
    if channels == 0:
        return x
    ahead, behind, own = x.tensor_split([channels, 2 * channels], dim=-1)
    padding = [0, 0] * (x.ndim - 2)  # none behind the frame axis
    return torch.cat(
        [F.pad(ahead[:, 1:], [*padding, 0, 1]), F.pad(behind[:, :-1], [*padding, 1, 0]), own],
        dim=-1,
    )


class TemporalHead(nn.Module):
    """Class features of the frames -> one of the clip. Initialised by PyTorch, as released."""

    def __init__(self, dim: int, heads: int, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.Sequential(
            *(
                Block(
                    dim,
                    Attention(dim, heads, qkv_bias=False),
                    mlp_ratio=4.0,
                    epsilon=HEAD_EPSILON,
                    drop_path=0.0,
                )
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(dim, eps=HEAD_EPSILON)
        self.fc = nn.Linear(dim, dim)

    def forward(self, frames_BTD: Tensor) -> Tensor:
        """frames_BTD -> clip_BD"""
        cls_B1D = self.cls_token.expand(len(frames_BTD), -1, -1)
        x = self.blocks(torch.cat([cls_B1D, frames_BTD], dim=1))
        return F.gelu(self.fc(self.norm(x[:, 0])))


class XViT(nn.Module):
    """A `bench.task.Backbone`.

    Another frame count than it was built for works: the nearest time embedding stands in.
    """

    loaded_weights: dict[str, str] | None  # what `load_init` put in: name, tag, file, sha256

    def __init__(self, config: Config, *, frames: int, size: int) -> None:
        super().__init__()
        self.dim = config.dim
        self.patch = config.patch
        self.size = size
        self.loaded_weights = None
        num_patches = (size // config.patch) ** 2
        self.patch_embed = PatchEmbed(config.patch, config.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, config.dim))
        self.time_embed = nn.Parameter(torch.zeros(1, frames, config.dim))
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        shifted = config.dim // config.shift_div
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                ShiftedAttention(
                    config.dim,
                    config.heads,
                    channels=shifted if index < config.shift_blocks else 0,
                ),
                mlp_ratio=config.mlp_ratio,
                epsilon=EPSILON,
                drop_path=rate,
            )
            for index, rate in enumerate(rates)
        )
        self.norm = nn.LayerNorm(config.dim, eps=EPSILON)

        init_vit(self, std=config.init_std)
        nn.init.trunc_normal_(self.cls_token, std=config.init_std)
        nn.init.trunc_normal_(self.pos_embed, std=config.init_std)
        # After init_vit, which is not for it.
        self.temporal = TemporalHead(config.dim, config.heads, config.temporal_depth)

    def forward(self, clip_BTCHW: Tensor) -> Features:
        """Normalised clip -> class feature of the temporal head, patch tokens after the norm."""
        x_BTLD = self._embed(clip_BTCHW)
        for block in self.blocks:
            x_BTLD = block(x_BTLD)
        return self._features(x_BTLD)

    def stages(self, clip_BTCHW: Tensor) -> Generator[Tensor, None, Features]:
        """tokens_BTND after the embedding and each block (depth + 1 in all), not normalised; returns
        what `forward` does.
        """
        x_BTLD = self._embed(clip_BTCHW)
        yield x_BTLD[:, :, 1:]
        for block in self.blocks:
            x_BTLD = block(x_BTLD)
            yield x_BTLD[:, :, 1:]
        return self._features(x_BTLD)

    def _features(self, x_BTLD: Tensor) -> Features:
        x_BTLD = self.norm(x_BTLD)
        return Features(self.temporal(x_BTLD[:, :, 0]), x_BTLD[:, :, 1:])

    def _embed(self, clip_BTCHW: Tensor) -> Tensor:
        """x_BTLD: class token first in every frame, with the frame's time like its patches."""
        B, T, _, H, W = clip_BTCHW.shape
        if (self.size, self.size) != (H, W):
            raise ValueError(f"built for {self.size} x {self.size} pixels, got {H} x {W}")
        cls_BT1D = self.cls_token.expand(B, T, -1, -1)
        x_BTLD = torch.cat([cls_BT1D, self.patch_embed(clip_BTCHW)], dim=2)
        return x_BTLD + (
            self.pos_embed + rearrange(resize_times(self.time_embed, T), "1 t d -> t 1 d")
        )


# Weights ------------------------------------------------------------------------------------------

# What no image model has: these keep their initial values.
NEW = ("time_embed", "temporal.")


def load_image_weights(model: XViT, state: dict[str, Tensor]) -> None:
    """A timm ViT's state dict on every frame, as the release does it.

    The temporal head and the time embedding (zero) stay as they are; the position embedding is
    interpolated to the model's grid. The image classifier and a layer before it are left out;
    anything else missing or unexpected raises ValueError.
    """
    own = model.state_dict()
    kept = {name: own[name] for name in own if name.startswith(NEW)}
    load_checked(model, fitted(model, state) | kept, may_ignore=("head.", "pre_logits."))


# Released checkpoints (see bench/models/released.py) ----------------------------------------------

RENAMED = {
    "base_model.": "",
    "consensus.temporal_encoder.": "temporal.blocks.",
    "consensus.mlp_head.0.": "temporal.norm.",
    "consensus.mlp_head.1.": "temporal.fc.",
    "consensus.cls_token": "temporal.cls_token",
}
# The classifier: as TIME's authors, and as upstream, name it.
HEADS = ("consensus.head.", "consensus.mlp_head.4.")
# Upstream builds these and does not use them.
UNUSED = ("base_model.head.", "new_fc.")


def recognise(state: dict[str, Tensor]) -> bool:
    """Whether these are the tensors of a released X-ViT: TIME's or upstream's."""
    return "base_model.temp_embed" in state and "consensus.cls_token" in state


def describe_released(state: dict[str, Tensor], *, heads: int | None = None) -> dict[str, Any]:
    """{"config": fields of Config, "frames": T, "size": pixels} from the tensors' shapes.

    Head counts leave no trace in the tensors: 64 channels each, as in every ViT of the paper,
    unless given. Nor does `shift_div`: it is left at its default, which is that of the TIME authors
    and of upstream's model for SSv2; upstream's for Kinetics have 8.
    """
    dim, _, patch, _ = state["base_model.patch_embed.proj.weight"].shape
    side = round((state["base_model.pos_embed"].shape[1] - 1) ** 0.5)
    return {
        "config": {
            "patch": patch,
            "dim": dim,
            "depth": _count(state, "base_model.blocks."),
            "heads": heads or max(1, dim // 64),
            "mlp_ratio": state["base_model.blocks.0.mlp.fc1.weight"].shape[0] / dim,
            "temporal_depth": _count(state, "consensus.temporal_encoder."),
        },
        "frames": state["base_model.temp_embed"].shape[1],
        "size": side * patch,
    }


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """How many numbered blocks there are under a prefix."""
    return len({k.removeprefix(prefix).split(".")[0] for k in state if k.startswith(prefix)})


def from_released(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Released tensors without auxiliary heads -> (backbone's, classifier head's), our names."""
    head: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(UNUSED):
            continue
        if (prefix := next((p for p in HEADS if key.startswith(p)), None)) is not None:
            head[key.removeprefix(prefix)] = value
            continue
        old = next((p for p in RENAMED if key.startswith(p)), "")
        rest[RENAMED.get(old, "") + key.removeprefix(old)] = value
    if "temp_embed" in rest:
        rest["time_embed"] = rearrange(rest.pop("temp_embed"), "1 t 1 d -> 1 t d")
    return rest, head
