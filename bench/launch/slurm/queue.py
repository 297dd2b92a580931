"""What SLURM's queue knows of cells, and the lock under which cells are handed to it.

Files come first (`RunDir.status`); the queue is asked only what they cannot tell: whether a job that
was submitted and has not ended is still there. One call of squeue answers for all cells. A job says
by its name which batch it is, so the answer does not depend on what a client wrote down after sbatch.
When squeue does not answer, nothing is concluded: every open cell stays open.
"""

from __future__ import annotations

import logging
import os
import pwd
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.store.claims import LOCK_PATIENCE_S, submitting
from bench.store.failure import Failure
from bench.store.rundir import Activity, RunDir, RunStatus, State, jobs_folder

log = logging.getLogger(__name__)

_FORMAT = "%i|%U|%T|%N|%S|%r|%j"  # of QueueRow, in this order
COMMAND_TIMEOUT_S = 60.0
TAIL_LINES = 20

_PREFIXES = (
    "SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_",
    "SUBMITIT_", "BENCH_", "PMI_", "PMIX_", "OMPI_", "MASTER_", "TORCHELASTIC_",
)  # fmt: skip
_NAMES = {
    "RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
}  # fmt: skip

# Of a job that is through. Everything else that squeue may say (RUNNING, COMPLETING, REQUEUED ...)
# is a job that still has something to do.
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
_WAITS = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_KIND = {
    "TIMEOUT": Failure.TIMEOUT,
    "DEADLINE": Failure.TIMEOUT,
    "NODE_FAIL": Failure.NODE_FAIL,
    "BOOT_FAIL": Failure.NODE_FAIL,
    "OUT_OF_MEMORY": Failure.OOM,
    "CANCELLED": Failure.CANCELLED,
}


class CommandResult(NamedTuple):
    """What a command of SLURM said. `ok` is False also when it is missing or does not come back."""

    ok: bool
    out: str
    error: str


def clean_environment() -> dict[str, str]:
    """This process's environment as it would be on a login node: without what SLURM, torchrun or
    this suite put there for the job that the client may itself run in.
    """
    inside = "SLURM_JOB_ID" in os.environ
    return {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF"
        or not (
            name.startswith(_PREFIXES)
            or name in _NAMES
            or (inside and name == "TMPDIR")  # often a folder that ends with that job
        )
    }


