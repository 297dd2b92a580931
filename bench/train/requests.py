"""What a run is asked to do between two steps, agreed upon by its ranks: stop because of a signal, stop
because a search says so, write the checkpoint that is due by the clock.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from signal import Signals

from bench.config.resources import Resources
from bench.process import interrupt
from bench.store.rundir import RunDir
from bench.train.world import World

PRUNE_LOOK_S = 1.0
"""How often at most the run directory is asked whether a search wants the run to stop."""


@dataclass(frozen=True)
class Request:
    """The same on all ranks."""

    signal: int  # 0 for none
    pruned: bool
    save: bool  # a checkpoint is due by the clock

    @property
    def stop(self) -> bool:
        return bool(self.signal) or self.pruned

    def interrupt(self) -> None:
        """Raises Interrupted when the run was asked to stop."""
        if self.pruned:
            raise interrupt.Interrupted("a search stopped it", pruned=True)
        if self.signal:
            raise interrupt.Interrupted(Signals(self.signal).name)


class Requests:
    """Asked by all ranks at the same points."""

    def __init__(self, run: RunDir, resources: Resources, world: World) -> None:
        self._run, self._world = run, world
        self._every_s = 60 * resources.checkpoint_minutes
        self._saved = time.monotonic()
        self._looked = -math.inf

    def saved(self) -> None:
        """A checkpoint was written: the next one is due later."""
        self._saved = time.monotonic()

    def read(self, *, validated: bool = False) -> Request:
        """A search decides by what validations say, so right after one it is always asked."""
        reason = interrupt.requested()
        now = time.monotonic()
        pruned = due = False
        if self._world.first:
            if validated or now - self._looked > PRUNE_LOOK_S:
                self._looked = now
                pruned = self._run.stop.exists()
            due = now - self._saved > self._every_s
        flags = (Signals[reason] if reason else 0, pruned, due)
        signal, pruned_, due_ = self._world.agreed([int(flag) for flag in flags])
        return Request(signal, bool(pruned_), bool(due_))
