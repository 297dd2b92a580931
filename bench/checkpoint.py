"""Checkpoints of a training run: written whole or not at all, loaded without executing anything
they contain.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from bench.rundir import replacing


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
