"""What a rank trains on: its part of each step's batch, in the order of the run, and which samples
could not be decoded.

Between bench.data.loader, which decodes and augments, and bench.train.loop, which asks for steps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from bench.config.resources import Resources
from bench.config.science import RunConfig
from bench.data import loader
from bench.data.access import open_split
from bench.data.order import Order, Part, Schedule, shuffling_quality, step_draws, steps_per_epoch
from bench.task import Samples, Sharded
from bench.train import labels
from bench.train.world import World

log = logging.getLogger("bench")

WELL_SHUFFLED = 0.9
"""Of the classes that a batch has in a full permutation: with less an epoch's order is reported."""


class TrainingBatches:
    """The micro-batches of this rank. Raises ValueError when there is nothing for it."""

    def __init__(
        self, config: RunConfig, resources: Resources, world: World, device: torch.device
    ) -> None:
        self.samples = open_split(config, resources, config.data_spec().splits[0])
        self.part = part_of(config, len(self.samples), world)
        self.micro_batch = min(resources.micro_batch or self.part.size, self.part.size)
        self.order = epoch_order(config, self.samples)
        self.steps_per_epoch = steps_per_epoch(len(self.samples), config.train.batch)
        self._batch = config.train.batch
        self._world = world
        self._workers = resources.workers
        self._pin = device.type == "cuda"
        self._clips = loader.Clips(
            self.samples,
            config.input,
            run_seed=config.seed,
            prepare=labels.on_loader(config, device),
            companions=labels.companions(config),
            skip_bad=config.train.on_bad_sample == "skip",
        )
        # of this rank's samples: what could not be decoded, and how often another took its place
        self._bad: dict[str, str] = {}
        self._replaced = 0

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step."""
        return -(-self.part.size // self.micro_batch)

    def steps(self, first: int, last: int) -> Iterator[list[loader.RawBatch]]:
        """This rank's micro-batches of each of the steps [first, last)."""
        schedule = Schedule(
            order=self.order,
            batch=self._batch,
            micro=self.micro_batch,
            first_step=first,
            last_step=last,
            part=self.part,
        )
        batches = loader.training_batches(
            self._clips, schedule, workers=self._workers, pin=self._pin
        )
        while micro_batches := list(islice(batches, self.accumulation)):
            yield micro_batches

    def keys(self, step: int) -> tuple[str, ...]:
        """The samples of a step, of all ranks."""
        draws = step_draws(self.order, batch=self._batch, step=step)
        return tuple(self.samples.keys[draw.index] for draw in draws)

    # -- samples that cannot be decoded ---

    @property
    def skips_bad(self) -> bool:
        """Whether another sample takes the place of one that cannot be decoded."""
        return self._clips.skip_bad

    def count_bad(self, micro_batches: Iterable[loader.RawBatch]) -> None:
        """Count, and say of each once, what could not be decoded of a step."""
        for raw in micro_batches:
            for key, reason in raw.failed.items():
                if key not in self._bad:
                    log.warning("another sample takes its place: %s", reason)
                self._bad[key] = reason
            self._replaced += len(raw.failed)

    def replaced(self) -> int:
        """How often another sample took a place, over all ranks, which must all ask."""
        return int(self._world.total(torch.tensor(self._replaced)))

    def bad_samples(self) -> dict[str, Any]:
        """{replaced: how often another sample took the place of one that cannot be decoded, samples:
        {key: reason}}, over all ranks, which must all ask.
        """
        every = self._world.gathered((self._replaced, self._bad))
        samples = {key: reason for _, bad in every for key, reason in bad.items()}
        return {"replaced": sum(n for n, _ in every), "samples": dict(sorted(samples.items()))}

    def resume_bad_samples(self, bad: dict[str, Any]) -> None:
        """Go on from what `bad_samples` said: rank 0 counts for all."""
        if self._world.first:
            self._replaced, self._bad = bad["replaced"], dict(bad["samples"])


def part_of(config: RunConfig, samples: int, world: World) -> Part:
    """What a rank takes of each step's batch. Raises ValueError when there is nothing for it."""
    batch = min(config.train.batch, samples)
    if batch < world.size:
        few = "" if batch == config.train.batch else f" (and there are {samples} samples)"
        raise ValueError(
            f"train.batch is {config.train.batch}{few}: too few for {world.size} devices, each takes "
            f"at least one sample of a step; set resources.nodes and resources.devices so that "
            f"their product is at most {batch}"
        )
    return Part.of(batch, rank=world.rank, world=world.size)


def epoch_order(config: RunConfig, samples: Samples) -> Order:
    """The order of the epochs. Warns when its batches are less mixed than they should be."""
    settings, length = config.train, len(samples)
    if settings.shuffle == "global":
        return Order(config.seed, length)
    if not isinstance(samples, Sharded):
        raise ValueError("train.shuffle: these data are not in shards; set it to global")
    samples.read_ahead()
    order = Order(config.seed, length, shards=samples.shards, buffer=settings.shuffle_buffer)
    quality = shuffling_quality(order(0), samples.labels, settings.batch)
    say = log.info if quality >= WELL_SHUFFLED else log.warning
    say(
        "train.shuffle: a batch has %.0f %% of the classes that it has in a full permutation "
        "(train.shuffle_buffer is %d)",
        100 * quality,
        settings.shuffle_buffer,
    )
    return order
