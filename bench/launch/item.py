"""What a launcher is given for each cell, and how it tells what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.config.resources import Resources
from bench.store.rundir import RunDir, State


@dataclass(frozen=True)
class Item:
    """A cell to run."""

    run: RunDir
    resources: Resources
    name: str  # for people


OnChange = Callable[[RunDir, State], None]
"""Called when a cell's state changes."""
