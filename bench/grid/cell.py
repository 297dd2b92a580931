"""What a grid is made of: cells, and the plan that they are in.

Made by plan.py, from where they are imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bench.config import signature as identity
from bench.config.left_out import LeftOut
from bench.config.resources import Resources
from bench.config.science import RunConfig
from bench.grid.axes import Labels
from bench.grid.parents import Parent


@dataclass(frozen=True)
class Cell:
    """One run of the grid: its labels for tables, its config for the engine, its resources for the
    launcher.
    """

    labels: Labels
    seed: int
    config: RunConfig
    signature: str
    resources: Resources
    skip: str | None = None  # why it cannot run; it stays in the plan
    left_out: LeftOut = field(default_factory=dict)  # what its labels ask for and it has not
    parent: Cell | None = None  # what it starts from

    def parents(self) -> list[Cell]:
        """All that must be trained before it, in this order."""
        return [] if self.parent is None else [*self.parent.parents(), self.parent]


@dataclass(frozen=True)
class Plan:
    """Every cell of a sweep at a scale."""

    sweep: str
    scale: str
    title: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    resources: Resources  # what all cells have in common; each cell has its own
    overrides: dict[str, Any] = field(default_factory=dict)  # science set by --set

    @cached_property
    def parents(self) -> tuple[Cell, ...]:
        """What cells start from and no cell of the grid is, each once, in the order of training."""
        own = {cell.signature for cell in self.cells}
        found = {s.signature: s for cell in self.cells for s in cell.parents()}
        return tuple(s for signature, s in found.items() if signature not in own)

    @property
    def all_cells(self) -> list[Cell]:
        """Those of the grid, after those that only serve them."""
        return [*self.parents, *self.cells]

    @property
    def name(self) -> str:
        """Name of the manifest: a sweep run with --set is another experiment and does not replace
        the plain one.
        """
        suffix = f"-{identity.digest(self.overrides)[:6]}" if self.overrides else ""
        return f"{self.sweep}-{self.scale}{suffix}"


@dataclass(frozen=True)
class Composed:
    """What cells that differ only in their seed have in common."""

    config: RunConfig
    resources: Resources
    parent: Parent | None = None
    skip: str | None = None  # why the scale has no such cell
