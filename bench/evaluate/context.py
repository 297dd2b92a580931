"""What an evaluation gets (`bench.task.Context`): the model, the data, and places to leave progress, predictions
and pictures; and the running of evaluations in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bench import find
from bench.config.resources import Resources
from bench.config.science import Input, RunConfig
from bench.data import loader
from bench.data.access import open_split
from bench.data.transforms import centre_crop, normalise, normalise_exactly
from bench.evaluate.features import FeatureStore, Work
from bench.metrics import confidence as confidence_of
from bench.metrics import top_k
from bench.task import Batch, DataSpec, Images, ModelSpec, ProbeFeatures, Row, Samples
from bench.train.step import autocast, to_device
from bench.train.world import ALONE

log = logging.getLogger("bench")

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std of the RGB channels in [0, 1]."""

EVALUATION_SEED = 0
"""Of all that evaluations draw (permutations, clips of a probe): the same for every model and every seed of a
training, so that seeds differ in what was trained and never in what they were asked.
"""

LARGEST = torch.finfo(torch.float16).max

MAX_FAILED = 0.05
"""Share of a split whose samples may be undecodable, and so wrong."""


@dataclass
class EvaluationContext:
    """What an evaluation gets: the model, the data, and places to leave progress and predictions."""

    model: nn.Module  # in eval mode, on the device
    spec: DataSpec
    model_spec: ModelSpec
    input: Input
    device: torch.device
    seed: int
    precision: str
    batch: int
    workers: int
    open_split: Callable[[str], Samples]
    splits: tuple[str, ...]
    report: Callable[[dict[str, Any]], None]
    scratch_folder: Path | None = None
    # shows images as they are stored, normalised so, instead of as the model was trained
    as_stored: Normalisation | None = None
    evaluation: str = ""
    predictions: list[pd.DataFrame] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)  # "<evaluation>/<name>"
    # split -> key -> why it could not be decoded
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    store: FeatureStore = field(default_factory=FeatureStore, init=False, repr=False)

    @property
    def scratch(self) -> Path | None:
        """Where the running evaluation may keep its state until its rows are written."""
        return self.scratch_folder and self.scratch_folder / self.evaluation

    def samples(self, split: str) -> Samples:
        return self.open_split(split)

    def images(self, split: str) -> Iterator[Images]:
        """Every image exactly once, in stored order and as stored, on the device."""
        pin = self.device.type == "cuda"
        for batch in loader.evaluation_images(
            self.open_split(split), batch=self.batch, workers=self.workers, pin=pin
        ):
            images_BHWC, labels_B = (
                x.to(self.device, non_blocking=True) for x in (batch.images_BHWC, batch.labels_B)
            )
            yield Images(images_BHWC, labels_B, batch.keys)

    def to_clip(self, images_BHWC: Tensor) -> Tensor:
        """uint8 images on the device -> clip_BTCHW (T = 1) as the model wants it, or `as_stored`."""
        if self.as_stored:
            return normalise_exactly(images_BHWC[:, None], *self.as_stored)
        return normalise(
            centre_crop(images_BHWC, self.input)[:, None], self.spec.mean, self.spec.std
        )

    def whole_images(self, split: str) -> Iterator[Batch]:
        """Every image exactly once, in stored order, whole, as the model wants it."""
        waiting: list[Batch] = []
        for images in self.images(split):
            clip_BTCHW = self.to_clip(images.images_BHWC)
            full = sum(len(batch.keys) for batch in waiting) + len(images.keys) > self.batch
            if waiting and (full or waiting[0].clip_BTCHW.shape[1:] != clip_BTCHW.shape[1:]):
                yield _joined(waiting)
                waiting = []
            waiting.append(Batch(clip_BTCHW, images.labels_B, images.keys))
        if waiting:
            yield _joined(waiting)

    def keep_picture(self, name: str, image_HWC: np.ndarray) -> None:
        self.pictures[f"{self.evaluation}/{name}"] = image_HWC

    def count(self, split: str) -> int:
        """How many samples the split declares; an evaluation that saw another number must fail."""
        return len(self.open_split(split))

    def batches(self, split: str, *, chosen: np.ndarray | None = None) -> Iterator[Batch]:
        """Every key exactly once, in stored order, or those chosen: the centre crop of each clip."""
        everything = np.arange(self.count(split))
        yield from self._chosen_batches(split, everything if chosen is None else chosen)

    def _chosen_batches(self, split: str, chosen: np.ndarray) -> Iterator[Batch]:
        """The centre crop of these samples, in this order."""
        clips = loader.Clips(self.open_split(split), self.input, resized=self._resized)
        pin = self.device.type == "cuda"
        for raw in loader.chosen_batches(
            clips, chosen.tolist(), batch=self.batch, workers=self.workers, pin=pin
        ):
            self._note_failed(split, raw.failed)
            yield to_device(raw, self.device, self.spec)

    @property
    def training_split(self) -> str | None:
        """The first split of the data, unless it is evaluated or is not there."""
        first = self.spec.splits[0]
        if first in self.splits:
            return None
        try:
            self.open_split(first)
        except (ValueError, OSError, KeyError):
            return None
        return first

    def features(
        self,
        split: str,
        views: Sequence[str] = ("original",),
        *,
        chosen: np.ndarray | None = None,
    ) -> dict[str, ProbeFeatures]:
        """Of these samples, or all of the split, in each of these orders: see bench.evaluate.features."""
        work = Work(
            split=split,
            samples=self.open_split(split),
            show=partial(self._chosen_batches, split),
            seed=self.seed,
            scratch=self.scratch_folder and self.scratch_folder / "features",
            progress=lambda done, total: self.progress(done, total, f"{split}: features"),
        )
        if chosen is None:
            chosen = np.arange(self.count(split))
        return self.store.get(self.model, work, views, chosen)

    @property
    def _resized(self) -> bool:
        """Whether loader workers resize crops: a GPU does the same in next to no time."""
        return self.device.type == "cpu"

    @property
    def clips_per_sample(self) -> int:
        return self.input.eval_clips

    def averaged(self, logits_CBK: Tensor) -> Tensor:
        """Of the clips of each sample -> (B, K)."""
        if self.input.average == "probabilities":
            return logits_CBK.float().softmax(-1).mean(dim=0).log()
        return logits_CBK.float().sum(dim=0) / len(logits_CBK)

    def _note_failed(self, split: str, failed: Mapping[str, str]) -> None:
        """Raises ValueError when so many samples fail that the data as a whole must be wrong."""
        noted = self.failed.setdefault(split, {})
        for key, reason in failed.items():
            if key not in noted:
                log.warning("counts as wrong: %s", reason)
                noted[key] = reason
        if len(noted) > max(1, MAX_FAILED * self.count(split)):
            raise ValueError(
                f"{len(noted)} of {self.count(split)} samples of split {split} cannot be decoded, more "
                f"than {MAX_FAILED:.0%}: the data are damaged (of shards python -m bench.prepare ... "
                f"--check says where). First: {next(iter(noted.values()))}"
            )

    def crops(self, split: str) -> Iterator[tuple[Batch, ...]]:
        """Every key exactly once, in stored order: its views and crops, one batch for each."""
        clips = loader.Crops(self.open_split(split), self.input, resized=self._resized)
        pin = self.device.type == "cuda"
        for raws in loader.evaluation_crops(clips, batch=self.batch, workers=self.workers, pin=pin):
            self._note_failed(split, raws[0].failed)
            yield tuple(to_device(raw, self.device, self.spec) for raw in raws)

    def progress(self, done: int, total: int, text: str = "") -> None:
        phase = f"{self.evaluation} {text}".strip()
        self.report({"phase": phase, "done": done, "total": total})

    def record(
        self, split: str, view: str, keys: Sequence[str], labels: Tensor, logits: Tensor
    ) -> None:
        """Keep what was predicted for each sample, so that a new metric needs no new GPU hours: the first
        classes by the rule of the accuracies (`metrics.top_k`), and all logits in half precision (those
        beyond its range: its ends).
        """
        logits = logits.float().cpu()
        top, confidence = top_k(logits, 5), confidence_of(logits)
        failed = self.failed.get(split, {})
        undecoded_B = torch.tensor([key in failed for key in keys])
        top[undecoded_B], confidence[undecoded_B] = -1, 0.0  # nothing was predicted
        self.predictions.append(
            pd.DataFrame(
                {
                    "evaluation": self.evaluation,
                    "split": split,
                    "view": view,
                    "key": list(keys),
                    "label": labels.cpu().numpy(),
                    "top5": list(top.numpy()),
                    "confidence": confidence.numpy(),
                    "logits": list(logits.clamp(-LARGEST, LARGEST).half().numpy()),
                }
            )
        )


