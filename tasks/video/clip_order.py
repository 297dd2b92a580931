"""Clip order: is this clip in order, or are its frames shuffled?

    L_clip_order = 1/2 (CE(W h_cls(clip), 1) + CE(W h_cls(clip[:, perm_b]), 0)),     W: D -> 2

one permutation for each clip, never the identity. Order is asked of the clip as a whole, of the
feature that the classifier reads, where `video.order` asks each frame's tokens: the time embedding
alone does not answer it, for it is the same in both passes.

Misra et al., "Shuffle and Learn: Unsupervised Learning using Temporal Order Verification", ECCV 2016.
There: self-supervised pre-training, tuples of three frames from the parts of a video with much motion,
features of each frame joined, one shuffled tuple for several in order. Here: beside classification, all
T frames, one class feature, as many clips in order as shuffled. A clip that looks the same in
any order is asked, too. Without label smoothing, as there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from bench import task
from bench.data import views
from bench.losses import smoothed_cross_entropy
from bench.metrics import accuracy, shares
from tasks.video._shuffling import nothing_to_shuffle

VERSION = 1
NAME = "video.clip_order"


class Config(task.Config):
    weight: task.Weight = 1.0


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """There is nothing to shuffle in an image."""
    return nothing_to_shuffle(model, spec)


class Objective(task.Objective):
    """A linear head on the class feature: class 1 is a clip in order."""

    config: Config

    def __init__(self, config: Config, model: task.ModelSpec) -> None:
        super().__init__(config, model)
        self.head = nn.Linear(model.dim, 2)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def orders(self, step: task.Step, frames: int) -> np.ndarray:
        """(B, T): a frame order for each clip, never the identity."""
        rngs = step.rng(NAME, per_sample=True)
        return np.stack([views.permutation(r, frames, allow_identity=False) for r in rngs])

    def extra_clips(self, step: task.Step, batch: task.Batch) -> Tensor:
        """The batch's clips with their frames shuffled."""
        return views.show(batch.clip_BTCHW, self.orders(step, batch.clip_BTCHW.shape[1]))

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ordered_BD, shuffled_BD = features.cls_BD, step.extra_features(self).cls_BD
        logits_M2 = self.head(torch.cat([ordered_BD, shuffled_BD]))
        labels_M = (torch.arange(len(logits_M2), device=logits_M2.device) < len(ordered_BD)).long()
        loss = smoothed_cross_entropy(logits_M2, labels_M)
        halves = {"accuracy": accuracy(logits_M2, labels_M), "shares": shares(labels_M, 2)}
        return loss, halves
