"""CutMix: classification of images with a box of another image in them, its label mixed by area.

    image'_b = image_b outside a box, image_c inside
    L_cutmix = mean_b (l_b CE_smoothed(p_b, label_b) + (1 - l_b) CE_smoothed(p_b, label_c))

p_b = classify(encode(image'_b)); 1 - l_b is the share of the image that the box covers.

Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
ICCV 2019. As there: l ~ Beta(a, a) with a = 1, a box of sqrt(1 - l) of both sides around a uniformly
drawn centre, cut off at the edges, and l then taken from what is left of it. Where it departs:

* A box for each image, not one for the batch.
* The other image is the next one that is encoded together with this one (epochs are in random order),
  so `resources.micro_batch` says among which; one that is encoded alone is mixed with itself.
* All images are mixed, in a second pass beside that of the plain ones, as all of this suite's losses
  have it; there half of the steps are mixed, and there is one pass.

It is the control for "any strong augmentation does": it mixes foreign backgrounds *and* foreign
objects into an image. No parameters of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bench import task
from bench.losses import smoothed_cross_entropy
from bench.metrics import accuracy

VERSION = 1
NAME = "image.cutmix"


class Config(task.Config):
    weight: task.Weight = 1.0
    smoothing: float = Field(default=0.2, ge=0.0, lt=1.0)  # as of the plain images (`classify`)
    concentration: float = Field(default=1.0, gt=0.0)  # a of the Beta distribution


class MixedBox(NamedTuple):
    """Rows [top, bottom), columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """A box of one image in another."""
    return None if spec.media == "image" else f"{spec.name} has no images"


def draw_box(rng: np.random.Generator, size: int, *, concentration: float) -> MixedBox:
    """The box of one image of `size` x `size` pixels; perhaps empty."""
    half = 0.5 * size * np.sqrt(1.0 - rng.beta(concentration, concentration))
    y, x = rng.uniform(0, size, 2)
    edges = np.clip(np.round([y - half, y + half, x - half, x + half]), 0, size).astype(int)
    return MixedBox(*edges.tolist())


class Objective(task.Objective):
    """Cross-entropy of the model's own classifier on mixed images, to both labels."""

    config: Config

    def boxes(self, step: task.Step) -> list[MixedBox]:
        """One for each image of this micro-batch."""
        rngs = step.rng(NAME, per_sample=True)
        a = self.config.concentration
        return [draw_box(rng, self.model.size, concentration=a) for rng in rngs]

    def extra_clips(self, step: task.Step, batch: task.Batch) -> Tensor:
        """The batch's images, each with a box of the next one."""
        out, other = batch.clip_BTCHW.clone(), batch.clip_BTCHW.roll(-1, dims=0)
        for b, box in enumerate(self.boxes(step)):
            rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
            out[b, ..., rows, columns] = other[b, ..., rows, columns]
        return out

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BK = step.classify(step.extra_features(self))
        areas = torch.tensor([box.area for box in self.boxes(step)], dtype=torch.float32)
        kept_B = (1 - areas / self.model.size**2).to(logits_BK.device, non_blocking=True)
        smoothing, own_B = self.config.smoothing, batch.labels_B
        loss = smoothed_cross_entropy(logits_BK, own_B, smoothing=smoothing, weights=kept_B)
        loss = loss + smoothed_cross_entropy(
            logits_BK, own_B.roll(-1), smoothing=smoothing, weights=1 - kept_B
        )
        return loss, {"accuracy": accuracy(logits_BK, own_B), "kept": kept_B.mean()}
