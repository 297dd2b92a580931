"""The run directory `runs/<signature>/`: paths, atomic writes, and the state of a run read from its
files.

The only module that knows file names. State comes from files alone, so any process on any machine
that sees the directory reads the same answer; a lock that the running process holds (and that the
kernel drops when it dies, however it dies) tells a live run from a dead one.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bench.process.machine import is_alive
from bench.shown.inert import printable
from bench.store import config_file
from bench.store.failure import Failure
from bench.store.files import (
    Busy,
    DamagedFile,
    clear_leftovers,
    dump_yaml,
    load_yaml,
    lock,
    set_aside,
    write_json,
    write_text,
)
from bench.store.records import OUTCOME, PROGRESS, START, read_claim, read_record, read_records
from bench.store.run_results import RunResults
from bench.store.state import Activity, RunStatus, State

log = logging.getLogger("bench")

_OUTCOME = {"state": (State,), **OUTCOME}


class RunDir(RunResults):
    """One run's files."""

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def resources(self) -> Path:
        return self.path / "resources.yaml"

    @property
    def env(self) -> Path:
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def last(self) -> Path:
        return self.path / "checkpoint/last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the last."""
        return self.path / "checkpoint/last.previous.pt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoint/best.pt"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def error(self) -> Path:
        return self.path / "error.txt"

    @property
    def progress(self) -> Path:
        return self.path / "progress.json"

    @property
    def job(self) -> Path:
        """Who was given the cell: see `claim`."""
        return self.path / "job.json"

    @property
    def starts(self) -> Path:
        """A line per start: {time, host, pid, job, claimed, step}; `step` is where it went on."""
        return self.path / "starts.jsonl"

    @property
    def outcome(self) -> Path:
        """How the last start ended, when not in a result: see `write_outcome`."""
        return self.path / "ended.json"

    @property
    def stop(self) -> Path:
        """A request that the running cell stops at its next step: {"reason": "pruned"}"""
        return self.path / "stop.json"

    def rank_error(self, rank: int) -> Path:
        """Traceback of one process of a cell that has several."""
        return self.path / f"error.rank{rank}.txt"

    def rank_stack(self, rank: int) -> Path:
        """Where one process was a moment ago, kept for the case that it is killed."""
        return self.path / f"stack.rank{rank}.txt"

    def rendezvous(self, start: str) -> Path:
        """Where rank 0 of this start says at which address the other ranks find it."""
        return self.path / f"rendezvous-{start}.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def scratch(self) -> Path:
        """State of evaluations that are not through yet."""
        return self.path / "scratch"

    @property
    def signature(self) -> str:
        return self.path.name

    def create(
        self,
        config: Mapping[str, Any],
        resources: Mapping[str, Any],
        digest: str,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the config (once; it never changes), the resources of the next start, and what it is
        to measure.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.clear_the_way()
        if not self.config.exists():
            config_file.write_config(self.config, digest, config)
        write_text(self.resources, dump_yaml(resources))
        if asked is not None:
            write_json(self.asked, asked)

    def signs_evaluations(self) -> bool:
        """Whether its name was made when signatures also signed evaluations. Raises DamagedFile."""
        return config_file.signs_evaluations(self.config)

    def read_config(self, *, edited: bool = False) -> dict[str, Any]:
        """Raises DamagedFile; for one that was edited too, unless that is asked for."""
        return load_yaml(self.config) if edited else config_file.read_config(self.config)

    def read_resources(self) -> dict[str, Any]:
        return load_yaml(self.resources)

    def read_progress(self) -> dict[str, Any]:
        return read_record(
            self.progress, PROGRESS, "phase", "done", "total", "time", "phase_started"
        )

    def error_line(self) -> str:
        """The last line of the traceback: what the user wants to see first."""
        try:
            text = self.error.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"({self.error} cannot be read: {error.strerror})"
        lines = [line for line in text.splitlines() if line.strip()]
        return lines[-1].strip() if lines else "(empty error.txt)"

    # -- claims and endings ---

    def claim(self, claim: Mapping[str, Any]) -> None:
        """Write down, before anything is started, who is going to run the cell.

        {launcher: local, pid, pid_started, host} or {launcher: slurm, batch, task}; always
        `submitted` (time) and `code` (digest of the snapshot). A job that is not the one named here
        must not touch the cell. What the last start left behind moves out of the way.
        """
        self.stop.unlink(missing_ok=True)
        write_json(self.job, {"submitted": time.time(), **claim})
        self.outcome.unlink(missing_ok=True)
        if self.error.exists():
            self.error.replace(self.error.with_name("error.previous.txt"))

    def read_claim(self) -> dict[str, Any]:
        return read_claim(self.job)

    def write_outcome(
        self,
        state: State,
        kind: Failure | None = None,
        *,
        reason: str = "",
        traceback: str | None = None,
        goes_on: bool = False,
        **facts: Any,
    ) -> None:
        """Write down how a start ended, when not in a result.

        `traceback` becomes error.txt (its last line is what users see first). `goes_on`: the job
        stays in SLURM's queue and will start the cell again. `facts`: step, rank, host, job, ...
        """
        record = {"state": state, "kind": kind, "reason": reason, "goes_on": goes_on, **facts}
        if state == State.FAILED:
            write_text(self.error, printable(traceback or f"{reason}\n"))
        write_json(self.outcome, {**record, "time": time.time()})

    def read_outcome(self) -> dict[str, Any]:
        return read_record(self.outcome, _OUTCOME, "state")

    def read_starts(self) -> list[dict[str, Any]]:
        """All starts so far."""
        return read_records(self.starts, START)

    # -- state ---

    def state(self) -> State:
        """What the files say. STALE and SKIPPED are the plan's to say.

        Of a cell that SLURM was given and that has not ended, only the queue knows more: here it is
        PENDING (or PREEMPTED, when it was stopped and waits to go on).
        """
        return self.status().state

    def status(self) -> RunStatus:
        """The state, and whether somebody is going to work on the cell, as far as files tell."""
        if not self.path.is_dir():
            return self._without_directory()
        found = self.from_results()
        state, activity = found.state, Activity.IDLE
        if state != State.DONE:
            state, activity = self._unfinished()
            if found.state == State.DAMAGED and activity != Activity.ACTIVE:
                state = State.DAMAGED
        digest, why = self._config_digest()
        if activity != Activity.ACTIVE and why:
            return found._replace(state=State.EDITED, activity=activity, reason=why)
        return found._replace(state=state, activity=activity, digest=digest)

    def _config_digest(self) -> tuple[str, str]:
        """The digest that its config was written with, and why the config is not what it was."""
        try:
            found = config_file.digest_as_written(self._at("config.yaml"))
        except DamagedFile as error:
            return "", f"{error}; --force runs it afresh"
        if found is None and self.config.exists():
            return "", f"{self.config} was changed by hand; --force runs it afresh"
        return found or "", ""

    def _without_directory(self) -> RunStatus:
        if not os.path.lexists(self.path):
            return RunStatus(State.NEW, Activity.IDLE)
        why = f"{self.path} is no directory; --force moves it out of the way"
        return RunStatus(State.DAMAGED, Activity.IDLE, reason=why)

    def _unfinished(self) -> tuple[State, Activity]:
        if not self.config.exists():
            return State.NEW, Activity.IDLE
        if self.is_locked():
            return State.RUNNING, Activity.ACTIVE
        if self.error.exists():
            return State.FAILED, Activity.IDLE
        claim, ended = self.read_claim(), self.read_outcome()
        activity = _activity(claim, ended)
        if ended:
            return State(ended["state"]), activity
        if activity != Activity.IDLE:
            return State.PENDING, activity
        return State.INTERRUPTED if self.env.exists() else State.NEW, activity

    def is_locked(self) -> bool:
        """Whether a live process works on this run."""
        try:
            with lock(self.lock, shared=True, patience_s=0, required=False):
                return False
        except Busy:
            return True
        except OSError:  # nobody ever locked it, or nobody can
            return False

    def hold(self, *, patience_s: float = 5.0) -> AbstractContextManager[object]:
        """Hold the run's lock. Raises Busy when another process has it (readers let go within
        microseconds). Where the file system has no locks, claims and the queue must do.
        """
        return lock(self.lock, patience_s=patience_s, required=False)

    def clear_the_way(self) -> None:
        """Where something else is in the place of one of its files or folders, rename it."""
        for folder in (self.last.parent, self.evaluations, self.scratch):
            if os.path.lexists(folder) and not folder.is_dir():
                log.warning("%s is no folder; now %s", folder, set_aside(folder).name)
        for file in (
            self.resources, self.env, self.metrics, self.last, self.previous, self.best, self.log, self.error,
            self.result, self.asked, self.progress, self.job, self.starts, self.outcome, self.stop, self.lock,
        ):  # fmt: skip
            if os.path.lexists(file) and not file.is_file():
                log.warning("%s is no file; now %s", file, set_aside(file).name)

    def mend(self) -> None:
        """Rename results that are not what was written, so that they are made again, and remove what
        killed writers left. Whoever holds the lock may.
        """
        clear_leftovers(self.path)
        for damaged in self.damage():
            log.warning("%s; now %s, made again", damaged, set_aside(damaged.path).name)

    def set_aside(self) -> Path | None:
        """Move the directory to `<runs>/replaced/`, so that --force starts afresh and nothing is
        lost.
        """
        if not os.path.lexists(self.path):
            return None
        target = (
            self.path.parent / "replaced" / f"{self.signature}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        for n in range(1, 1000):
            if not target.exists():
                break
            target = target.with_name(f"{target.name.split('.')[0]}.{n}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.path, target)
        return target


def _activity(claim: Mapping[str, Any], ended: Mapping[str, Any]) -> Activity:
    """Of a cell that has neither result nor error and that no process has locked."""
    if claim.get("launcher") == "slurm":
        return Activity.UNKNOWN if not ended or ended.get("goes_on") else Activity.IDLE
    here = claim.get("host") == os.uname().nodename
    return Activity.ACTIVE if here and is_alive(claim) else Activity.IDLE


def manifest_path(runs: Path, name: str) -> Path:
    """Where a sweep records which labels belong to which signatures."""
    return runs / "sweeps" / f"{name}.json"


def manifests(runs: Path) -> list[Path]:
    return sorted((runs / "sweeps").glob("*.json"))


def evaluated_path(runs: Path, slug: str) -> Path:
    """The result of a model that was evaluated without being a run of this suite. What it kept is
    in the folder of the same name, laid out like a run directory."""
    return Path(runs) / "evaluated" / f"{slug}.json"


def jobs_folder(runs: Path) -> Path:
    """What launchers keep: a folder per batch of SLURM jobs, code snapshots, output of local jobs."""
    return runs / ".jobs"
