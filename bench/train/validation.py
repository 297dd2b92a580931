"""Top-1 on the split that options are chosen on, while a run trains: ordered clips, centre crop."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from bench.config.resources import Resources
from bench.config.science import RunConfig
from bench.data import loader
from bench.data.access import open_split
from bench.train.learner import Learner
from bench.train.step import autocast, eager, to_device
from bench.train.world import World


class Validation:
    """The held-out clips of a run; each rank takes some of the batches."""

    def __init__(
        self, config: RunConfig, resources: Resources, world: World, device: torch.device
    ) -> None:
        self._spec = config.data_spec()
        self._train = config.train
        self._world, self._device = world, device
        samples = open_split(config, resources, self._spec.tuned)
        self._clips = loader.Clips(samples, config.input, resized=device.type == "cpu")

    @torch.no_grad()
    def top1(self, learner: Learner, *, before_batch: Callable[[], None]) -> float:
        """Over all ranks, which all call `before_batch` equally often; what it raises ends the
        validation.
        """
        learner.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        size, world = self._train.batch, self._world
        batches = loader.evaluation_batches(
            self._clips,
            batch=size,
            workers=0,
            pin=self._device.type == "cuda",
            rank=world.rank,
            world=world.size,
        )
        for _ in range(math.ceil(math.ceil(len(self._clips) / size) / world.size)):
            before_batch()
            raw = next(batches, None)
            if raw is not None:  # else the ranks before this one have one more
                correct += self._count_correct(learner, raw)
        return int(world.total(correct)) / len(self._clips)

    def _count_correct(self, learner: Learner, raw: loader.RawBatch) -> torch.Tensor:
        """A clip that could not be decoded counts as wrong."""
        batch = to_device(raw, self._device, self._spec)
        with autocast(self._device, self._train.precision), eager(learner):
            logits = learner.classifier(batch.clip_BTCHW)
        right_B = logits.argmax(-1) == batch.labels_B
        if batch.failed:
            right_B &= torch.tensor([key not in batch.failed for key in batch.keys]).to(right_B)
        return right_B.sum()
