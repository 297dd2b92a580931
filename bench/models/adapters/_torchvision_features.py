"""What torchvision's video models show of a clip on its way to their logits: tokens after the embedding and
after each block, and the feature that they classify.

Read with hooks during the model's own forward, so that logits and features are of one pass. The four
families (ResNets, S3D, MViT, Swin) lay their activations out differently; `bench.models.adapters.tv`
uses them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from einops import rearrange
from torch import Tensor, nn

from bench import task

_Tokens = Callable[[Any], Tensor]


class _Family(NamedTuple):
    """Where a family of models keeps what is asked for."""

    stages: Callable[[Any], list[nn.Module]]  # whose outputs are read, in the order of the forward
    tokens: _Tokens  # such an output -> BTND
    head: str  # module whose input is the class feature
    patch: int  # pixels to a token of the last stage
    tubelet: int = 1  # frames of a token
    pooled: _Tokens = lambda feature: feature.flatten(1)  # that input -> BD


def _channels_first(maps_BCTHW: Tensor) -> Tensor:
    return rearrange(maps_BCTHW, "b c t h w -> b t (h w) c")


def _channels_last(maps_BTHWC: Tensor) -> Tensor:
    return rearrange(maps_BTHWC, "b t h w c -> b t (h w) c")


def _after_class(output: tuple[Tensor, tuple[int, int, int]]) -> Tensor:
    """MViT's blocks say the grid of their tokens; the class token is the first."""
    tokens_BND, (T, H, W) = output
    return rearrange(tokens_BND[:, 1:], "b (t h w) d -> b t (h w) d", t=T, h=H, w=W)


def _embedded(model: Any) -> _Tokens:
    """MViT's embedding does not say its grid."""
    encoding = model.pos_encoding
    grid = (encoding.temporal_size, *encoding.spatial_size)
    return lambda tokens_BND: _after_class((tokens_BND, grid))


_FAMILIES = {
    "VideoResNet": _Family(
        lambda m: [m.stem, m.layer1, m.layer2, m.layer3, m.layer4], _channels_first, "fc", 16
    ),
    "S3D": _Family(
        lambda m: list(m.features),
        _channels_first,
        "classifier",
        32,
        # the classifier is a 1 x 1 convolution, whose outputs are averaged over time
        pooled=lambda maps_BCTHW: maps_BCTHW.mean(dim=(2, 3, 4)),
    ),
    "MViT": _Family(
        lambda m: [m.pos_encoding, *m.blocks], _after_class, "head", 32, tubelet=2
    ),
    "SwinTransformer3d": _Family(
        lambda m: [m.pos_drop, *(b for part in m.features for b in _blocks(part))],
        _channels_last,
        "head",
        32,
        tubelet=2,
    ),
}  # fmt: skip


def _blocks(part: nn.Module) -> list[nn.Module]:
    """Of a stage of Swin; what merges patches between two stages is none."""
    return list(part) if isinstance(part, nn.Sequential) else []


class TorchvisionEncoder(nn.Module):
    """A `bench.task.Backbone` of one of torchvision's video models, whose clips are B C T H W."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._family = _FAMILIES[type(model).__name__]
        self.patch, self.tubelet = self._family.patch, self._family.tubelet
        self.head: nn.Module = getattr(model, self._family.head)
        last = [m for m in self.head.modules() if isinstance(m, nn.Linear | nn.Conv3d)][-1]
        self.dim = last.in_features if isinstance(last, nn.Linear) else last.in_channels

    def forward(self, clip_BTCHW: Tensor) -> task.Features:
        found: task.Features = self._pass(clip_BTCHW)[1]
        return found

    def stages(self, clip_BTCHW: Tensor) -> Generator[Tensor, None, task.Features]:
        """tokens_BTND after the embedding and after each block; width, grid and, of ResNets and S3D,
        time change with depth.
        """
        states, features = self._pass(clip_BTCHW)
        yield from states
        return features

    def _pass(self, clip_BTCHW: Tensor) -> tuple[list[Tensor], task.Features]:
        states: list[Tensor] = []
        kept: dict[str, Tensor] = {}
        watched = self._family.stages(self.model)
        embedding = _embedded(self.model) if hasattr(self.model, "pos_encoding") else None

        def keep_tokens(module: nn.Module, _: Any, output: Any) -> None:
            first = embedding is not None and module is watched[0]
            states.append(embedding(output) if first and embedding else self._family.tokens(output))

        def keep_feature(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            kept["cls"] = self._family.pooled(inputs[0])

        def keep_normed(_: nn.Module, __: Any, output: Tensor) -> None:
            kept["normed"] = output.flatten(1, -2)  # with MViT's class token, which comes first

        hooks = [module.register_forward_hook(keep_tokens) for module in watched]
        hooks.append(self.head.register_forward_pre_hook(keep_feature))
        if hasattr(self.model, "norm"):
            hooks.append(self.model.norm.register_forward_hook(keep_normed))
        try:
            self.model(clip_BTCHW.transpose(1, 2))
        finally:
            for hook in hooks:
                hook.remove()
        B, T, N, D = states[-1].shape
        normed = kept["normed"][:, -T * N :].view(B, T, N, D) if "normed" in kept else states[-1]
        return states, task.Features(kept["cls"], normed)

    def classified(self, feature_BD: Tensor) -> Tensor:
        """logits_BK of the class feature."""
        if self._family.head != "classifier":
            return self.head(feature_BD)
        return self.head(feature_BD[:, :, None, None, None]).flatten(1)


class TorchvisionClassifier(nn.Module):
    """A `bench.task.Model`."""

    def __init__(self, backbone: TorchvisionEncoder) -> None:
        super().__init__()
        self.backbone = backbone

    def encode(self, clip_BTCHW: Tensor, *, positions: bool = True) -> task.Features:
        if not positions:
            raise ValueError("models of torchvision always add their position embeddings")
        return self.backbone(clip_BTCHW)

    def classify(self, features: task.Features) -> Tensor:
        return self.backbone.classified(features.cls_BD)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """logits_BK, by torchvision's own forward."""
        return self.backbone.model(clip_BTCHW.transpose(1, 2))
