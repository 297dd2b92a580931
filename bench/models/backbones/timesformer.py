"""TimeSformer: a ViT with divided attention, in every block over time and then over space.

Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021; the
variant and its initialisation are those of the TIME release (Yun et al., ICML 2022), against whose
outputs `tests/models/test_parity.py` compares. Built by the engine through `bench.find`; returns
`Features`, holds no head and no self-supervision.

One block, for patch tokens z and the class token c (one per clip):

    z    <- z + temporal_fc(attention over t within each patch column, of norm(z))
    c, z <- c + mean_t c'_t, z + z'    with c'_t, z'_t = attention within frame t, of norm([c, z_t])
    c, z <- c + mlp(norm(c)), z + mlp(norm(z))

`temporal_fc` and the time embedding start at zero, so an inflated image model starts as that image model on
each frame, and no gradient reaches the temporal attention before they have moved; `temporal_fc_std` and
`time_embed_std` start them elsewhere (no release does).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from pydantic import Field
from torch import Tensor, nn

from bench.models.layers import (
    Attention,
    DropPath,
    DropRate,
    Mlp,
    PatchEmbed,
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
    """ViT-B/16 by default, the paper's size."""

    drop_path: DropRate = 0.1
    # of the normal distribution that the time embedding, and temporal_fc of each block, start from
    time_embed_std: float = Field(default=0.0, ge=0.0, le=10.0)
    temporal_fc_std: float = Field(default=0.0, ge=0.0, le=10.0)


def skip(config: Config, *, frames: int, size: int) -> str | None:
    """Why no such model can exist, or None."""
    return why_impossible(config, size=size)


def missing(config: Config, weights: Path) -> str | None:
    """What is not on this machine and how to get it, or None."""
    return None if config.init is None else missing_weights(config.init, weights)


def build(config: Config, *, frames: int, size: int, weights: Path | None = None) -> TimeSformer:
    """A model for clips of `frames` x `size` x `size` pixels: random, or inflated.

    `weights` is the folder that `config.init` is looked up in (see `load_init`). Raises ValueError
    for impossible sizes and for weights that are absent or do not fit.
    """
    if reason := skip(config, frames=frames, size=size):
        raise ValueError(f"timesformer: {reason}")
    model = TimeSformer(config, frames=frames, size=size)
    load_init(model, config, load_image_weights, folder=weights)
    return model


class DividedBlock(nn.Module):
    """One divided space-time block; the module docstring has its equations."""

    def __init__(self, config: Config, drop_path: float) -> None:
        super().__init__()
        dim = config.dim
        self.temporal_norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.temporal_attn = Attention(dim, config.heads)
        self.temporal_fc = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.attn = Attention(dim, config.heads)
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, cls_BD: Tensor, tokens_BTND: Tensor) -> tuple[Tensor, Tensor]:
        B, T, N, _ = tokens_BTND.shape
        # The release drops the temporal path per patch column and before temporal_fc (whose bias is
        # therefore never dropped), the spatial path per frame, and the MLP per clip.
        columns = rearrange(tokens_BTND, "b t n d -> (b n) t d")
        columns = self.drop_path(self.temporal_attn(self.temporal_norm1(columns)))
        tokens_BTND = tokens_BTND + rearrange(
            self.temporal_fc(columns), "(b n) t d -> b t n d", b=B, n=N
        )

        frames = torch.cat([repeat(cls_BD, "b d -> b t 1 d", t=T), tokens_BTND], dim=2)
        frames = self.norm1(rearrange(frames, "b t l d -> (b t) l d"))
        frames = rearrange(self.drop_path(self.attn(frames)), "(b t) l d -> b t l d", b=B)
        cls_BD = cls_BD + frames[:, :, 0].mean(dim=1)
        tokens_BTND = tokens_BTND + frames[:, :, 1:]

        clip = torch.cat([cls_BD[:, None], rearrange(tokens_BTND, "b t n d -> b (t n) d")], dim=1)
        clip = clip + self.drop_path(self.mlp(self.norm2(clip)))
        return clip[:, 0], rearrange(clip[:, 1:], "b (t n) d -> b t n d", t=T)


