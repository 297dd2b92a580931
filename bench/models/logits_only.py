"""A model of others of which nothing but its logits is known, for evaluations that need no more.

Used by `bench/models/adapters/*.py`; what an evaluation asks for beyond logits is refused with the
reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from bench import task


class LogitsOnly(nn.Module):
    """A `bench.task.Model` and its backbone in one, without features. Subclasses may have some."""

    def __init__(self, model: nn.Module, why: str) -> None:
        super().__init__()
        self.model: Any = model
        self.why = why

    @property
    def backbone(self) -> Any:
        return self

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """logits_BK of normalised clips."""
        return self.model(clip_BTCHW)

    def encode(self, clip_BTCHW: Tensor, *, positions: bool = True) -> task.Features:
        raise task.NoFeatures(self._refusal)

    def classify(self, features: task.Features) -> Tensor:
        raise task.NoFeatures(self._refusal)

    def stages(self, clip_BTCHW: Tensor) -> Iterator[Tensor]:
        raise task.NoFeatures(self._refusal)

    @property
    def _refusal(self) -> str:
        return (
            f"this evaluation needs features of the model, layer by layer, and {self.why}; evaluations "
            "that need logits only (video.shuffle_gap, image.background_shift, ...) take it"
        )
