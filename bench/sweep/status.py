"""The status of each cell of a plan: its files first, then one question to SLURM for all that only the
queue can tell.

Between bench.grid (what should be) and choose.py, overview.py and command.py (what to do about it, showing).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.config import signature
from bench.config.resources import Resources
from bench.grid.plan import Cell
from bench.store.failure import Failure
from bench.store.rundir import Activity, RunDir, State

FINAL = (State.DONE, State.STALE, State.SKIPPED)
"""States in which a cell is not submitted again without --force."""


@dataclass(frozen=True)
class CellStatus:
    """A cell and what its files and SLURM's queue say of it."""

    cell: Cell
    run: RunDir
    state: State
    activity: Activity = Activity.IDLE
    kind: Failure | None = None  # why it did not end well
    note: str = ""
    node: str = ""  # where it runs, as SLURM says
    job: str = ""  # SLURM's "123_4", while it has one
    micro_batch: int | None = None  # in place of the plan's, halved because memory ran out

    @property
    def resources(self) -> Resources:
        """What the cell is started with."""
        if self.micro_batch is None:
            return self.cell.resources
        return self.cell.resources.model_copy(update={"micro_batch": self.micro_batch})

    @property
    def text(self) -> str:
        """'FAILED/OOM'"""
        return f"{self.state}/{self.kind}" if self.kind else str(self.state)

    @property
    def busy(self) -> bool:
        """Whether it must not be started: it is queued or running, or might be."""
        return self.activity != Activity.IDLE


def read_statuses(runs: Path, cells: Iterable[Cell]) -> list[CellStatus]:
    """The status of each of these cells. Asks SLURM once, and only if some cell was given to it and has not
    ended.
    """
    present = _folders(runs)
    found = [_from_files(runs, cell, present=cell.signature in present) for cell in cells]
    unsure = [i for i, s in enumerate(found) if s.activity == Activity.UNKNOWN]
    if unsure:
        resolved = _ask_slurm(runs, [found[i] for i in unsure])
        for i, status in zip(unsure, resolved, strict=True):
            found[i] = status
    return [_checked(s) for s in found]


def _from_files(runs: Path, cell: Cell, *, present: bool) -> CellStatus:
    run = RunDir(runs / cell.signature)
    if cell.skip:
        return CellStatus(cell, run, State.SKIPPED, note=cell.skip)
    if not present:
        return CellStatus(cell, run, State.NEW)
    status = run.status()
    return CellStatus(cell, run, status.state, status.activity, *_ending(run, status.state))


def _ask_slurm(runs: Path, statuses: list[CellStatus]) -> list[CellStatus]:
    from bench.launch.slurm.queue import Queue

    queue = Queue(runs)
    queue.refresh()
    said = queue.statuses(s.run for s in statuses)
    resolved = []
    for s in statuses:
        status = said[s.run.signature]
        kind, note = _ending(s.run, status.state)
        if status.busy:
            kind = None  # how an earlier start ended is no longer of interest
            note = status.reason
        waits = status.state in (State.PENDING, State.PREEMPTED)
        if waits and status.activity == Activity.ACTIVE:
            note = f"waits in the queue ({status.reason})"
        found = replace(s, state=status.state, activity=status.activity, kind=kind, note=note)
        resolved.append(replace(found, node=status.node, job=status.job))
    return resolved


def _checked(s: CellStatus) -> CellStatus:
    """STALE, where a default has changed since the run was made."""
    if s.busy or s.state in (State.NEW, State.SKIPPED):
        return s
    if s.run.config_digest() == signature.digest(s.cell.config.dump()):
        return s
    changes = signature.drift(s.run.read_config(), s.cell.config)
    if not changes:
        return s
    note = f"{'; '.join(changes)}; --force runs it afresh"
    return replace(s, state=State.STALE, kind=None, note=note)


def _folders(runs: Path) -> set[str]:
    """One look at the folder instead of one at each cell that was never started."""
    try:
        with os.scandir(runs) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def _ending(run: RunDir, state: State) -> tuple[Failure | None, str]:
    """Why a start did not end well, in one word and in one line."""
    if state not in (State.FAILED, State.PREEMPTED, State.INTERRUPTED, State.PRUNED):
        return None, ""
    ended = run.read_outcome()
    kind = Failure(ended["kind"]) if ended.get("kind") in set(Failure) else None
    if state == State.FAILED:
        return kind or Failure.BUG, run.error_line()
    return kind, str(ended.get("reason") or "")


def label(cell: Cell) -> str:
    """'TimeSformer / + TIME / seed 0'"""
    return " / ".join([*cell.labels.values(), f"seed {cell.seed}"])


def count_text(statuses: Iterable[CellStatus]) -> str:
    """'3 DONE, 2 FAILED (1 BUG, 1 OOM)'"""
    statuses = list(statuses)
    states = Counter(s.state for s in statuses)
    parts = []
    for state in (state for state in State if states[state]):
        kinds = Counter(s.kind for s in statuses if s.state == state and s.kind)
        text = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        parts.append(f"{states[state]} {state}" + (f" ({text})" if text else ""))
    return ", ".join(parts) or "none"
