"""What the Backgrounds Challenge knows of each pair of a foreground and a background, and the file that
keeps it over a kill (`context.scratch`).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from bench import task
from bench.store.files import replacing
from tasks.image._challenge_images import Material

# What is known of a pair. Verdicts and rating are kept apart: what is strong enough to be rated is
# decided by the verdicts alone, also after a kill in the middle of the rating.
UNKNOWN, RIGHT, FOOLED, RATED_RIGHT, RATED_FOOLED = range(5)

SAVE_S = 30.0
PROGRESS_S = 0.5


class ChallengeState:
    """What is known of each pair, and its file: a kill at any moment leaves the last saved state."""

    def __init__(self, path: Path | None, material: Material, *, version: int) -> None:
        self.path, self._version = path, np.array(version)
        self._saved = time.monotonic()
        self._keys = {"keys_F": np.array(material.keys_F), "keys_B": np.array(material.keys_B)}
        stored = self._load()
        shape = len(material.keys_F), len(material.keys_B)
        self.codes_FB = np.zeros(shape, dtype=np.int8) if stored is None else stored

    def _load(self) -> np.ndarray | None:
        """None when there is no file, or it is of something else."""
        if self.path is None:
            return None
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                same = all(np.array_equal(stored[name], keys) for name, keys in self._keys.items())
                return stored["codes_FB"] if same and stored["version"] == self._version else None
        except Exception:
            # Not written by this class, or by another version of it: start again.
            return None

    def save_now_and_then(self) -> None:
        """Where the last time is `SAVE_S` ago."""
        if time.monotonic() - self._saved >= SAVE_S:
            self.save()

    def save(self) -> None:
        if self.path is None:
            return
        with replacing(self.path) as temporary, temporary.open("wb") as handle:
            np.savez(
                handle,
                codes_FB=self.codes_FB,
                version=self._version,
                keys_F=self._keys["keys_F"],
                keys_B=self._keys["keys_B"],
            )
        self._saved = time.monotonic()

    @property
    def vulnerable_F(self) -> np.ndarray:
        return (self.codes_FB == FOOLED).any(axis=1)

    def share(self, *codes: int) -> float:
        """Of all pairs, those with one of these codes."""
        return float(np.isin(self.codes_FB, codes).mean())


class ChallengeProgress:
    """Not at every batch: a batch of a tiny model takes milliseconds."""

    def __init__(self, context: task.Context, total: int, text: str) -> None:
        self._context, self._total, self._text = context, total, text
        self._told = float("-inf")

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if done >= self._total or now - self._told > PROGRESS_S:
            self._context.progress(done, self._total, self._text)
            self._told = now
