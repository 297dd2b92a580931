"""Clips with their frames in another order: what the evaluations and losses that show them share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from bench import task
from bench.data import views


def nothing_to_shuffle(model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """Why frames cannot be shuffled: an image has no other order."""
    if spec.media != "video" or model.frames < 2:
        return f"{spec.name} has no frames to shuffle"
    return None


def logits_in(
    context: task.Context, crops: Sequence[task.Batch], orders: np.ndarray
) -> torch.Tensor:
    """(B, K), averaged over the views and crops of clips with their frames in the given orders."""
    shown = (views.show(crop.clip_BTCHW, orders) for crop in crops)
    return context.averaged(torch.stack([context.model(clip).float() for clip in shown]))


def subsets_of(labels_M: np.ndarray, spec: task.DataSpec) -> Iterator[tuple[str, np.ndarray]]:
    """(name, boolean (M,)) of all samples and of each subset of the data."""
    yield "all", np.ones(len(labels_M), dtype=bool)
    for name, classes in spec.subsets.items():
        yield name, np.isin(labels_M, classes)
