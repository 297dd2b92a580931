"""The states of a cell, and what files and SLURM's queue say of it."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple


class State(StrEnum):
    """What is known of a cell. Only DONE is not submitted again."""

    NEW = "NEW"  # nothing on disk
    PENDING = "PENDING"  # handed to a launcher, not started
    RUNNING = "RUNNING"
    DONE = "DONE"
    TRAINED = "TRAINED"  # its weights are final; an evaluation that a sweep asks for is missing
    DAMAGED = "DAMAGED"  # a file of it is not what was written; what it held is made again
    FAILED = "FAILED"  # an error was written
    PREEMPTED = "PREEMPTED"  # was told to stop, wrote its checkpoint; goes on from there
    INTERRUPTED = "INTERRUPTED"  # started, then died without a word; goes on from its checkpoint
    PRUNED = "PRUNED"  # a search stopped it: not promising; goes on when a sweep asks for it
    EDITED = "EDITED"  # its config is not what was written, so not what its name says
    STALE = "STALE"  # same signature, but a default has changed since
    SKIPPED = "SKIPPED"  # an impossible combination; never submitted


class Activity(Enum):
    """Whether somebody works on a cell, or is going to."""

    ACTIVE = "queued or running"
    IDLE = "nobody does"
    UNKNOWN = "only SLURM's queue can tell"


class RunStatus(NamedTuple):
    """What files, and SLURM's queue where it was asked, say of a run."""

    state: State
    activity: Activity
    node: str = ""  # where it runs, as SLURM says
    reason: str = ""  # why it waits, or ended, or what is damaged
    job: str = ""  # SLURM's "123_4", while it has one
    trained: bool = False  # whether its weights are final
    measured: frozenset[str] = frozenset()  # the evaluations that are through, by <name>-<digest>
    digest: str = ""  # of the training config, as its first line says it

    @property
    def busy(self) -> bool:
        """Whether it must not be started: it is queued or running, or might be."""
        return self.activity != Activity.IDLE
