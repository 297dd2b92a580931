"""A model that somebody names, ready to be evaluated: what `bench.evaluate` needs to know of it.

    --model NAME -> `NamedModel` (a `bench.task.Model`, its input, its classes, where it comes from)

A run directory or a released checkpoint becomes one in `bench.evaluate.model`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from bench.config.science import Input


@dataclass(frozen=True)
class NamedModel:
    """A model to evaluate and what is known of its input."""

    model: nn.Module  # as `bench.task.Model`
    media: Literal["video", "image"]
    input: Input
    seed: int
    precision: str
    num_classes: int
    made_by: dict[str, Any]  # what to write down about the model
    mean: tuple[float, float, float]  # of the RGB channels in [0, 1]
    std: tuple[float, float, float]
    class_names: tuple[str, ...] | None = None  # in the order of the logits, where it says them
