"""The order of training samples: a pure function of (seed, epoch), cut into steps, ranks and
micro-batches.

A training run is one long sequence of micro-batches: step s takes the next `batch` samples of the
permutation of its epoch, each rank its own `Part` of them, cut into micro-batches. `bench.data.loader`
loads what stands here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.config.seeds import rng


@dataclass(frozen=True)
class Draw:
    """One sample of one epoch."""

    index: int
    epoch: int


@dataclass(frozen=True)
class Part:
    """What one rank takes of a sequence that all ranks share: items [start, stop) of `whole`."""

    start: int
    stop: int
    whole: int

    @classmethod
    def of(cls, whole: int, *, rank: int = 0, world: int = 1) -> Part:
        """Contiguous, as numpy.array_split cuts: sizes differ by one at most, larger ones first."""
        size, larger = divmod(whole, world)
        start = rank * size + min(rank, larger)
        return cls(start, start + size + (rank < larger), whole)

    @property
    def size(self) -> int:
        return self.stop - self.start


class Order:
    """The order of the samples in each epoch, a pure function of (seed, epoch).

    Without `shards` a permutation of all samples. With them (see `Samples.shards`) the shards come in
    random order and each in stored order, through a buffer of `buffer` samples, of which a random one
    leaves whenever another enters: neighbours in a shard stay within reach of one another.
    """

    def __init__(
        self, run_seed: int, length: int, *, shards: np.ndarray | None = None, buffer: int = 0
    ) -> None:
        self.run_seed, self.length, self.shards, self.buffer = run_seed, length, shards, buffer
        self._last: tuple[int, np.ndarray] | None = None

    def __call__(self, epoch: int) -> np.ndarray:
        if self._last is None or self._last[0] != epoch:
            self._last = epoch, self._drawn(rng(self.run_seed, "order", epoch))
        return self._last[1]

    def _drawn(self, generator: np.random.Generator) -> np.ndarray:
        if self.shards is None:
            return generator.permutation(self.length)
        place = generator.permutation(int(self.shards.max()) + 1)
        waiting = np.argsort(place[self.shards], kind="stable")
        size = min(self.buffer, self.length)
        buffer, drawn = waiting[:size].copy(), np.empty(self.length, np.int64)
        picks = generator.integers(size, size=self.length - size)
        for n, pick in enumerate(picks):
            drawn[n] = buffer[pick]
            buffer[pick] = waiting[size + n]
        drawn[self.length - size :] = generator.permutation(buffer)
        return drawn


def shuffling_quality(order: np.ndarray, labels: np.ndarray, batch: int) -> float:
    """How mixed the batches of an order are: the mean number of different classes in one, as a share
    of that in a full random permutation.
    """

    def classes(indices: np.ndarray) -> float:
        whole = len(indices) - len(indices) % batch or len(indices)
        parts = np.split(labels[indices[:whole]], max(1, whole // batch))
        return float(np.mean([len(np.unique(part)) for part in parts]))

    random = np.random.default_rng(0).permutation(len(order))
    return classes(order) / classes(random)


def steps_per_epoch(length: int, batch: int) -> int:
    """Full batches only, so that every optimiser step averages over `batch` clips; at least one."""
    return max(1, length // batch)


def step_draws(order: Order, *, batch: int, step: int) -> list[Draw]:
    """The samples of a step's global batch."""
    epoch, position = divmod(step, steps_per_epoch(order.length, batch))
    drawn = order(epoch)[position * batch : (position + 1) * batch]
    return [Draw(int(i), epoch) for i in drawn]


@dataclass(frozen=True)
class Schedule:
    """The micro-batches of steps [first_step, last_step), as lists of draws (a DataLoader batch
    sampler): of each step's global batch this `part`, in pieces of `micro` samples.
    """

    order: Order
    batch: int
    micro: int
    first_step: int
    last_step: int
    part: Part

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.first_step, self.last_step):
            draws = step_draws(self.order, batch=self.batch, step=step)
            mine = draws[self.part.start : self.part.stop]
            for start in range(0, len(mine), self.micro):
                yield mine[start : start + self.micro]

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * -(-self.part.size // self.micro)
