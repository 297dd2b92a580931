"""One search on disk, shared by any number of workers: which trial is next, who has it, how it ended.

Between search.py (what is searched) and command.py (which runs the trials). In
`runs/tune/<study>/`:

    journal.log, journal.head  the Optuna study, unless `--storage` names a database (journal.py)
    lock             held while a trial is given out or ends
    leases/<n>.json  who works on trial n, renewed every few seconds
    trials.json, winner.yaml   written anew at each end of a trial; read back only where the journal
                     is damaged (rebuild.py)

Optuna lets a trial run for ever when its worker died, and two workers get one point of a grid. Here
a trial whose lease ran out FAILs and its parameters are given out again. What is to be done follows
from the study alone and is done under the lock, so a worker may be killed at any point of it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from bench.config import seeds
from bench.config.mistakes import Mistakes
from bench.grid.plan import Cell
from bench.process.machine import is_alive, process_started
from bench.store.files import clear_leftovers, lock, set_aside, write_json
from bench.store.records import CLAIM, read_record
from bench.store.result_files import Kind, write_result
from bench.store.rundir import RunDir
from bench.tune import winner
from bench.tune.rebuild import FORGOTTEN, NOTES, open_or_rebuild
from bench.tune.search import Dimension, Search

log = logging.getLogger(__name__)

RETRIES = 3
"""How often parameters are given out again after their worker, machine or cell was killed. Not
once: a grid must have all its points. Not for ever: some parameters kill."""

STOPPED = "stopped"
"""Why a trial was given back when the user stopped its worker; not counted as a retry."""


class LeaseLost(RuntimeError):
    """The trial was given to somebody else meanwhile; what came out of it does not count."""


class Study:
    """The search's trials. Raises OSError where the file system has no locks, ValueError for a
    database that cannot be opened, and DamagedFile (then, and whenever it is used) for a journal that
    is damaged while others work with it; else that is made anew.

    `lease_s`: without a sign of life for so long, a worker counts as dead (at once if its process
    was on this machine and is gone). Longer than any pause that a live worker may make.
    """

    def __init__(
        self, search: Search, runs: Path, *, storage: str | None = None, lease_s: float = 120.0
    ) -> None:
        self.search, self.lease_s = search, lease_s
        self._runs = Path(runs)
        self.folder = self._runs / "tune" / search.name
        self._leases = self.folder / "leases"
        self._distributions = {key: _distribution(d) for key, d in search.space.items()}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        database = None if storage is None else _database(storage)
        self._leases.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.folder)
        with self._locked():
            self._clear_the_way()
            self._storage = database or open_or_rebuild(
                search, self._runs, self._distributions, self._at_work
            )
            self._study = optuna.create_study(
                study_name=search.name,
                storage=self._storage,
                direction=search.options.direction,
                pruner=_pruner(search),
                load_if_exists=True,
            )

    # -- giving out and taking back ---

    def take(self) -> tuple[Trial, Cell] | None:
        """The next trial, with a lease on it, and its cell; None while there is none to give out."""
        with self._locked():
            self._reap()
            while self._enqueue_next():
                trials = self.trials()
                self._study.sampler = _sampler(self.search, len(trials))
                trial = self._study.ask(self._distributions)
                # Killed before this line, the trial is one without a lease: `_dead` knows it.
                write_json(self._lease(trial.number), _me())
                try:
                    cell = self.search.cell(trial.params)
                except Mistakes as error:
                    self._end(trial.number, TrialState.FAIL, error=str(error).strip())
                    continue
                trial.set_user_attr("signature", cell.signature)
                # Where the journal is damaged, this tells what was at work.
                write_json(self._lease(trial.number), {**_me(), **_asked_of(trial)})
                return trial, cell
        return None

    def finish(
        self,
        number: int,
        state: Literal["COMPLETE", "PRUNED", "FAIL"],
        *,
        value: float | None = None,
        error: str = "",
        lost: str = "",
    ) -> None:
        """End a trial. `lost`: why it came to nothing through no fault of its own; its parameters
        are given out again. Raises LeaseLost when it was not this worker's any more.
        """
        with self._locked():
            if self.trials()[number].state != TrialState.RUNNING:
                raise LeaseLost(f"trial {number} was given to another worker")
            self._end(number, TrialState[state], value=value, error=error, lost=lost)
            self._reap()
            self._export()

    def retry_failed(self) -> int:
        """Give out again what FAILED and has no successor yet. Returns how many."""
        with self._locked():
            self._reap()
            failed = self.failed()
            for trial in failed:
                self._again(trial, retries=0)
            return len(failed)

    def reap(self) -> None:
        """Give out again now what dead workers had."""
        with self._locked():
            self._reap()
            self._export()

    @property
    def over(self) -> bool:
        """Whether all trials were given out and have ended."""
        trials = self.trials()
        live = any(t.state in (TrialState.RUNNING, TrialState.WAITING) for t in trials)
        return not live and len(_roots(trials)) >= self.search.trials

    def _enqueue_next(self) -> bool:
        """Whether there is a trial to ask for; of a grid, the next point is put into the queue."""
        trials = self.trials()
        if any(t.state == TrialState.WAITING for t in trials):
            return True
        roots = _roots(trials)
        if len(roots) >= self.search.trials:
            return False
        if self.search.options.sampler == "grid":
            points = self.search.points
            given = {t.user_attrs.get("point") for t in roots}
            point = next(i for i in range(len(points)) if i not in given)
            self._study.enqueue_trial(points[point], user_attrs={"point": point})
        return True

    def _reap(self) -> None:
        """End the trials whose workers are dead, and give out again what was lost. Called under the
        lock; it may be cut off anywhere, the next one goes on.
        """
        now = self._now()
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and self._dead(trial, now):
                self._end(trial.number, TrialState.FAIL, lost="lease expired")
        trials = self.trials()
        successors = _successors(trials)
        for trial in trials:
            lost, retries = trial.user_attrs.get("lost"), trial.user_attrs.get("retries", 0)
            if trial.state != TrialState.FAIL or not lost or trial.number in successors:
                continue
            counts = lost != STOPPED and not self._goes_on(trial)
            if not counts or retries < RETRIES:
                self._again(trial, retries=retries + counts)
        running = {t.number for t in trials if t.state == TrialState.RUNNING}
        for lease in self._leases.glob("*.json"):
            if int(lease.stem) not in running:
                lease.unlink(missing_ok=True)

    def _goes_on(self, trial: FrozenTrial) -> bool:
        """Whether its cell has outlived its worker: who gets its parameters waits for that cell."""
        signature = str(trial.user_attrs.get("signature", ""))
        return bool(signature) and RunDir(self._runs / signature).status().busy

    def _again(self, trial: FrozenTrial, *, retries: int) -> None:
        attributes = {"retry_of": trial.number, "retries": retries}
        if "point" in trial.user_attrs:
            attributes["point"] = trial.user_attrs["point"]
        self._study.enqueue_trial(_params(trial), user_attrs=attributes)

    def _end(
        self,
        number: int,
        state: TrialState,
        *,
        value: float | None = None,
        error: str = "",
        lost: str = "",
    ) -> None:
        # Before the state: nothing can be written to a trial that has ended.
        notes = {"error": error or lost, "lost": lost}
        study_id = self._storage.get_study_id_from_name(self.search.name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        for key, text in notes.items():
            if text:
                self._storage.set_trial_user_attr(trial_id, key, text)
        self._study.tell(number, value if state == TrialState.COMPLETE else None, state=state)
        self._lease(number).unlink(missing_ok=True)

    # -- reading ---

    def trials(self) -> list[FrozenTrial]:
        """All trials, as they stand now."""
        return self._study.get_trials(deepcopy=False)

    def failed(self) -> list[FrozenTrial]:
        """The trials that FAILED and were not given out again."""
        trials = self.trials()
        given_out_again = _successors(trials)
        failed = [t for t in trials if t.state == TrialState.FAIL and FORGOTTEN not in t.user_attrs]
        return [t for t in failed if t.number not in given_out_again]

    def open_cells(self) -> list[Cell]:
        """The cells that may be at work for this search, each called by its trial."""
        cells = {}
        for trial in self.trials():
            ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            params = _params(trial)
            if ended or set(params) != set(self.search.space):
                continue
            with suppress(Mistakes):
                cell = self.search.cell(params)
                named = {**cell.labels, "trial": f"trial {trial.number}"}
                cells[cell.signature] = replace(cell, labels=named)
        return list(cells.values())

    def best(self) -> FrozenTrial | None:
        """The best trial that was trained to its end: never one that was pruned."""
        complete = [t for t in self.trials() if t.state == TrialState.COMPLETE]
        if not complete:
            return None
        sign = -1.0 if self.search.maximize else 1.0
        return min(complete, key=lambda t: (sign * (t.value or 0.0), t.number))

    def refresh(self) -> None:
        """Write trials.json and winner.yaml anew."""
        with self._locked():
            self._export()

    def _export(self) -> None:
        best = self.best()
        found = winner.record(self.search, self._study, best)
        write_result(self.folder / "trials.json", Kind.SEARCH, found)
        if best is not None:
            winner.write(self.folder / "winner.yaml", self.search, best, self.trials())

    # -- leases ---

    @contextmanager
    def leased(self, number: int) -> Iterator[None]:
        """Keep renewing the lease of a trial in the background, until the block ends or the trial
        was taken away.
        """
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self.lease_s / 5):
                try:
                    # Never made anew: when it is gone, the trial is somebody else's.
                    os.utime(self._lease(number))
                except FileNotFoundError:
                    return
                except OSError:  # the file system is away; try again
                    continue

        thread = threading.Thread(target=renew, name=f"lease of trial {number}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _lease(self, number: int) -> Path:
        return self._leases / f"{number}.json"

    def _now(self) -> float:
        """The time by the clock that dates the leases: that of the file server, not of this machine."""
        clock = self.folder / "clock"
        clock.touch()
        return clock.stat().st_mtime

    def _dead(self, trial: FrozenTrial, now: float) -> bool:
        try:
            return not self._holder(self._lease(trial.number), now)
        except FileNotFoundError:  # killed between asking for the trial and writing the lease
            started = trial.datetime_start or datetime.now()
            return time.time() - started.timestamp() > self.lease_s

    def _holder(self, lease: Path, now: float) -> str:
        """Who has a lease, in words, or nothing where that is dead. Raises FileNotFoundError."""
        with lease.open() as file:  # opened: NFS then looks at the server
            renewed = os.fstat(file.fileno()).st_mtime
        if now - renewed > self.lease_s:
            return ""
        holder = read_record(lease, CLAIM, "host", "pid")
        if holder.get("host") == os.uname().nodename and not is_alive(holder):
            return ""
        return f"pid {holder.get('pid')} on {holder.get('host')}"

    def _at_work(self) -> str:
        """One who works on a trial, in words, or nothing."""
        now = self._now()
        for lease in sorted(self._leases.glob("*.json")):
            with suppress(FileNotFoundError):
                if who := self._holder(lease, now):
                    return who
        return ""

    def _clear_the_way(self) -> None:
        """Where something else is in the place of a file, rename it."""
        files = ("journal.log", "journal.head", "trials.json", "winner.yaml", "clock")
        for path in (*(self.folder / name for name in files), *self._leases.glob("*.json")):
            if os.path.lexists(path) and not path.is_file():
                log.warning("%s is no file; now %s", path, set_aside(path).name)

    def _locked(self) -> AbstractContextManager[object]:
        """One worker at a time. It needs `flock`, on a file system where all machines of the search
        see one another's locks (local disks; NFS since Linux 2.6.12; Lustre mounted with `flock`;
        BeeGFS with tuneUseGlobalFileLocks). The kernel drops it when its holder dies; one that is
        frozen while it has it holds up the others.
        """
        return lock(self.folder / "lock")


def _database(url: str) -> optuna.storages.BaseStorage:
    """Raises ValueError, without the password, for one that cannot be opened."""
    try:
        return optuna.storages.get_storage(url)
    except (ImportError, SQLAlchemyError) as error:
        place = url.rpartition("@")[2]
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(
            f"--storage {place}: {cause}; write it as SQLAlchemy does, e.g. sqlite:///tune.db or "
            "postgresql+psycopg2://user@host/name, and install the driver that it names"
        ) from error


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": os.uname().nodename, "pid": pid, "pid_started": process_started(pid)}


def _params(trial: FrozenTrial) -> dict[str, Any]:
    """Also of one that was killed while it was given out, which has only some itself, or none."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _asked_of(trial: Trial) -> dict[str, Any]:
    """What it takes to give a trial out again."""
    notes = {key: trial.user_attrs[key] for key in ("signature", *NOTES) if key in trial.user_attrs}
    return {"params": trial.params, **notes}


