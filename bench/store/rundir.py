"""The run directory `runs/<signature>/`: paths, atomic writes, and the state of a run read from its
files.

The only module that knows file names. State comes from files alone, so any process on any machine
that sees the directory reads the same answer; a lock that the running process holds (and that the
kernel drops when it dies, however it dies) tells a live run from a dead one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bench.process.machine import is_alive
from bench.store.evaluations import EvaluationDir
from bench.store.failure import Failure
from bench.store.files import (
    Busy,
    dump_yaml,
    load_yaml,
    lock,
    read_json,
    read_lines,
    write_json,
    write_text,
)
from bench.store.state import Activity, RunStatus, State

_DIGEST = "# sha256 of the training config: "
_EARLIER_DIGEST = "# sha256 of the full config: "  # as long as signatures also signed evaluations


class RunDir:
    """One run's files."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    # Properties, because a plan of thousands of cells makes this object for each of them.

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
    def best(self) -> Path:
        return self.path / "checkpoint/best.pt"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def error(self) -> Path:
        return self.path / "error.txt"

    @property
    def result(self) -> Path:
        """What training came to; that it exists means that the weights are final."""
        return self.path / "result.json"

    @property
    def asked(self) -> Path:
        """What the client that started it last asks to be measured: see `read_asked`."""
        return self.path / "evaluations.json"

    @property
    def evaluations(self) -> Path:
        """A folder for each evaluation that is through, see `evaluation`."""
        return self.path / "evaluations"

    def evaluation(self, identity: str) -> EvaluationDir:
        """`identity`: <name>-<digest>"""
        return EvaluationDir(self.evaluations / identity)

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

        The digest in the first line lets a plan of thousands of cells check for drift without
        parsing them all.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config.exists():
            write_text(self.config, f"{_DIGEST}{digest}\n{dump_yaml(config)}")
        write_text(self.resources, dump_yaml(resources))
        if asked is not None:
            write_json(self.asked, asked)

    def config_digest(self) -> str | None:
        """The digest that `create` was given, or None when there is no config."""
        line = self._first_line()
        return None if line is None else line.removeprefix(_DIGEST).strip()

    def signs_evaluations(self) -> bool:
        """Whether its name was made when signatures also signed evaluations."""
        return (self._first_line() or "").startswith(_EARLIER_DIGEST)

    def _first_line(self) -> str | None:
        try:
            with self.config.open(encoding="utf-8") as handle:
                return handle.readline()
        except FileNotFoundError:
            return None

    def read_config(self) -> dict[str, Any]:
        return load_yaml(self.config)

    def read_resources(self) -> dict[str, Any]:
        return load_yaml(self.resources)

    def read_result(self) -> dict[str, Any] | None:
        return read_json(self.result)

    def read_asked(self) -> dict[str, dict[str, Any]] | None:
        """<name>-<digest> -> {evaluation, version, options, input}; None where nothing was written."""
        return read_json(self.asked)

    def measured(self) -> set[str]:
        """The evaluations that are through, by <name>-<digest>."""
        try:
            with os.scandir(self.evaluations) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            return set()
        return {name for name in names if self.evaluation(name).result.exists()}

    def is_done(self) -> bool:
        """Whether it is trained, and all that was asked of its last start is measured."""
        if not self.result.exists():
            return False
        asked = self.read_asked()
        return not asked or asked.keys() <= self.measured()

    def read_measured(
        self, asked: Collection[str] | None = None
    ) -> list[tuple[EvaluationDir, dict[str, Any] | None]]:
        """The evaluations of these (of all) that are through, with their results as far as these can
        be read.
        """
        identities = self.measured() if asked is None else self.measured() & set(asked)
        folders = [self.evaluation(identity) for identity in sorted(identities)]
        return [(folder, folder.read_result()) for folder in folders]

    def read_rows(self, asked: Collection[str] | None = None) -> list[dict[str, Any]]:
        """What these evaluations (all) measured. Rows of a run that was made when training and
        evaluations had one result are found for every evaluation that has no other.
        """
        results = [found or {} for _, found in self.read_measured(asked)]
        earlier = (self.read_result() or {}).get("rows", [])
        anew = {found.get("evaluation") for found in results}
        rows = [row for row in earlier if row["evaluation"] not in anew]
        return rows + [row for found in results for row in found.get("rows", [])]

    def read_progress(self) -> dict[str, Any]:
        return read_json(self.progress) or {}

    def error_line(self) -> str:
        """The last line of the traceback: what the user wants to see first."""
        try:
            lines = [
                line for line in self.error.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
        except OSError:
            return ""
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
        return read_json(self.job) or {}

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
            write_text(self.error, traceback or f"{reason}\n")
        write_json(self.outcome, {**record, "time": time.time()})

    def read_outcome(self) -> dict[str, Any]:
        return read_json(self.outcome) or {}

    def read_starts(self) -> list[dict[str, Any]]:
        """All starts so far; a line that was cut short by a kill is left out."""
        return read_lines(self.starts)

    # -- state ---

    def state(self) -> State:
        """What the files say. STALE and SKIPPED are the plan's to say.

        Of a cell that SLURM was given and that has not ended, only the queue knows more: here it is
        PENDING (or PREEMPTED, when it was stopped and waits to go on).
        """
        return self.status().state

    def status(self) -> RunStatus:
        """The state, and whether somebody is going to work on the cell, as far as files tell."""
        if self.is_done():
            return RunStatus(State.DONE, Activity.IDLE)
        if not self.config.exists():
            return RunStatus(State.NEW, Activity.IDLE)
        if self.is_locked():
            return RunStatus(State.RUNNING, Activity.ACTIVE)
        if self.error.exists():
            return RunStatus(State.FAILED, Activity.IDLE)
        claim, ended = self.read_claim(), self.read_outcome()
        activity = _activity(claim, ended)
        if ended:
            return RunStatus(State(ended["state"]), activity)
        if activity != Activity.IDLE:
            return RunStatus(State.PENDING, activity)
        return RunStatus(State.INTERRUPTED if self.env.exists() else State.NEW, activity)

    def is_locked(self) -> bool:
        """Whether a live process works on this run."""
        try:
            with lock(self.lock, shared=True, patience_s=0, required=False):
                return False
        except FileNotFoundError:
            return False
        except Busy:
            return True

    def hold(self, *, patience_s: float = 5.0) -> AbstractContextManager[object]:
        """Hold the run's lock. Raises Busy when another process has it (readers let go within
        microseconds). Where the file system has no locks, claims and the queue must do.
        """
        return lock(self.lock, patience_s=patience_s, required=False)

    def set_aside(self) -> Path | None:
        """Move the directory to `<runs>/replaced/`, so that --force starts afresh and nothing is
        lost.
        """
        if not self.path.exists():
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
