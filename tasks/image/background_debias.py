"""Background debias, the image domain's L_debias: no confidence where there is only background.

    L_debias = - mean_b mean_k log softmax(classify(encode(background(x_b))))_k

the cross-entropy to the uniform distribution, as the video loss has it on shuffled frames. The paper
names it (its slides: "debiasing with image backgrounds"); how it makes the background-only image is
not public. Three ways, by `background`:

* `paired`: a file of the training set's background-only version, by stem: `layer` says of which
  (`only_bg_t`, the released one whose hole is filled by tiling, hence no silhouette; the default).
* `tile`: the same, made here from the image and its mask (`bench.data.imagenet9.tile_background`).
* `mask`: the foreground's pixels blacked, as `no_fg`. The silhouette remains, and with it what the
  object is: the loss then also forbids to use shape.

The background is cropped, flipped and augmented exactly as its image. It goes through the encoder in
the same batch, which it doubles. The loss has no parameters of its own.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from bench import task
from bench.data import imagenet9
from bench.data.transforms import normalise
from bench.losses import uniform_cross_entropy
from bench.metrics import confidence

VERSION = 1
NAME = "image.background_debias"


class Config(task.Config):
    weight: task.Weight = 1.0
    background: Literal["paired", "tile", "mask"] = "paired"
    layer: str = "only_bg_t"  # of `paired`

    @property
    def needs(self) -> str:
        """The layer that the training images must have."""
        return self.layer if self.background == "paired" else imagenet9.FG_MASK


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """Backgrounds must be known."""
    if spec.media != "image":
        return f"{spec.name} has no images"
    layers = spec.layers.get(spec.splits[0], ())
    if config.needs not in layers:
        has = ", ".join(layers) or "no layers"
        return f"the training images of {spec.name} have no {config.needs!r} (they have {has})"
    return None


def companion(config: Config, picture: task.Picture, rng: np.random.Generator) -> np.ndarray:
    """uint8 H W 3: the background of a training image. Runs on the loader's workers."""
    layer = picture.layer(config.needs)
    if config.background == "paired":
        return layer
    if config.background == "tile":
        return imagenet9.tile_background(picture.image_HWC, layer)
    return imagenet9.black_foreground(picture.image_HWC, layer)


class Objective(task.Objective):
    """Cross-entropy to uniform of the model's own classifier on backgrounds."""

    config: Config

    def extra_clips(self, step: task.Step, batch: task.Batch) -> Tensor:
        """The backgrounds of the batch's images."""
        return normalise(batch.extras[NAME], self.model.mean, self.model.std)

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BK = step.classify(step.extra_features(self))
        return uniform_cross_entropy(logits_BK), {
            "confidence": confidence(logits_BK.detach()).mean()
        }
