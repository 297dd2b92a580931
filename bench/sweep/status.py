"""The status of each cell of a plan: its files first, then one question to SLURM for all that only the
queue can tell.

Between bench.grid (what should be) and choose.py, overview.py and command.py (what to do about it, showing).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.config import signature
from bench.config.resources import Resources
from bench.grid.plan import Cell
from bench.store.failure import Failure, of_traceback
from bench.store.files import DamagedFile
from bench.store.rundir import Activity, RunDir, RunStatus, State
from bench.sweep.earlier import EarlierRuns

FINAL = (State.DONE, State.EDITED, State.STALE, State.SKIPPED)
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
    # of what the cell asks to be measured, what is not there: see `signature.asked_of`
    missing: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    trained: bool = False  # whether starting it only measures
    digest: str = ""  # of the training config that it was made with
    wanted: bool = False  # whether cells are to start from weights that it has not kept
    replaces: RunDir | None = None  # a directory to be set aside when the cell is started

    @property
    def resources(self) -> Resources:
        """What the cell is started with."""
        if self.micro_batch is None:
            return self.cell.resources
        return self.cell.resources.model_copy(update={"micro_batch": self.micro_batch})

    @property
    def weights_are_gone(self) -> bool:
        """Whether what is missing cannot be measured, or started, because the run kept no weights."""
        needs = self.trained and (self.wanted or bool(self.missing)) and self.state not in FINAL
        return needs and not self.busy and not self.run.last.exists()

    @property
    def is_another(self) -> bool:
        """Whether what stands in its place is not its directory: only --force takes that away."""
        damaged = self.state == State.DAMAGED and not self.run.path.is_dir()
        return damaged or self.state == State.EDITED

    def afresh(self) -> CellStatus:
        """The same cell, to be started in a new directory."""
        new = RunDir(self.run.path.with_name(self.cell.signature))
        asked = signature.asked_of(self.cell.config)
        return replace(self, run=new, replaces=self.run, missing=asked, trained=False)

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
    earlier = EarlierRuns(runs, present)
    found = [_from_files(runs, cell, present, earlier) for cell in cells]
    unsure = [i for i, s in enumerate(found) if s.activity == Activity.UNKNOWN]
    if unsure:
        resolved = _ask_slurm(runs, [found[i] for i in unsure])
        for i, status in zip(unsure, resolved, strict=True):
            found[i] = status
    return [_checked(s) for s in found]


def _from_files(runs: Path, cell: Cell, present: set[str], earlier: EarlierRuns) -> CellStatus:
    run, asked = RunDir(runs / cell.signature), signature.asked_of(cell.config)
    if cell.skip:
        return CellStatus(cell, run, State.SKIPPED, note=cell.skip)
    measured: set[str] = set()
    if cell.signature not in present:
        before = earlier.find(cell.signature)
        if before is None:
            return CellStatus(cell, run, State.NEW, missing=asked)
        run, measured = RunDir(runs / before.name), set(before.measured)
    status = run.status()
    measured |= status.measured
    missing = {identity: entry for identity, entry in asked.items() if identity not in measured}
    kind, note = _ending(run, status)
    found = CellStatus(
        cell,
        run,
        status.state,
        status.activity,
        kind,
        note,
        missing=missing,
        trained=status.trained,
        digest=status.digest,
    )
    return _measured(found)


def _measured(s: CellStatus) -> CellStatus:
    """Of a trained cell, whether it is DONE is said by what the plan asks for, not by what its last
    start was asked for.
    """
    if s.busy or not s.trained or s.state == State.EDITED:
        return s
    if not s.missing:
        return replace(s, state=State.DONE, kind=None, note="")
    if s.state not in (State.DONE, State.DAMAGED):  # it failed, or was stopped, while it measured
        return s
    trained = replace(s, state=State.DAMAGED if s.state == State.DAMAGED else State.TRAINED)
    names = ", ".join(sorted({str(entry["evaluation"]) for entry in s.missing.values()}))
    if trained.weights_are_gone:
        note = f"kept no weights, so {names} costs training it again: --retrain"
    else:
        note = f"to be measured: {names}"
    return replace(trained, note=f"{s.note}; {note}" if s.note else note)


def _ask_slurm(runs: Path, statuses: list[CellStatus]) -> list[CellStatus]:
    from bench.launch.slurm.queue import Queue

    queue = Queue(runs)
    queue.refresh()
    said = queue.statuses(s.run for s in statuses)
    resolved = []
    for s in statuses:
        status = said[s.run.signature]
        kind, note = _ending(s.run, status)
        if status.busy:
            kind = None  # how an earlier start ended is no longer of interest
            note = status.reason
        waits = status.state in (State.PENDING, State.PREEMPTED)
        if waits and status.activity == Activity.ACTIVE:
            note = f"waits in the queue ({status.reason})"
        found = replace(s, state=status.state, activity=status.activity, kind=kind, note=note)
        resolved.append(_measured(replace(found, node=status.node, job=status.job)))
    return resolved


def _checked(s: CellStatus) -> CellStatus:
    """STALE, where a default has changed since the run was made; EDITED, where its config was."""
    if s.busy or s.state in (State.NEW, State.SKIPPED) or not s.run.path.is_dir():
        return s
    edited = s.state == State.EDITED
    if not edited and s.digest == signature.digest(s.cell.config.dump_training()):
        return s
    try:
        changes = "; ".join(signature.drift(s.run.read_config(edited=True), s.cell.config))
    except (DamagedFile, FileNotFoundError) as error:
        return replace(s, state=State.EDITED, kind=None, note=f"{error}; --force runs it afresh")
    if edited:
        return replace(s, kind=None, note=f"{s.note} ({changes})" if changes else s.note)
    if not changes:
        return s
    return replace(s, state=State.STALE, kind=None, note=f"{changes}; --force runs it afresh")


def _folders(runs: Path) -> set[str]:
    """One look at the folder instead of one at each cell that was never started."""
    try:
        with os.scandir(runs) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def _ending(run: RunDir, status: RunStatus) -> tuple[Failure | None, str]:
    """Why a start did not end well, in one word and in one line; of a damaged run what is damaged."""
    state = status.state
    if state in (State.DAMAGED, State.EDITED):
        return None, status.reason
    if state not in (State.FAILED, State.PREEMPTED, State.INTERRUPTED, State.PRUNED):
        return None, ""
    ended = run.read_outcome()
    kind = Failure(ended["kind"]) if ended.get("kind") in set(Failure) else None
    if state == State.FAILED:
        line = run.error_line()
        return kind or of_traceback(line), line
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
