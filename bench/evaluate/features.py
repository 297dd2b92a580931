"""Frozen features of clips, computed once for all evaluations of a call (`Context.features`).

    samples of a split, an order of their frames -> one pass of the model -> arrays on the CPU

One pass gives, of each clip, a vector for each stage of the backbone (`layer_00` is the embedding,
then the blocks), the mean of its tokens over time and space, and `final`, the class feature. A model
without `stages` has `final` only, one that gives logits and nothing else has `logits`. Means over
time know of order only what the model itself put into its tokens: of a model that looks at each
frame alone and averages, the features of a clip and of the same frames in another order are equal.

What was computed is kept for the life of the context: whoever asks for more samples, or another
order, pays for the rest only. A vector is float32: 24,777 clips (the validation split of
Something-Something-v2) x 14 layers x 768 numbers are 1.07 GB for each order. Half precision would
halve that, but residual streams outgrow its range. Parts of more than LARGE bytes lie in a file
among the evaluation's scratch, if it has one, and are mapped; they go when the rows are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data import views
from bench.task import Batch, Features, NoFeatures, ProbeFeatures, Samples

LARGE = 256 * 2**20  # bytes

Layers = dict[str, Tensor]
"""Layer -> (B, D), float32, on the device."""

Show = Callable[[np.ndarray], Iterator[Batch]]
"""Indices of samples -> their clips, in this order."""


@dataclass
class _View:
    """What is known of a split in one order of frames: the row of each sample, in blocks of rows."""

    blocks: list[dict[str, np.ndarray]] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    def lacks(self, chosen: np.ndarray) -> np.ndarray:
        """Boolean, of each of these samples."""
        return np.array([int(i) not in self.rows for i in chosen], dtype=bool)

    def add(self, chosen: np.ndarray, block: dict[str, np.ndarray]) -> None:
        self.rows |= {int(i): len(self.rows) + k for k, i in enumerate(chosen)}
        self.blocks.append(block)

    def layer(self, chosen: np.ndarray, name: str) -> np.ndarray:
        """(M, D)"""
        rows = np.array([self.rows[int(i)] for i in chosen], dtype=np.int64)
        if len(self.blocks) == 1:
            return self.blocks[0][name][rows]
        return np.concatenate([block[name] for block in self.blocks])[rows]


class FeatureStore:
    """The features of one model over one data set, each computed once."""

    def __init__(self) -> None:
        self.passes = 0  # of the model over a clip, so far
        self._views: dict[tuple[str, str], _View] = {}

    def get(
        self, model: Any, work: Work, views_wanted: Sequence[str], chosen: np.ndarray
    ) -> dict[str, ProbeFeatures]:
        """The features of these samples in these orders; what is not known yet is computed, all
        orders of a clip from one loading of it. ValueError: the split gave other samples.
        """
        kept = {view: self._views.setdefault((work.split, view), _View()) for view in views_wanted}
        lacking = {view: part.lacks(chosen) for view, part in kept.items()}
        patterns = np.stack(list(lacking.values()), axis=1) if len(chosen) else np.empty((0, 1))
        for pattern in np.unique(patterns, axis=0):
            todo = [view for view, lacks in zip(lacking, pattern, strict=True) if lacks]
            if todo:
                members = chosen[(patterns == pattern).all(axis=1)]
                _compute(model, work, {view: kept[view] for view in todo}, members)
                self.passes += len(todo) * len(members)
        samples = work.samples
        keys = [samples.keys[int(i)] for i in chosen]
        return {
            view: ProbeFeatures(
                layers=tuple(part.blocks[0]) if part.blocks else (),
                keys=tuple(keys),
                labels_M=np.asarray(samples.labels)[chosen],
                seen_M=np.array([int(i) not in part.failed for i in chosen], dtype=bool),
                layer=partial(part.layer, chosen),
            )
            for view, part in kept.items()
        }


@dataclass(frozen=True)
class Work:
    """A split, and how its clips are shown."""

    split: str
    samples: Samples
    show: Show
    seed: int
    scratch: Path | None  # folder for large blocks
    progress: Callable[[int, int], None]


def _compute(model: Any, work: Work, parts: Mapping[str, _View], chosen: np.ndarray) -> None:
    """One loading of these samples, one pass of the model for each of the orders."""
    blocks: dict[str, dict[str, np.ndarray]] = {view: {} for view in parts}
    failed: set[int] = set()
    done = 0
    for batch in work.show(chosen):
        members = chosen[done : done + len(batch.keys)]
        if [work.samples.keys[int(i)] for i in members] != list(batch.keys):
            raise ValueError(
                f"split {work.split} gave other samples than asked for: check the data"
            )
        failed |= {
            int(i) for i, key in zip(members, batch.keys, strict=True) if key in batch.failed
        }
        frames = batch.clip_BTCHW.shape[1]
        for view, block in blocks.items():
            orders = views.named(view, frames, seed=work.seed, keys=batch.keys)
            clip_BTCHW = batch.clip_BTCHW
            if view != "original":
                clip_BTCHW = views.show(clip_BTCHW, orders)
            found = _on_cpu(read(model, clip_BTCHW))
            if not block:
                name = f"{work.split}-{view}-{len(parts[view].blocks)}"
                block.update(_empty(found, len(chosen), work.scratch, name))
            for layer, values_BD in found.items():
                block[layer][done : done + len(values_BD)] = values_BD
        done += len(batch.keys)
        work.progress(done, len(chosen))
    if done != len(chosen):
        raise ValueError(f"split {work.split} gave {done} of {len(chosen)} samples: check the data")
    for view, part in parts.items():
        part.add(chosen, blocks[view])
        part.failed |= failed


def _empty(
    found: Mapping[str, np.ndarray], length: int, folder: Path | None, name: str
) -> dict[str, np.ndarray]:
    """Layer -> (length, D), in memory or, if large, in files of `folder`."""
    widths = {layer: values_BD.shape[1] for layer, values_BD in found.items()}
    if folder is None or 4 * length * sum(widths.values()) <= LARGE:
        return {layer: np.empty((length, D), np.float32) for layer, D in widths.items()}
    folder.mkdir(parents=True, exist_ok=True)
    return {
        layer: np.lib.format.open_memmap(
            folder / f"{name}-{layer}.npy", mode="w+", dtype=np.float32, shape=(length, D)
        )
        for layer, D in widths.items()
    }


def read(model: Any, clip_BTCHW: Tensor) -> Layers:
    """What one pass over normalised clips shows of them: see the module."""
    layers: Layers = {}
    features: Features | None = None
    through = _through(model, clip_BTCHW)
    if through is not None:
        while True:
            try:
                tokens_BTND = next(through)
            except StopIteration as end:
                features = end.value
                break
            except NoFeatures:  # a generator says so at its first step
                break
            pooled_BD = tokens_BTND.mean(dim=(1, 2), dtype=torch.float32)
            layers[f"layer_{len(layers):02d}"] = pooled_BD
    if features is None:
        features = _encoded(model, clip_BTCHW)
    if features is not None:
        layers["final"] = features.cls_BD.float()
    return layers or {"logits": model(clip_BTCHW).float()}


def _through(model: Any, clip_BTCHW: Tensor) -> Iterator[Tensor] | None:
    """Its stages, None of a model that has none to give."""
    stages = getattr(getattr(model, "backbone", None), "stages", None)
    try:
        return None if stages is None else iter(stages(clip_BTCHW))
    except (NotImplementedError, NoFeatures):
        return None


def _encoded(model: Any, clip_BTCHW: Tensor) -> Features | None:
    """None of a model that has no features to give."""
    if not hasattr(model, "encode"):
        return None
    try:
        return model.encode(clip_BTCHW)
    except (NotImplementedError, NoFeatures):
        return None  # it only classifies; any other error is one


def _on_cpu(layers: Layers) -> dict[str, np.ndarray]:
    """In one copy: a GPU is waited for once a batch, not once a layer."""
    widths = [values_BD.shape[1] for values_BD in layers.values()]
    all_BD = torch.cat(list(layers.values()), dim=1).cpu().numpy()
    parts = np.split(all_BD, np.cumsum(widths)[:-1], axis=1)
    return dict(zip(layers, parts, strict=True))