def run_one(name: str, options: Any, context: EvaluationContext) -> list[Row]:
    """Its rows; predictions and pictures in the context are then this evaluation's alone. What could
    not be decoded is of the data, and stays known to the next.
    """
    context.evaluation = name
    context.predictions, context.pictures = [], {}
    context.model.eval()
    with torch.no_grad(), autocast(context.device, context.precision):
        rows = find.load("evaluation", name).run(options, context)
    failed = {split: len(keys) for split, keys in context.failed.items()}
    return [{"evaluation": name, "n_failed": failed.get(row["split"], 0), **row} for row in rows]


def _joined(batches: Sequence[Batch]) -> Batch:
    """One batch of all of them."""
    return Batch(
        torch.cat([batch.clip_BTCHW for batch in batches]),
        torch.cat([batch.labels_B for batch in batches]),
        tuple(key for batch in batches for key in batch.keys),
    )


def context_for(
    config: RunConfig,
    resources: Resources,
    model: nn.Module,
    report: Callable[[dict[str, Any]], None],
) -> EvaluationContext:
    """The context of a run's own evaluations."""
    planned = config.data_spec()
    opened = cache(partial(open_split, config, resources))
    # The data know all their classes and which of them are in a subset; the plan, made without
    # them, need not.
    held_out = opened(planned.tuned)
    subsets = planned.subsets or held_out.subsets
    spec = replace(planned, classes=held_out.classes, subsets=subsets)
    return EvaluationContext(
        model=model.eval(),
        spec=spec,
        model_spec=config.model_spec(),
        input=config.input,
        device=ALONE.device(resources),
        seed=EVALUATION_SEED,
        precision="fp32",  # in bf16 the two best of many clips are equal
        batch=config.train.batch,
        workers=resources.workers,
        open_split=opened,
        splits=spec.splits[1:],
        report=report,
    )


def provenance(settings: Input, samples: Samples, media: str, official: bool = False) -> str:
    """How what was evaluated was made. Rows that differ in it are never averaged together."""
    if media == "image":
        if official:
            return f"{samples.provenance}; as stored, the official normalisation"
        scale = f"short side {settings.eval_scale:g} x {settings.size}"
        return f"{samples.provenance}; whole images, {scale}, centre crop"
    clip = f"{settings.frames} frames, segment midpoints"
    if settings.sampling == "dense":
        clip = f"{settings.frames} frames, every {settings.stride}, dense"
    elif settings.eval_views > 1:
        clip = f"{settings.frames} frames, one per segment"
    scale = f"short side {settings.eval_scale:g} x {settings.size}"
    views = f"{settings.eval_views} temporal view{'s' if settings.eval_views > 1 else ''}"
    crops = {1: "1 centre crop", 3: "3 crops"}[settings.eval_crops]
    averaged = ", probabilities averaged" if settings.average == "probabilities" else ""
    return f"{samples.provenance}; {clip}, {scale}, {views} x {crops}{averaged}"
