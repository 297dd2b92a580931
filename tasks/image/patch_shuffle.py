"""Patch shuffle: classification of images whose patches are in another order; no loss on the order.

    L_patch_shuffle = CE_smoothed(classify(encode(image[perm_b])), label_b)

The augmentation of `image.patch_order` with `permuted` and nothing else of it: what that loss gains
beyond this is what *telling* the order is worth. Objects fall apart, textures and the set of patches
remain, so the loss rewards to recognise by these.

A share `permuted` of the patches, drawn for each image, is permuted among themselves (uniformly, the
identity included), as there. A second pass beside that of the plain images. Patches shuffled at the
input are a common probe and augmentation (e.g. Naseer et al., "Intriguing Properties of Vision
Transformers", NeurIPS 2021); no published number belongs to this loss. No parameters of its own.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from bench import task
from bench.losses import smoothed_cross_entropy
from bench.metrics import accuracy
from tasks.image._patches import rearranged, shuffled_places

VERSION = 1
NAME = "image.patch_shuffle"


class Config(task.Config):
    weight: task.Weight = 1.0
    smoothing: float = Field(default=0.2, ge=0.0, lt=1.0)  # as of the plain images (`classify`)
    permuted: float = Field(default=1.0, gt=0.0, le=1.0)  # share of the patches


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """Why this loss cannot be had, or None."""
    if spec.media != "image":
        return f"{spec.name} has no images"
    return "one patch has no order" if model.num_patches < 2 else None


class Objective(task.Objective):
    """Cross-entropy of the model's own classifier on images with shuffled patches."""

    config: Config

    def extra_clips(self, step: task.Step, batch: task.Batch) -> Tensor:
        """The batch's images with their patches in another order."""
        rngs = step.rng(NAME, per_sample=True)
        orders_BN = shuffled_places(rngs, self.model.num_patches, share=self.config.permuted)
        return rearranged(batch.clip_BTCHW, orders_BN, patch=self.model.patch)

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BK = step.classify(step.extra_features(self))
        loss = smoothed_cross_entropy(logits_BK, batch.labels_B, smoothing=self.config.smoothing)
        return loss, {"accuracy": accuracy(logits_BK, batch.labels_B)}
