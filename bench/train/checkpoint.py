"""Checkpoints of a training run: written whole or not at all, loaded without executing anything
they contain.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch

from bench.store.files import replacing
from bench.train.world import World

STALE_S = 120.0
"""How long a network file system may show a machine the version before the last one."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write through a temporary file: a kill at any byte leaves the previous checkpoint in place."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load(path: Path) -> dict[str, Any] | None:
    """The state, on the CPU, or None when there is no readable checkpoint (a truncated one is
    reported).
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        warnings.warn(f"{path} cannot be read ({error}); starting without it", stacklevel=2)
        return None


def load_alike(path: Path, world: World) -> dict[str, Any] | None:
    """As `load`, the same on all ranks: waits while some are shown an older checkpoint than others.

    Raises RuntimeError when that does not end. The state has a `step`.
    """
    deadline = time.monotonic() + STALE_S
    while True:
        state = load(path)
        steps = world.gathered(state["step"] if state else None)
        if len(set(steps)) == 1:
            return state
        [over] = world.agreed([time.monotonic() > deadline])
        if over:
            raise RuntimeError(f"{path}: the ranks read checkpoints of different steps: {steps}")
        time.sleep(2.0)
