"""Patch order, the image domain's L_order: each patch token must tell its place in the image.

    L_order = CE_smoothed(W z[b, n], place(b, n)), averaged over images and patches

z are the patch tokens after the final norm, W maps D to the N places of the grid. The paper names
this loss (its slides: "order of patches") and reports what it gives; its recipe is not public. What
is fixed here follows its frame order, whose code is: a linear head on the tokens of the step's own
images, and label smoothing 0.2, as every cross-entropy of the release has (`smoothing`). What is not,
are options, and they measure different things:

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

`patches: object` asks it of the object's patches only: each patch counts by the share of its pixels
that are the object's, and an image by the mean over these,

    L_order = mean_b (sum_n m[b, n] CE(W z[b, n], place(b, n)) / sum_n m[b, n])

m is that share of the patch that is *shown*; an image without an object adds nothing. It needs the
masks of the training images (layer `fg_mask`). Asked of all patches, as by default, most of the loss
is about the background.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pydantic
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench import task
from bench.data import views
from bench.data.imagenet9 import FG_MASK
from bench.losses import smoothed_cross_entropy
from bench.metrics import accuracy, shares
from tasks.image._patches import rearranged, shuffled_places

VERSION = 2  # 2: smoothing 0.2, not 0
NAME = "image.patch_order"
RED, GREEN = np.array([255, 0, 0], np.uint8), np.array([0, 255, 0], np.uint8)
HALF = 128  # of a channel


class Config(task.Config):
    weight: task.Weight = 1.0
    smoothing: float = Field(default=0.2, ge=0.0, lt=1.0)
    permuted: float = Field(default=0.0, ge=0.0, le=1.0)  # share of the patches
    positions: bool = True
    patches: Literal["all", "object"] = "all"  # of which the order is asked

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
    if config.patches == "object" and FG_MASK not in spec.layers.get(spec.splits[0], ()):
        return f"the training images of {spec.name} have no {FG_MASK!r}"
    return None


def companion(config: Config, picture: task.Picture, rng: np.random.Generator) -> np.ndarray | None:
    """uint8 H W 3: with `patches: object`, the object red on green. Runs on the loader's workers.

    Augmented like its image; two colours, because a mask that RandAugment inverts, solarises or
    darkens must not pass for another one: `object_shares` takes for the object what is still red.
    """
    if config.patches == "all":
        return None
    object_HW1 = picture.layer(FG_MASK)[..., None] != 0
    return np.where(object_HW1, RED, GREEN)


def object_shares(marked_BTHWC: Tensor, *, patch: int) -> Tensor:
    """(B, N): of the pixels of each patch, those of the object, from the images of `companion`."""
    red, green, blue = (channel >= HALF for channel in marked_BTHWC[:, 0].unbind(-1))
    object_BHW = (red & ~green & ~blue).float()
    return F.avg_pool2d(object_BHW[:, None], patch).flatten(1)


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
        N = self.model.num_patches
        if not self.config.permuted:
            return np.tile(np.arange(N), (len(batch.clip_BTCHW), 1))
        rngs = step.rng(NAME, per_sample=True)
        return shuffled_places(rngs, N, share=self.config.permuted)

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
        if self.config.patches == "object":
            return self._of_the_object(logits_BNN, places_BN, batch.extras[NAME])
        loss = smoothed_cross_entropy(logits_BNN, places_BN, smoothing=self.config.smoothing)
        return loss, {
            "accuracy": accuracy(logits_BNN, places_BN),
            "shares": shares(places_BN, logits_BNN.shape[-1]),
        }

    def _of_the_object(
        self, logits_BNN: Tensor, places_BN: Tensor, marked_BTHWC: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on the object's patches, and the share of these that are placed right."""
        shares_BN = object_shares(marked_BTHWC, patch=self.model.patch).gather(1, places_BN)
        total_B1 = shares_BN.sum(1, keepdim=True)
        weights_BN = shares_BN.shape[1] * shares_BN / total_B1.clamp(min=1e-6)
        loss = smoothed_cross_entropy(
            logits_BNN, places_BN, smoothing=self.config.smoothing, weights=weights_BN
        )
        right_BN = (logits_BNN.detach().argmax(-1) == places_BN).float()
        accuracy_of_object = (weights_BN * right_BN).sum() / weights_BN.sum().clamp(min=1e-6)
        return loss, {
            "accuracy": accuracy_of_object,
            "object": shares_BN.mean(),
            "shares": shares(places_BN, logits_BNN.shape[-1]),
        }