class TimeSformer(nn.Module):
    """A `bench.task.Backbone`.

    Another frame count than it was built for works: the nearest time embedding stands in, as in
    the release.
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
        self.blocks = nn.ModuleList(DividedBlock(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.dim, eps=EPSILON)

        init_vit(self, std=config.init_std)
        nn.init.trunc_normal_(self.cls_token, std=config.init_std)
        nn.init.trunc_normal_(self.pos_embed, std=config.init_std)
        for module in self.modules():
            if isinstance(module, DividedBlock):
                nn.init.zeros_(module.temporal_fc.weight)
                nn.init.zeros_(module.temporal_fc.bias)
        # Last, so that what is drawn before does not hang on them.
        if config.time_embed_std:
            nn.init.trunc_normal_(self.time_embed, std=config.time_embed_std)
        for module in self.modules():
            if isinstance(module, DividedBlock) and config.temporal_fc_std:
                nn.init.trunc_normal_(module.temporal_fc.weight, std=config.temporal_fc_std)

    def forward(self, clip_BTCHW: Tensor) -> Features:
        """Normalised clip -> class feature and patch tokens, both after the final norm."""
        cls_BD, tokens_BTND = self._embed(clip_BTCHW)
        for block in self.blocks:
            cls_BD, tokens_BTND = block(cls_BD, tokens_BTND)
        return self._features(cls_BD, tokens_BTND)

    def stages(self, clip_BTCHW: Tensor) -> Generator[Tensor, None, Features]:
        """tokens_BTND after the embedding and each block (depth + 1 in all), not normalised; returns
        what `forward` does.
        """
        cls_BD, tokens_BTND = self._embed(clip_BTCHW)
        yield tokens_BTND
        for block in self.blocks:
            cls_BD, tokens_BTND = block(cls_BD, tokens_BTND)
            yield tokens_BTND
        return self._features(cls_BD, tokens_BTND)

    def _features(self, cls_BD: Tensor, tokens_BTND: Tensor) -> Features:
        return Features(self.norm(cls_BD), self.norm(tokens_BTND))

    def _embed(self, clip_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
        B, T, _, H, W = clip_BTCHW.shape
        if (self.size, self.size) != (H, W):
            raise ValueError(f"built for {self.size} x {self.size} pixels, got {H} x {W}")
        position_LD = self.pos_embed[0]
        # The class token carries a position but no time: there is one for the whole clip.
        cls_BD = (self.cls_token[0] + position_LD[:1]).expand(B, -1)
        time_1TD = resize_times(self.time_embed, T)
        added_TND = time_1TD[0, :, None] + position_LD[None, 1:]
        return cls_BD, self.patch_embed(clip_BTCHW) + added_TND


# Weights ------------------------------------------------------------------------------------------


def load_image_weights(model: TimeSformer, state: dict[str, Tensor]) -> None:
    """Inflation of a timm ViT's state dict, as the release does it.

    Temporal attention and its norm start as copies of the spatial ones, `temporal_fc` and the time
    embedding stay as they are (zero, if the config does not say otherwise), the position embedding is
    interpolated to the model's grid. The image classifier is left out; anything else missing or
    unexpected raises ValueError.
    """
    state = fitted(model, state)
    for key in [k for k in state if k.startswith("blocks.")]:
        _, index, part, *rest = key.split(".")
        if part in ("attn", "norm1"):
            state[".".join(["blocks", index, f"temporal_{part}", *rest])] = state[key]
    for name, tensor in model.state_dict().items():
        if name == "time_embed" or ".temporal_fc." in name:
            state[name] = tensor
    load_checked(model, state, may_ignore=("head.",))


# Released checkpoints (see bench/models/released.py) ----------------------------------------------

# Names in transformers' TimesformerForVideoClassification -> ours (timm's), replaced in this order.
HUGGING_FACE = {
    "timesformer.": "",
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.time_embeddings": "time_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "encoder.layer.": "blocks.",
    "temporal_layernorm.": "temporal_norm1.",
    "temporal_attention.attention.": "temporal_attn.",
    "temporal_attention.output.dense.": "temporal_attn.proj.",
    "temporal_dense.": "temporal_fc.",
    "layernorm_before.": "norm1.",
    "attention.attention.": "attn.",
    "attention.output.dense.": "attn.proj.",
    "layernorm_after.": "norm2.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
    "layernorm.": "norm.",
    "classifier.": "head.",
}
# What joint attention over space and time lacks in every block.
DIVIDED = ("temporal_norm1.weight", "temporal_attn.qkv.weight", "temporal_fc.weight")


def recognise(state: dict[str, Tensor]) -> bool:
    """Whether these are the tensors of a released TimeSformer: TIME's, its authors', or Hugging
    Face's.
    """
    state = _our_names(state)
    return "time_embed" in state and "blocks.0.temporal_fc.weight" in state


def why_not(state: dict[str, Tensor]) -> str | None:
    """What a ViT lacks to be a TimeSformer with divided attention; None when it is no ViT."""
    state = _our_names(state)
    if not {"pos_embed", "blocks.0.attn.qkv.weight"} <= state.keys():
        return None
    lacking = [key for key in (f"blocks.0.{part}" for part in DIVIDED) if key not in state]
    kind = "joint_space_time attention" if len(lacking) == len(DIVIDED) else "a part of it only"
    if "time_embed" not in state:
        kind = "space_only attention or an image model" if lacking else kind
        lacking.append("time_embed")
    return (
        "a TimeSformer needs divided space-time attention; these tensors look like "
        f"{kind}: there is no {', no '.join(lacking)}"
    )


def describe_released(state: dict[str, Tensor], *, heads: int | None = None) -> dict[str, Any]:
    """{"config": fields of Config, "frames": T, "size": pixels, "mean", "std"} of the tensors.

    Head counts leave no trace in the tensors: 64 channels each, as in every ViT of the paper,
    unless given. The names do tell how the frames were normalised: TimeSformer's authors, whose
    checkpoints Hugging Face's are too, take 0.45 and 0.225; TIME's take 0.5 and 0.5.
    """
    ours = _our_names(state)
    dim, _, patch, _ = ours["patch_embed.proj.weight"].shape
    positions = ours["pos_embed"].shape[1] - 1
    side = math.isqrt(positions)
    if side**2 != positions:
        raise ValueError(f"pos_embed has {positions} patches: not a square grid")
    depth = 1 + max(int(k.split(".")[1]) for k in ours if k.startswith("blocks."))
    mean, std = (0.5, 0.5) if ours.keys() == state.keys() else (0.45, 0.225)
    return {
        "config": {
            "patch": patch,
            "dim": dim,
            "depth": depth,
            "heads": heads or max(1, dim // 64),
            "mlp_ratio": ours["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        },
        "frames": ours["time_embed"].shape[1],
        "size": side * patch,
        "mean": (mean,) * 3,
        "std": (std,) * 3,
    }


def describe_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The head count and normalisation in transformers' config.json and preprocessor_config.json.

    Raises ValueError for an activation or epsilon that is not a TimeSformer's: the weights would
    load and give other numbers.
    """
    if settings.get("model_type") != "timesformer":
        return {}
    expected = {"hidden_act": "gelu", "layer_norm_eps": EPSILON}
    if wrong := [f"{k} {settings[k]}" for k, v in expected.items() if settings.get(k, v) != v]:
        raise ValueError(f"config.json says {', '.join(wrong)}; only {expected} is supported")
    found: dict[str, Any] = {"config": {}}
    if "num_attention_heads" in settings:
        found["config"]["heads"] = settings["num_attention_heads"]
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if theirs in settings:
            found[ours] = tuple(settings[theirs])
    return found


def from_released(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Released tensors without auxiliary heads -> (backbone's, classifier head's), our names."""
    state = _our_names(state)
    head = {k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")}
    return {k: v for k, v in state.items() if not k.startswith("head.")}, head


def _our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the authors' release, whose every key begins with `model.`, and of Hugging Face's.

    TIME's follows timm's names, as we do, and comes back as it is.
    """
    if all(key.startswith("model.") for key in state):
        return {key.removeprefix("model."): value for key, value in state.items()}
    if any(key.startswith(("timesformer.embeddings.", "embeddings.")) for key in state):
        return {_our_name(key): value for key, value in state.items()}
    return state


def _our_name(key: str) -> str:
    for theirs, ours in HUGGING_FACE.items():
        key = key.replace(theirs, ours)
    return key
