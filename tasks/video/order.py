"""Frame order, L_order: each frame's tokens must tell its position (TIME's frame-level task).

    L_order = CE_smoothed(W mean_n z[b, t, n], t), averaged over clips and frames

z are the patch tokens after the final norm, W maps D to T. As released: smoothing 0.2 like the
classifier's, and the frames are shown *in order*, although their time embeddings already carry the
answer into z.

`shuffle: true` closes that shortcut: each clip is encoded again with its frames permuted, and each
position must tell the original index of the frame it shows. It costs a second forward pass.
Permutations are drawn per sample and are uniform, the identity included, so that the position alone
says nothing about the index.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from bench import task
from bench.data import views
from bench.losses import smoothed_cross_entropy
from bench.metrics import accuracy

VERSION = 1


class Config(task.Config):
    weight: float = 1.0
    smoothing: float = Field(default=0.2, ge=0.0, lt=1.0)
    shuffle: bool = False


def skip(config: Config, model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """Frame order needs frames."""
    if spec.media != "video" or model.frames < 2:
        return f"{spec.name} has no frame order"
    return None


class Objective(task.Objective):
    """Linear head on frame-averaged tokens; `head` is `temp_head` of the released checkpoints."""

    config: Config

    def __init__(self, config: Config, model: task.ModelSpec) -> None:
        super().__init__(config, model)
        self.head = nn.Linear(model.dim, model.frames)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def logits(self, features: task.Features) -> Tensor:
        """(B, T, T): for each shown frame, over original indices."""
        return self.head(features.tokens_BTND.mean(dim=2))

    def forward(
        self, step: task.Step, batch: task.Batch, features: task.Features
    ) -> tuple[Tensor, dict[str, Tensor]]:
        B, T = batch.clip_BTCHW.shape[:2]
        orders_BT = np.broadcast_to(views.original(T), (B, T)).copy()
        if self.config.shuffle:
            rngs = step.rng("video.order", per_sample=True)
            orders_BT = np.stack([views.permutation(r, T, allow_identity=True) for r in rngs])
            features = step.encode(views.show(batch.clip_BTCHW, orders_BT))
        targets_BT = torch.as_tensor(orders_BT, device=batch.clip_BTCHW.device)
        logits_BTT = self.logits(features)
        loss = smoothed_cross_entropy(logits_BTT, targets_BT, smoothing=self.config.smoothing)
        return loss, {"accuracy": accuracy(logits_BTT, targets_BT)}
