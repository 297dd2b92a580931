"""Background erasing (BE): a clip and the same clip behind one of its own frames must look alike.

    clip'_b = (1 - s_b) clip_b + s_b (clip_b[t_b], ..., clip_b[t_b]),     s_b ~ U(0, most)
    L_be = mean_b (1 - cos(h_cls(clip_b), h_cls(clip'_b)))

The static frame changes the background of all frames alike and leaves the differences between
frames, the motion, as they are but for a factor: a feature that does not change has it from these.

Wang et al., "Removing the Background by Adding the Background: Towards Background Robust
Self-supervised Video Representation Learning", CVPR 2021. The paper adds it to self-supervised
pre-training (MoCo's contrast, or a pretext task with a penalty on the distance of the features). Here
it stands beside supervised classification, which keeps the features from collapsing, and is that
distance, the cosine's, of the class feature; the gradient flows through both. `most` is this file's
choice: the paper's text could not be read where this was written.

It asks for *invariance* and for no motion: features of a single frame satisfy it too, if they are
robust. No parameters of its own.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench import task
from tasks.video._shuffling import nothing_to_shuffle
from tasks.video._still import mixed, one_frame

VERSION = 1
NAME = "video.background_erasing"


class Config(task.Config):
    weight: task.Weight = 1.0
    most: float = Field(default=0.5, gt=0.0, le=1.0)  # largest share of the static frame


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """An image behind itself is itself."""
    return nothing_to_shuffle(model, spec)


class Objective(task.Objective):
    """Cosine distance of the class features of a clip and of the clip behind one of its frames."""

    config: Config

    def extra_clips(self, step: task.Step, batch: task.Batch) -> Tensor:
        """The batch's clips, each with one of its own frames in every frame."""
        rngs = step.rng(f"{NAME} share", per_sample=True)
        shares_B = np.array([rng.uniform(0.0, self.config.most) for rng in rngs])
        return mixed(batch.clip_BTCHW, one_frame(step, NAME, batch.clip_BTCHW), shares_B)

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        behind_BD = step.extra_features(self).cls_BD
        similarity = F.cosine_similarity(features.cls_BD.float(), behind_BD.float(), dim=-1).mean()
        return 1.0 - similarity, {"similarity": similarity}
