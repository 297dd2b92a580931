"""StillMix: classification of clips with a still frame of another clip mixed into every frame.

    clip'_b = (1 - s_b) clip_b + s_b (frame, ..., frame),      s_b ~ Beta(a, a)
    L_stillmix = CE_smoothed(classify(encode(clip'_b)), label_b)

The label is that of the clip: what the still frame shows says nothing of it any more.

Li et al., "Mitigating and Evaluating Static Bias of Action Representations in the Background and the
Foreground", ICCV 2023; released code: a = 200, hence shares close to 1/2. What is here is its variant
with random frames (`StillMixRandomBlending` there). Where it departs:

* The paper's full method takes its frames from a bank of those that a 2D network classifies with
  confidence. Here the frame is a random one of the next clip that is encoded together with this one,
  so `resources.micro_batch` says among which clips; one that is encoded alone gets a frame of itself.
* The release mixes half of a batch's clips and leaves the others. Here all are mixed, in a second pass
  beside that of the plain clips, as all of this suite's losses have it: equal in compute to
  `video.debias`.
* A share for each clip, not one for the batch.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field
from torch import Tensor

from bench import task
from bench.losses import smoothed_cross_entropy
from bench.metrics import accuracy
from tasks.video._shuffling import nothing_to_shuffle
from tasks.video._still import mixed, of_the_neighbour, one_frame

VERSION = 1
NAME = "video.stillmix"


class Config(task.Config):
    weight: task.Weight = 1.0
    smoothing: float = Field(default=0.2, ge=0.0, lt=1.0)  # as of the plain clips (`classify`)
    concentration: float = Field(default=200.0, gt=0.0)  # a of the Beta distribution


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """A still frame in an image is another image."""
    return nothing_to_shuffle(model, spec)


class Objective(task.Objective):
    """Cross-entropy of the model's own classifier on mixed clips."""

    config: Config

    def extra_clips(self, step: task.Step, batch: task.Batch) -> Tensor:
        """The batch's clips, each with a frame of another in every frame."""
        a = self.config.concentration
        rngs = step.rng(f"{NAME} share", per_sample=True)
        shares_B = np.array([rng.beta(a, a) for rng in rngs])
        still_BTCHW = of_the_neighbour(one_frame(step, NAME, batch.clip_BTCHW))
        return mixed(batch.clip_BTCHW, still_BTCHW, shares_B)

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BK = step.classify(step.extra_features(self))
        loss = smoothed_cross_entropy(logits_BK, batch.labels_B, smoothing=self.config.smoothing)
        return loss, {"accuracy": accuracy(logits_BK, batch.labels_B)}
