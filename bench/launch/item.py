"""What a launcher is given for each cell, what it remembers of it, and how it tells what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.config.resources import Resources
from bench.store.files import DamagedFile
from bench.store.rundir import RunDir, State

if TYPE_CHECKING:
    from bench.launch.slurm.submit import Version


@dataclass
class Item:
    """A cell to run, and below what a client of SLURM remembers of its own copy."""

    run: RunDir
    resources: Resources
    name: str  # for people
    after: RunDir | None = None  # that it starts from, which is to be trained first

    version: Version = field(init=False, repr=False, compare=False)
    cancelled: Any = None  # when it was cancelled last, as far as the client knew at its start
    submitted: bool = False
    unsure: bool = False  # sbatch was given it and could not say whether SLURM took it
    tries: int = 0
    shown: State | None = None
    after_job: str = ""  # of what it starts from, while that is not trained

    def is_ready(self) -> bool:
        """Whether what it starts from is trained."""
        if self.after is None:
            return True
        try:
            return self.after.is_trained()
        except DamagedFile:
            return False


OnChange = Callable[[RunDir, State], None]
"""Called when a cell's state changes."""
