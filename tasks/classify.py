"""Classification, L_cls: the supervised objective of every run, on videos and images alike.

    L_cls = CE_smoothed(classify(h_cls), label)

As released: label smoothing 0.2. The classifier belongs to the model, so this objective has no
parameters.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from bench import task
from bench.losses import smoothed_cross_entropy
from bench.metrics import accuracy

VERSION = 1


class Config(task.Config):
    weight: task.Weight = 1.0
    smoothing: float = Field(default=0.2, ge=0.0, lt=1.0)


class Objective(task.Objective):
    """Cross-entropy of the model's own classifier."""

    config: Config

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BK = step.classify(features)
        loss = smoothed_cross_entropy(logits_BK, batch.labels_B, smoothing=self.config.smoothing)
        return loss, {"accuracy": accuracy(logits_BK, batch.labels_B)}
