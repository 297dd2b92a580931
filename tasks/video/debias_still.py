"""Debiasing on still clips: the classifier must not be confident where nothing moves.

    L_debias_still = - mean_b mean_k log softmax(classify(encode(clip[:, (t_b, ..., t_b)])))_k

the cross-entropy to the uniform distribution, as `video.debias` has it on shuffled frames, with one
frame t_b, drawn for each clip, in all T places. A still clip has the scene and the objects and no
motion: beside `video.debias` it tells whether it is the wrong *order* that the loss works by.

The core of ALBAR (Fioresi et al., "ALBAR: Adversarial Learning approach to mitigate Biases in Action
Recognition", ICLR 2025), which makes the class probabilities of such a clip uniform. Left out of it:
its adversarial cross-entropy (the negative of the classification loss on the still clip) and its
gradient penalty. No temperature, no smoothing, and no parameters of its own.
"""

from __future__ import annotations

from torch import Tensor

from bench import task
from bench.losses import uniform_cross_entropy
from bench.metrics import confidence
from tasks.video._shuffling import nothing_to_shuffle
from tasks.video._still import one_frame

VERSION = 1
NAME = "video.debias_still"


class Config(task.Config):
    weight: task.Weight = 1.0


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """A still clip of one frame is the clip."""
    return nothing_to_shuffle(model, spec)


class Objective(task.Objective):
    """Cross-entropy to uniform of the model's own classifier on still clips."""

    config: Config

    def extra_clips(self, step: task.Step, batch: task.Batch) -> Tensor:
        """The batch's clips with one frame in all places."""
        return one_frame(step, NAME, batch.clip_BTCHW)

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_BK = step.classify(step.extra_features(self))
        return uniform_cross_entropy(logits_BK), {
            "confidence": confidence(logits_BK.detach()).mean()
        }
