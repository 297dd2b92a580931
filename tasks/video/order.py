"""Frame order, L_order: each frame's tokens must tell its position (TIME's frame-level task).

    L_order = CE_smoothed(W mean_n z[b, t, n], t), averaged over clips and frames

z are the patch tokens after the final norm, W maps D to T. As released: smoothing 0.2 like the
classifier's, and the frames are shown *in order*, although their time embeddings already carry the
answer into z.

`shuffle: true` closes that shortcut: each clip is encoded again with its frames permuted, and each
position must tell the original index of the frame it shows. It doubles the encoder's batch.
Permutations are drawn per sample and are uniform, the identity included, so that the position alone
says nothing about the index.

With tubelets, T counts them, and `shuffle` is not defined: a shuffled pair of frames has no index.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from bench import task
from bench.data import views
from bench.losses import smoothed_cross_entropy
from bench.metrics import accuracy, shares

VERSION = 2
RELEASED = {"temp_head.": "head."}  # how its head is called in released checkpoints


class Config(task.Config):
    weight: task.Weight = 1.0
    smoothing: float = Field(default=0.2, ge=0.0, lt=1.0)
    shuffle: bool = False


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """Frame order needs frames."""
    if spec.media != "video" or model.frames < 2:
        return f"{spec.name} has no frame order"
    if model.tubelet > 1 and config.shuffle:
        return f"shuffled frames have no order within tubelets of {model.tubelet}"
    return None


class Objective(task.Objective):
    """Linear head on frame-averaged tokens; `head` is `temp_head` of the released checkpoints."""

    config: Config

    def __init__(self, config: Config, model: task.ModelSpec) -> None:
        super().__init__(config, model)
        self.head = nn.Linear(model.dim, model.frames // model.tubelet)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def logits(self, features: task.Features) -> Tensor:
        """(B, T, T): for each shown frame, over original indices."""
        return self.head(features.tokens_BTND.mean(dim=2))

    def orders(self, step: task.Step, batch: task.Batch) -> np.ndarray:
        """(B, T): the original index of the frame at each position that is shown."""
        B, T = len(batch.clip_BTCHW), self.head.out_features
        if not self.config.shuffle:
            return np.tile(views.original(T), (B, 1))
        rngs = step.rng("video.order", per_sample=True)
        return np.stack([views.permutation(r, T, allow_identity=True) for r in rngs])

    def extra_clips(self, step: task.Step, batch: task.Batch) -> Tensor | None:
        """With `shuffle`, the batch's clips with their frames permuted."""
        if not self.config.shuffle:
            return None
        return views.show(batch.clip_BTCHW, self.orders(step, batch))

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.shuffle:
            features = step.extra_features(self)
        targets_BT = views.indices(self.orders(step, batch), batch.clip_BTCHW.device)
        logits_BTT = self.logits(features)
        loss = smoothed_cross_entropy(logits_BTT, targets_BT, smoothing=self.config.smoothing)
        return loss, {
            "accuracy": accuracy(logits_BTT, targets_BT),
            "shares": shares(targets_BT, logits_BTT.shape[-1]),
        }