def _roots(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that are not another one's second try, and known: these are counted."""
    return [t for t in trials if not {"retry_of", FORGOTTEN} & set(t.user_attrs)]


def _successors(trials: list[FrozenTrial]) -> set[int]:
    """The trials that were given out again."""
    return {t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.values is not None:
        return CategoricalDistribution(dimension.values)
    low, high, step = dimension.low or 0.0, dimension.high or 0.0, dimension.step
    if dimension.whole:
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(step or 1))
    return FloatDistribution(low, high, log=dimension.log, step=step)


def _sampler(search: Search, asked: int) -> optuna.samplers.BaseSampler:
    """A sampler for one question. Its seed depends on how many were asked before: with one seed
    for all, every worker would draw the same numbers.
    """
    seed = seeds.seed("search", search.options.seed, asked) % 2**32
    if search.options.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)  # of a grid every value is fixed


def _pruner(search: Search) -> optuna.pruners.BasePruner:
    pruner = search.pruner
    if pruner.name == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=pruner.startup_trials, n_warmup_steps=pruner.warmup_epochs
        )
    if pruner.name == "hyperband":
        epochs = search.base.config.train.epochs
        return optuna.pruners.HyperbandPruner(
            min_resource=min(pruner.warmup_epochs, epochs),
            max_resource=epochs,
            reduction_factor=pruner.reduction_factor,
        )
    return optuna.pruners.NopPruner()