def ask(command: list[str], *, timeout_s: float = COMMAND_TIMEOUT_S) -> CommandResult:
    """Run a command that changes nothing. Never raises."""
    try:
        done = subprocess.run(
            command,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return CommandResult(False, "", f"{command[0]} did not answer within {timeout_s:.0f} s")
    except OSError as error:
        return CommandResult(False, "", f"{command[0]}: {error.strerror}")
    return CommandResult(done.returncode == 0, done.stdout, done.stderr.strip())


def batch_folder(runs: Path, batch: str) -> Path:
    return jobs_folder(runs) / batch


@dataclass(frozen=True)
class QueueRow:
    """A job, or one element of an array, as squeue shows it."""

    job: str
    user: int
    state: str
    node: str
    begin: str
    reason: str
    name: str

    @property
    def open(self) -> bool:
        return self.state not in _ENDED

    @property
    def key(self) -> tuple[str, int] | None:
        """(batch, task), or None for a job that is not ours."""
        match = re.fullmatch(r"bench-.*-([0-9a-f]{12})", self.name)
        task = self.job.partition("_")[2]
        return (match[1], int(task)) if match and task.isdigit() else None


class Queue:
    """The jobs of the cells of one runs folder.

    `refresh` asks SLURM once; `status` and `statuses` then answer for any number of cells, and
    write down how a cell ended whose job is gone without a word.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = Path(runs)
        self.trouble = "not asked yet"
        """Why SLURM's answer is missing; empty when squeue answered."""
        self.rows: list[QueueRow] = []
        self._by_cell: dict[tuple[str, int], QueueRow] = {}
        self._submitted: set[str] = set()
        self._sacct: dict[str, str] = {}
        self._sacct_asked: set[str] = set()
        self._sacct_fails = False

    def refresh(self) -> None:
        """One call of squeue. Never raises: see `trouble`."""
        owners = self._list_batches()
        answer = ask(
            ["squeue", "-r", "-h", "-t", "all", "-u", ",".join(sorted(owners)), "-o", _FORMAT]
        )
        if not answer.ok:
            was, self.trouble = self.trouble, answer.error or "squeue failed without a word"
            self.rows, self._by_cell = [], {}
            if was != self.trouble:
                log.warning("the queue is unknown for now, nothing changes: %s", self.trouble)
            return
        self.trouble = ""
        self.rows = [row for line in answer.out.splitlines() if (row := _parse(line)) is not None]
        self._by_cell = {row.key: row for row in self.rows if row.key is not None}

    def _list_batches(self) -> set[str]:
        """Note which batches have been handed to SLURM for good, before squeue is asked: a job of
        such a batch that squeue does not show has ended. Returns the names of users with batches.

        A batch that is made later, or is under way, is not in the set, so nothing is concluded from
        its absence; nor from the absence of another user's, which SLURM may hide.
        """
        me = os.getuid()
        owners, mine = {me}, set()
        try:
            with submitting(self.runs, patience_s=LOCK_PATIENCE_S):
                for entry in os.scandir(jobs_folder(self.runs)):
                    if re.fullmatch(r"[0-9a-f]{12}", entry.name):
                        owner = entry.stat().st_uid
                        owners.add(owner)
                        if owner == me:
                            mine.add(entry.name)
        except OSError:  # the lock is taken (TimeoutError is one) or the folder not ours
            mine = set()
        self._submitted = mine
        return {str(me)} | {name for owner in owners if (name := _user_name(owner))}

    def my_open_jobs(self) -> int:
        """Jobs of this user that are in the queue, whatever they are."""
        return sum(row.open and row.user == os.getuid() for row in self.rows)

    def status(self, run: RunDir) -> RunStatus:
        """Of one cell, by its files and the last `refresh`."""
        return self.statuses([run])[run.signature]

    def statuses(self, runs: Iterable[RunDir]) -> dict[str, RunStatus]:
        """The same for many, by signature; asks sacct at most once for those that are gone."""
        found: dict[str, RunStatus] = {}
        gone: list[tuple[RunDir, dict[str, Any]]] = []
        for run in runs:
            claim = run.read_claim()
            status = self._by_row(run, claim)
            if status is None:
                gone.append((run, claim))
            else:
                found[run.signature] = status
        if gone:
            cells = {(claim["batch"], claim["task"]) for _, claim in gone}
            self._ask_sacct({batch for batch, task in cells if (batch, task) not in self._by_cell})
        for run, claim in gone:
            found[run.signature] = self._end_vanished(run, claim)
        return found

    def _by_row(self, run: RunDir, claim: dict[str, Any]) -> RunStatus | None:
        """None: the job is gone and the files do not say how the cell ended."""
        # The claim is read before the files and the files after squeue: a job that squeue did not
        # show any more has written all it had to say.
        status = run.status()
        if claim.get("launcher") != "slurm" or not status.busy:
            return status
        row = self._by_cell.get((claim.get("batch", ""), claim.get("task", -1)))
        if status.activity == Activity.ACTIVE:
            return status._replace(node=row.node, job=row.job) if row else status
        if self.trouble:
            return status._replace(reason=f"queue unknown: {self.trouble}")
        if row is None or not row.open:
            known = claim.get("batch") in self._submitted or row is not None
            return None if known else status._replace(reason="being submitted")
        if row.state in _WAITS:
            waits = State.PREEMPTED if began(run, claim) else State.PENDING
            expected = "" if row.begin in ("", "N/A", "Unknown") else f", expected {row.begin}"
            reason = f"{row.reason}{expected}"
            return RunStatus(waits, Activity.ACTIVE, reason=reason, job=row.job)
        state = State.PREEMPTED if _last_word(run) else State.RUNNING
        reason = "" if row.state == "RUNNING" else row.state
        return RunStatus(state, Activity.ACTIVE, row.node, reason, row.job)

    # -- jobs that are gone ---

    def _ask_sacct(self, batches: set[str]) -> None:
        """How jobs ended that squeue has forgotten. Many clusters have no accounting: never needed."""
        forgotten = sorted(batches - self._sacct_asked)
        self._sacct_asked |= batches
        ids = [job for batch in forgotten if (job := self._job_id(batch))]
        if not ids or self._sacct_fails:
            return
        answer = ask(
            ["sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", ",".join(ids)], timeout_s=20
        )
        self._sacct_fails = not answer.ok
        for line in answer.out.splitlines() if answer.ok else ():
            job, _, state = line.partition("|")
            self._sacct[job] = (state.split() or [""])[0]

    def _job_id(self, batch: str) -> str:
        """The array's id, as its jobs or the client wrote it down; empty when none did."""
        try:
            return (batch_folder(self.runs, batch) / "job_id").read_text().strip()
        except OSError:
            return ""

    def _end_vanished(self, run: RunDir, claim: dict[str, Any]) -> RunStatus:
        """Write down how a cell ended whose job is gone, unless somebody else was faster."""
        try:
            with submitting(self.runs, patience_s=LOCK_PATIENCE_S):
                if run.read_claim() == claim and is_open(run):
                    self._write_end(run, claim)
        except OSError as error:
            log.warning("%s: cannot write down how it ended: %s", run.path, error)
        return run.status()._replace(reason=run.read_outcome().get("reason", ""))

    def _write_end(self, run: RunDir, claim: dict[str, Any]) -> None:
        batch, task = claim["batch"], claim["task"]
        row = self._by_cell.get((batch, task))
        job = row.job if row else f"{self._job_id(batch)}_{task}"
        word = row.state if row else self._sacct.get(job, "")
        word = word if word in _ENDED else ""
        kind = _KIND.get(word)
        gone = f"job {job} ended{f' ({word})' if word else ''}"
        reason = f"{gone} without a word of the cell"
        facts: dict[str, Any] = {"job": job, "host": row.node if row else ""}
        if _last_word(run):  # it was told to stop, did, and will not be started again
            step = run.read_outcome().get("step")
            reason = f"{gone}; the checkpoint is of step {step}"
            run.write_outcome(State.PREEMPTED, kind, reason=reason, step=step, **facts)
        elif not began(run, claim):
            self._write_unbegun(run, job, word, facts)
        elif kind == Failure.OOM:
            text = f"{self._output(batch, job)}{reason}: more memory was used than asked for\n"
            run.write_outcome(State.FAILED, kind, reason=reason, traceback=text, **facts)
        else:
            run.write_outcome(State.INTERRUPTED, kind, reason=reason, **facts)

    def _write_unbegun(self, run: RunDir, job: str, word: str, facts: dict[str, Any]) -> None:
        """The job is gone and the cell never began: by whose fault?"""
        batch = run.read_claim()["batch"]
        output = self._output(batch, job)
        if word == "CANCELLED":
            reason = f"job {job} was cancelled before the cell began"
            run.write_outcome(State.INTERRUPTED, Failure.CANCELLED, reason=reason, **facts)
        elif word in ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED") or (
            not word and not output
        ):
            run.job.unlink(missing_ok=True)  # it never got to run: as if it had not been submitted
        else:
            path = batch_folder(self.runs, batch) / f"{job}_0_log.out"
            last = f"job {job} ended before the cell began; its output: {path}"
            kind = _KIND.get(word) or Failure.BUG
            run.write_outcome(
                State.FAILED, kind, reason=last, traceback=f"{output}{last}\n", **facts
            )

    def _output(self, batch: str, job: str) -> str:
        """The last lines that a job printed; empty when it printed nothing or did not start."""
        try:
            text = (batch_folder(self.runs, batch) / f"{job}_0_log.out").read_text(errors="replace")
        except OSError:
            return ""
        return "".join(f"{line}\n" for line in text.splitlines()[-TAIL_LINES:])


def is_open(run: RunDir) -> bool:
    """Whether SLURM was given the cell and no file says that it has ended."""
    return run.status().activity == Activity.UNKNOWN


def began(run: RunDir, claim: dict[str, Any]) -> bool:
    """Whether the cell was started under this claim."""
    return any(start.get("claimed") == claim["batch"] for start in run.read_starts())


def _last_word(run: RunDir) -> dict[str, Any]:
    """How the last start ended; empty when it left nothing (the record may be an earlier start's)."""
    ended, starts = run.read_outcome(), run.read_starts()
    if starts and starts[-1].get("time", 0) > ended.get("time", 0):
        return {}
    return ended


def _user_name(uid: int) -> str | None:
    """None for a user who is no more: squeue refuses to look for one."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _parse(line: str) -> QueueRow | None:
    parts = line.split("|", 6)
    if len(parts) != 7 or not parts[1].isdigit():
        return None
    job, user, state, node, begin, reason, name = parts
    return QueueRow(job, int(user), state, node, begin, reason, name)
