"""One trial of a search: its cell computed by a launcher, its validations told to the study as they
come, stopped when the pruner says so, and the number that came out.

Used by the workers of command.py; who has which trial is study.py's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial

from bench.config import signature
from bench.grid.plan import Cell
from bench.process import interrupt
from bench.run.directory import create
from bench.store.failure import Failure
from bench.store.files import DamagedFile, write_json
from bench.store.rundir import Activity, RunDir, State
from bench.sweep.status import CellStatus, read_statuses
from bench.tune.search import Search
from bench.tune.study import STOPPED, LeaseLost
from bench.tune.validations import validations

TRANSIENT = (Failure.KILLED, Failure.DEVICE, Failure.NODE_FAIL, Failure.TIMEOUT)
"""Ways to fail that say nothing about the parameters."""

Launch = Callable[[Cell, RunDir, Callable[[], None]], None]
"""Has a cell computed and waits for its end, whatever it is, calling a function now and then; what
that raises ends the waiting."""


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended. `lost`: through no fault of its parameters."""

    state: Literal["COMPLETE", "PRUNED", "FAIL"]
    value: float | None = None
    error: str = ""
    lost: str = ""


def run_trial(search: Search, trial: Trial, cell: Cell, runs: Path, launch: Launch) -> TrialOutcome:
    """Have the cell computed, unless it is DONE, and say how it ended. Raises LeaseLost."""
    before = read_statuses(runs, [cell])[0]
    run = before.run
    curve = Curve(search, trial, run, may_prune=not before.busy)
    if before.state in (State.SKIPPED, State.STALE) or before.weights_are_gone:
        return TrialOutcome("FAIL", error=f"{before.state}: {before.note}")
    if before.activity == Activity.UNKNOWN:  # SLURM has it and does not answer
        return TrialOutcome("FAIL", lost=f"{before.state}: {before.note}")
    if before.state != State.DONE:
        try:
            if not before.trained and (problem := _train_parents(cell, runs, launch)):
                return TrialOutcome("FAIL", error=problem)
            create(run, cell.config, cell.resources, before.missing)
            launch(cell, run, curve.tick)
        except ValueError as error:  # more GPUs than there are, or a job that SLURM refuses
            return TrialOutcome("FAIL", error=str(error))
        except KeyboardInterrupt:
            if not run.is_done():
                return TrialOutcome("FAIL", lost=STOPPED)
    curve.read()
    return _outcome(search, cell, runs, curve)


def _train_parents(cell: Cell, runs: Path, launch: Launch) -> str:
    """Have trained what the cell starts from. Says what stands in the way. Raises as `launch` does."""
    for parent in cell.parents():
        [status] = read_statuses(runs, [parent])
        if not status.trained:
            if status.is_another or status.state in (State.SKIPPED, State.STALE):
                return f"its parent {parent.signature}: {status.text}: {status.note}"
            create(status.run, parent.config, parent.resources, status.missing)
            launch(parent, status.run, _stop_when_told)
            [status] = read_statuses(runs, [parent])
        if not status.trained:
            return f"its parent {parent.signature} ended {status.text}: {status.note}"
    return ""


def _stop_when_told() -> None:
    if interrupt.requested():
        raise KeyboardInterrupt


def _outcome(search: Search, cell: Cell, runs: Path, curve: Curve) -> TrialOutcome:
    after = read_statuses(runs, [cell])[0]
    if after.state == State.DONE:
        try:
            value = _value(search, after, curve)
        except DamagedFile as error:
            return TrialOutcome("FAIL", error=f"{error}; `bench.sweep --force` trains it again")
        if value is None or not math.isfinite(value):
            text = f"{search.metric_name} is {value} in {after.run.path}"
            return TrialOutcome("FAIL", error=text)
        return TrialOutcome("COMPLETE", value)
    if after.state == State.PRUNED:
        return TrialOutcome("PRUNED")
    text = f"{after.text}: {after.note}" if after.note else after.text
    if after.state == State.FAILED and after.kind not in TRANSIENT:
        return TrialOutcome("FAIL", error=text)
    return TrialOutcome("FAIL", lost=text)


def _value(search: Search, done: CellStatus, curve: Curve) -> float | None:
    """The number that decides, of a cell that is DONE. Raises DamagedFile."""
    row = search.metric
    if row is None:
        done.run.refuse_metrics()
        return curve.last
    asked = {**row.model_dump(), "split": search.split}
    rows = done.run.read_rows(signature.asked_of(done.cell.config))
    found = [r["value"] for r in rows if all(r.get(key) == asked[key] for key in asked)]
    return float(found[0]) if found and found[0] is not None else None


class Curve:
    """Reads the validations of a cell as they come, tells the study, and stops the cell when the
    pruner says so.
    """

    def __init__(self, search: Search, trial: Trial, run: RunDir, *, may_prune: bool) -> None:
        self.last: float | None = None
        self._trial = trial
        self._run = run
        self._epochs = search.base.config.train.epochs
        # A cell that somebody else runs may be wanted for something else too.
        self._may_prune = may_prune and search.pruner.name != "none"
        self._seen: set[int] = set()
        self._version: tuple[int, int] | None = None

    def tick(self) -> None:
        """Called again and again while the cell runs. Raises KeyboardInterrupt when this worker was
        told to stop: the launcher then stops the cell.
        """
        _stop_when_told()
        for epoch in self.read():
            if self._may_prune and epoch < self._epochs and self._trial.should_prune():
                write_json(self._run.stop, {"reason": "pruned"})
                self._may_prune = False

    def read(self) -> list[int]:
        """Tell the study what is new; returns the epochs. Raises LeaseLost."""
        try:
            status = self._run.metrics.stat()
        except FileNotFoundError:
            return []
        version = (status.st_mtime_ns, status.st_size)
        if version == self._version:
            return []
        self._version = version
        new = []
        for epoch, value in validations(self._run.metrics):
            self.last = value
            if epoch not in self._seen:
                self._seen.add(epoch)
                new.append(epoch)
                _tell(self._trial, value, epoch)
        return new


def _tell(trial: Trial, value: float, epoch: int) -> None:
    try:
        trial.report(value, epoch)
    except UpdateFinishedTrialError as error:
        raise LeaseLost(f"trial {trial.number} was given to another worker") from error
