"""Frames of clips that are shown in a random order: what the probes of order by content share.

    clips of a split -> frames (or tubelets) permuted, by seed and key -> tokens_BTND of each layer

The permutation is uniform, the identity included: where a frame is shown then says nothing of when it
was filmed, and neither does anything that a model adds to its place. What order is found is content's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import task
from bench.data import views


@dataclass(frozen=True)
class Shuffled:
    """A batch of clips with their places permuted; a place is a frame, or the frames of a tubelet."""

    clip_BTCHW: Tensor  # as shown
    labels_B: np.ndarray  # class ids
    keys: tuple[str, ...]
    orders_BT: np.ndarray  # the original place of what is shown at each place

    def stages(self, model: task.Model) -> Iterator[tuple[str, Tensor]]:
        """(layer_<ii>, tokens_BTND), one after another. ValueError of a model that pools time."""
        for i, tokens_BTND in enumerate(model.backbone.stages(self.clip_BTCHW)):
            refuse_pooled_time(i, tokens_BTND.shape[1], self.orders_BT.shape[1])
            yield f"layer_{i:02d}", tokens_BTND


def no_places(model: task.ModelSpec, spec: task.DataSpec) -> str | None:
    """Why there is no order of frames or tubelets to ask for, or None."""
    if spec.media != "video" or model.frames < 2:
        return f"{spec.name} has no frame order"
    if model.frames // model.tubelet < 2:
        return f"tokens of {model.tubelet} frames: {model.frames} frames have no order to show"
    return None


def refuse_pooled_time(layer: int, times: int, places: int) -> None:
    """Raises ValueError for a layer that has no token of each frame, as in 3D ResNets."""
    if times != places:
        raise ValueError(
            f"layer {layer} of this model has {times} tokens in time where the clip has "
            f"{places} frames or tubelets: it pools time, and which frame was where cannot be asked of "
            "its tokens (video.arrow_of_time asks its layers for the order of the whole clip)"
        )


def shuffled(
    context: task.Context, split: str, chosen: np.ndarray, name: str
) -> Iterator[Shuffled]:
    """These samples of a split (indices), in batches; `name` is whose random numbers they are. What
    cannot be decoded has no order and is left out.
    """
    tubelet, done = context.model_spec.tubelet, 0
    for batch in context.batches(split, chosen=chosen):
        done += len(batch.keys)
        context.progress(done, len(chosen), split)
        seen = np.array([key not in batch.failed for key in batch.keys], dtype=bool)
        if not seen.any():
            continue
        clip_BTCHW = batch.clip_BTCHW[views.indices(np.flatnonzero(seen), batch.clip_BTCHW.device)]
        keys = tuple(key for key in batch.keys if key not in batch.failed)
        orders_BT = drawn_orders(keys, clip_BTCHW.shape[1] // tubelet, seed=context.seed, name=name)
        yield Shuffled(
            views.show(clip_BTCHW, views.in_blocks(orders_BT, tubelet)),
            batch.labels_B.cpu().numpy()[seen],
            keys,
            orders_BT,
        )
    if done != len(chosen):
        raise ValueError(f"split {split} gave {done} of {len(chosen)} samples: check the data")


def drawn_orders(keys: tuple[str, ...], places: int, *, seed: int, name: str) -> np.ndarray:
    """A uniform permutation for each key, (B, T)."""
    rngs = [views.generator(seed, f"{name} {key}") for key in keys]
    return np.stack([views.permutation(rng, places, allow_identity=True) for rng in rngs])


@contextmanager
def without_time(backbone: Any) -> Iterator[None]:
    """Meanwhile the backbone adds no time embedding, if it has one (`bench.task.Backbone`)."""
    embedding: Tensor | None = getattr(backbone, "time_embed", None)
    if embedding is None:
        yield
        return
    kept = embedding.detach().clone()
    with torch.no_grad():
        embedding.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            embedding.copy_(kept)
