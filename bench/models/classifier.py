"""The model of a run: a backbone and a linear classifier on its class feature.

The engine builds it, objectives reach it through `task.Step.encode` and `.classify`, evaluations
through `context.model`. Auxiliary heads are not here: each belongs to its objective.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bench import task


class Classifier(nn.Module):
    """`head(dropout(cls))`, initialised as in the release: truncated normal 0.02, bias zero."""

    def __init__(self, backbone: task.Backbone, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def encode(self, clip_BTCHW: Tensor, *, positions: bool = True) -> task.Features:
        """Without `positions`: only backbones that say `POSITIONS_OPTIONAL`."""
        backbone: Any = self.backbone
        return backbone(clip_BTCHW) if positions else backbone(clip_BTCHW, positions=False)

    def classify(self, features: task.Features) -> Tensor:
        """logits_BK"""
        return self.head(self.dropout(features.cls_BD))

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """logits_BK of normalised clips."""
        return self.classify(self.encode(clip_BTCHW))
