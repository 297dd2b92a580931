"""Debiasing, L_debias: the classifier must not be confident on frames in random order (TIME).

    L_debias = - mean_b mean_k log softmax(classify(encode(clip[:, perm])))_k

the cross-entropy to the uniform distribution. As released: gradients flow through the whole second
pass, no temperature, no smoothing; *one* permutation per step for the whole batch, and the
identity among the possible ones, so that now and then ordered clips are pushed to low confidence
too (1 step in T!).

Options that undo these accidents: `permutation: sample` draws one for each clip,
`allow_identity: false` excludes the identity. The loss has no parameters of its own.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from bench import task
from bench.data import views
from bench.losses import uniform_cross_entropy
from bench.metrics import confidence
from tasks.video._shuffling import nothing_to_shuffle

VERSION = 2


class Config(task.Config):
    weight: task.Weight = 1.0
    permutation: Literal["batch", "sample"] = "batch"
    allow_identity: bool = True


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """There is nothing to shuffle in an image."""
    return nothing_to_shuffle(model, spec)


class Objective(task.Objective):
    """Cross-entropy to uniform of the model's own classifier on shuffled clips."""

    config: Config

    def orders(self, step: task.Step, frames: int) -> np.ndarray:
        """This step's frame order, (T,), or one for each sample, (B, T)."""
        allow = self.config.allow_identity
        if self.config.permutation == "batch":
            rng = step.rng("video.debias")
            return views.permutation(rng, frames, allow_identity=allow)
        rngs = step.rng("video.debias", per_sample=True)
        return np.stack([views.permutation(r, frames, allow_identity=allow) for r in rngs])

    def extra_clips(self, step: task.Step, batch: task.Batch) -> Tensor:
        """The batch's clips with their frames in this step's order."""
        return views.show(batch.clip_BTCHW, self.orders(step, batch.clip_BTCHW.shape[1]))

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BK = step.classify(step.extra_features(self))
        return uniform_cross_entropy(logits_BK), {
            "confidence": confidence(logits_BK.detach()).mean()
        }
