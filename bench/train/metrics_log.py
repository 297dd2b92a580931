"""metrics.jsonl of a run, and the losses on their way to it.

The training loop adds the losses of each step while they still lie on the device; they are read
together, so that it does not wait for each one, and none that is not finite gets past.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.store.files import set_aside, sha256_of_next
from bench.train.learned import Learned, majority
from bench.train.world import World

Losses = dict[str, float]
"""Of one step, over all ranks: `loss`, `loss/<objective>` and what objectives log."""

Read = dict[str, Any]
"""`Losses` as they were added: a number each, and lists of them, the `shares` of labels."""


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite. The message names the step, the objective and the samples."""


class MetricsLog:
    """`keys`: the samples of a step, for the message of a NonFiniteLoss. `learned` gets the losses of
    every step, once.
    """

    def __init__(
        self,
        path: Path,
        world: World,
        keys: Callable[[int], tuple[str, ...]],
        learned: Learned,
    ) -> None:
        self._path, self._world, self._keys = path, world, keys
        self._learned = learned
        self._waiting: list[tuple[int, dict[str, Tensor]]] = []
        # Of the file, so that a checkpoint need not read it.
        self._size, self._digest = 0, hashlib.sha256()

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Scalars and `shares` on the device, whose sum over the ranks is that of the global batch."""
        self._waiting.append((step, losses))

    def check(self) -> Losses:
        """Those of the last step that waits; empty where none does. Raises NonFiniteLoss for the
        first step that is not finite. All ranks must ask.
        """
        read = self._read()
        for (step, _), losses in zip(self._waiting, read, strict=True):
            row = majority(losses)
            bad = [name for name, value in row.items() if not math.isfinite(value)]
            if bad:
                raise NonFiniteLoss(_describe(step, self._keys(step), bad, row))
            self._learned.add(step, losses)
        return majority(read[-1]) if read else {}

    def take(self) -> tuple[int, Losses] | None:
        """The last step that waits and its losses, as `check` says; from then on none waits."""
        losses, waiting = self.check(), self._waiting
        self._waiting = []
        return (waiting[-1][0], losses) if waiting else None

    def _read(self) -> list[Read]:
        """One copy from the device, one exchange between the ranks."""
        values = [value for _, losses in self._waiting for value in losses.values()]
        if not values:
            return []
        home = values[0].device
        total = self._world.total(torch.cat([value.to(home).reshape(-1) for value in values]))
        numbers = iter(total.tolist())
        return [
            {
                name: [next(numbers) for _ in range(len(value))] if value.ndim else next(numbers)
                for name, value in losses.items()
            }
            for _, losses in self._waiting
        ]

    # -- the file, which rank 0 writes ---

    def append(self, row: dict[str, Any]) -> None:
        if self._world.first:
            line = (json.dumps(row) + "\n").encode()
            with self._path.open("ab") as handle:
                handle.write(line)
            self._digest.update(line)
            self._size += len(line)

    def flush(self) -> dict[str, Any]:
        """Its size and digest, for the checkpoint that is about to be written: from then on they are
        on the disk also after a power cut.
        """
        if self._world.first and self._path.exists():
            with self._path.open("rb") as handle:
                os.fsync(handle.fileno())
        return {"size": self._size, "sha256": self._digest.hexdigest()}

    def resume(self, size: int, sha256: str | None = None) -> None:
        """Forget what was written after the file was this one. One that is not the same up to there
        is never extended: it is set aside, and what follows is logged anew.
        """
        if not self._world.first:
            return
        problem = self._cut(size, sha256)
        if problem is None:
            return
        there = self._path.exists()
        kept = f"; it is kept as {set_aside(self._path).name}" if there else ""
        warnings.warn(
            f"{self._path} {problem}: logging anew from here on, which changes nothing that is "
            f"trained{kept}",
            stacklevel=2,
        )

    def _cut(self, size: int, sha256: str | None) -> str | None:
        """To this size; what is wrong with the file, or None."""
        try:
            with self._path.open("r+b") as handle:
                if os.fstat(handle.fileno()).st_size < size:
                    return "is shorter than the checkpoint says"
                digest = sha256_of_next(handle, size)
                if sha256 not in (None, digest.hexdigest()):
                    return "is not what it was when the checkpoint was written"
                handle.truncate(size)
        except FileNotFoundError:
            return "is gone" if size else None
        except IsADirectoryError:
            return "is a directory"
        self._digest, self._size = digest, size
        return None

    def restart(self) -> None:
        """Forget what another start wrote."""
        if self._world.first:
            self._path.unlink(missing_ok=True)


def _describe(step: int, keys: tuple[str, ...], bad: list[str], losses: Losses) -> str:
    objectives = [name.removeprefix("loss/") for name in bad if name.startswith("loss/")]
    shown = ", ".join(f"{name} = {losses[name]}" for name in bad)
    return (
        f"loss is not finite at step {step}: {shown}; objective: {', '.join(objectives) or 'total'}; "
        f"samples: {', '.join(keys[:16])}{' ...' if len(keys) > 16 else ''}. "
        "Lower train.lr, set train.clip_grad, or train in fp32."
    )
