"""Patch order, the image domain's L_order: each patch token must tell its place in the image.

    L_order = CE(W z[b, n], place(b, n)), averaged over images and patches

z are the patch tokens after the final norm, W maps D to the N places of the grid. The paper names
this loss (its slides: "order of patches") and reports what it gives; its recipe is not public. What
is fixed here follows its frame order, whose code is: a linear head on the tokens of the step's own
images. What is not, are options, and they measure different things:

* `permuted: 0`, `positions: true`. As released for frames. The position embedding has already put
  the answer into z, so the loss asks only that it *survives* to the last layer; no content is
  needed.
* `permuted: p`. A share p of the patches, drawn for each image, is permuted among themselves at the
  input; each place must tell where the patch it shows came from. The embedding says where a patch
  *is*, so only its content and its neighbours say where it *belongs*: a jigsaw. Doubles the
  encoder's batch.
* `positions: false`. A pass without position embedding (a second one, so it too doubles the cost):
  all that is known of a place is content, as in MP3 (Zhai et al. 2022). Permuting would change
  nothing here, for the encoder is then equivariant to it.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import pydantic
import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from bench import task
from bench.data import views
from bench.losses import smoothed_cross_entropy
from bench.metrics import accuracy

VERSION = 1


class Config(task.Config):
    weight: task.Weight = 1.0
    smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    permuted: float = Field(default=0.0, ge=0.0, le=1.0)  # share of the patches
    positions: bool = True

    @pydantic.model_validator(mode="after")
    def _permuting_matters(self) -> Self:
        if self.permuted and not self.positions:
            raise ValueError(
                "without positions the order of the patches changes nothing: permuted 0"
            )
        return self


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """Why this loss cannot be had, or None."""
    if spec.media != "image":
        return f"{spec.name} has no images"
    if model.num_patches < 2:
        return "one patch has no order"
    if not config.positions and not model.positions_optional:
        return "this backbone cannot leave out its position embedding"
    return None


class Objective(task.Objective):
    """A linear head on each patch token."""

    config: Config

    def __init__(self, config: Config, model: task.ModelSpec) -> None:
        super().__init__(config, model)
        self.head = nn.Linear(model.dim, model.num_patches)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def orders(self, step: task.Step, batch: task.Batch) -> np.ndarray:
        """(B, N): the place that the patch shown at each place came from."""
        B, N = len(batch.clip_BTCHW), self.model.num_patches
        orders_BN = np.tile(np.arange(N), (B, 1))
        if moved := round(self.config.permuted * N):
            for order_N, rng in zip(
                orders_BN, step.rng("image.patch_order", per_sample=True), strict=True
            ):
                places = rng.permutation(N)[:moved]
                order_N[places] = rng.permutation(places)
        return orders_BN

    def extra_clips(self, step: task.Step, batch: task.Batch) -> Tensor | None:
        """With `permuted`, the batch's images with their patches in another order."""
        if not self.config.permuted:
            return None
        return rearranged(batch.clip_BTCHW, self.orders(step, batch), patch=self.model.patch)

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.permuted:
            features = step.extra_features(self)
        elif not self.config.positions:
            features = step.encode(batch.clip_BTCHW, positions=False)
        places_BN = views.indices(self.orders(step, batch), batch.clip_BTCHW.device)
        logits_BNN = self.head(features.tokens_BTND[:, 0])
        loss = smoothed_cross_entropy(logits_BNN, places_BN, smoothing=self.config.smoothing)
        return loss, {"accuracy": accuracy(logits_BNN, places_BN)}


def rearranged(clip_BTCHW: Tensor, orders_BN: np.ndarray, *, patch: int) -> Tensor:
    """The images with, at each place of the grid, the patch of place `orders_BN`."""
    side = clip_BTCHW.shape[-1] // patch
    patches = rearrange(
        clip_BTCHW, "b t c (h p) (w q) -> b (h w) (t c p q)", p=patch, q=patch, h=side
    )
    order_BN = views.indices(orders_BN, clip_BTCHW.device)
    shown = torch.gather(patches, 1, order_BN[:, :, None].expand_as(patches))
    t, c = clip_BTCHW.shape[1:3]
    return rearrange(
        shown, "b (h w) (t c p q) -> b t c (h p) (w q)", h=side, t=t, c=c, p=patch, q=patch
    )
