"""The first samples of each class only: for a look at a model before the whole data set is paid for.

`bench.evaluate --limit N` shows every evaluation its splits through this. Which samples are taken
hangs on N, the seed, the name of the class and the keys alone: the same from shards and from where the
videos lie, and those of a smaller N are among those of a larger one. Digest and provenance say it, so
that such a number is never taken for one of the whole data.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.config.seeds import rng
from bench.task import Samples

SEED = 0
"""Of the permutations; the same for all models, so that they are shown the same samples."""


def described(count: int, seed: int = SEED) -> str:
    """For digest and provenance."""
    return f"limit {count} per class, seed {seed}"


class LimitedSamples:
    """The first `count` samples of each class, of a seeded permutation, in the order of `whole`."""

    def __init__(self, whole: Samples, count: int, *, seed: int = SEED) -> None:
        if count < 1:
            raise ValueError(f"a limit must be at least 1 sample per class, got {count}")
        self._whole, self.limit = whole, count
        self._chosen = _first_of_each(whole, count, seed)
        self.keys = tuple(whole.keys[i] for i in self._chosen)
        self.labels = whole.labels[self._chosen]
        self.classes: tuple[str, ...] = whole.classes
        self.subsets: Mapping[str, tuple[int, ...]] = whole.subsets
        self.digest = f"{whole.digest}, {described(count, seed)}"
        self.provenance = f"{whole.provenance}; {described(count, seed)}"

    def __len__(self) -> int:
        return len(self._chosen)

    def num_frames(self, i: int) -> int:
        return self._whole.num_frames(int(self._chosen[i]))

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        """uint8 T H W 3 (RGB), as of the whole split."""
        return self._whole.frames(int(self._chosen[i]), indices)

    def with_layer(self, name: str) -> np.ndarray:
        """int64, sorted: the samples that have this layer."""
        return np.flatnonzero(np.isin(self._chosen, self._whole.with_layer(name))).astype(np.int64)

    def layer(self, i: int, name: str) -> np.ndarray:
        """As of the whole split."""
        return self._whole.layer(int(self._chosen[i]), name)


def _first_of_each(whole: Samples, count: int, seed: int) -> np.ndarray:
    """int64, sorted."""
    chosen = []
    for label in np.unique(whole.labels):
        of_class = sorted(
            np.flatnonzero(whole.labels == label).tolist(), key=lambda i: whole.keys[i]
        )
        order = rng("limit", seed, whole.classes[label]).permutation(len(of_class))
        chosen += [of_class[n] for n in order[:count]]
    return np.array(sorted(chosen), np.int64)
