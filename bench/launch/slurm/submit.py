"""Handing one array of cells to sbatch so that each cell is submitted once, whenever the client dies.

Order: what the jobs need goes to <runs>/.jobs/<batch>/, then the claims of the cells, then sbatch.
From there on the jobs need nothing from the client, and the queue shows the batch in their name. All
of it happens under a lock that sbatch inherits (store.claims.submitting), so a claim whose batch the
next client does not find in the queue never reached SLURM. A refusal leaves everything as it was.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from submitit.helpers import DelayedSubmission

from bench.config.resources import Resources
from bench.launch.slurm.queue import batch_folder, clean_environment
from bench.launch.slurm.script import LONG_TIMEOUTS, job_name, script_text
from bench.launch.supervisor import Task
from bench.store.claims import submitting
from bench.store.files import write_json, write_text
from bench.store.rundir import RunDir


class Answer(Enum):
    """What sbatch made of an array."""

    TAKEN = "the cells are in the queue, or another client was faster"
    FULL = "SLURM has enough of our jobs for now"
    TOO_BIG = "an array must not have so many jobs"
    UNSURE = "the controller did not answer: the jobs may be in the queue or not"
    REFUSED = "this will never do"


_WORDS = {
    Answer.TOO_BIG: re.compile(r"Invalid job array specification"),
    Answer.UNSURE: re.compile(
        r"Socket timed out|Unable to contact|Zero Bytes|connection failure|Connection (refused|reset)|"
        r"Unexpected message"
    ),
    Answer.FULL: re.compile(
        r"QOSMaxSubmit|AssocMaxSubmit|AssocGrpSubmit|QOSGrpSubmit|accounting/QOS policy|"
        r"Resource temporarily unavailable|temporarily unable to accept|MaxJobCount"
    ),
}


@dataclass(frozen=True)
class Version:
    """A run as it was when a client read it: whatever is done with the cell makes another version."""

    run: RunDir = field(compare=False)
    batch: str | None
    submitted: float | None
    ended: float | None

    @classmethod
    def of(cls, run: RunDir) -> Version:
        claim = run.read_claim()
        return cls(run, claim.get("batch"), claim.get("submitted"), run.read_outcome().get("time"))

    def is_current(self) -> bool:
        """To be asked while holding the lock under which cells are claimed."""
        return Version.of(self.run) == self and not self.run.is_locked()


@dataclass(frozen=True)
class JobArray:
    """What the arrays of one shape share."""

    runs: Path
    sweep: str
    code: Path  # the snapshot
    resources: Resources
    gpus: int
    after: str = ""  # the job of what the cells start from


class Submission(NamedTuple):
    answer: Answer
    words: str = ""  # of sbatch
    job: str = ""
    tasks: int = 0  # jobs in the array; fewer than asked for where another client was faster
    cells: tuple[RunDir, ...] = ()  # claimed and not taken back


def submit(batch: JobArray, groups: Sequence[Sequence[Version]]) -> Submission:
    """Claim the cells and hand them over as one array, a group per task; without those with which
    something was done since their version was read.
    """
    name = uuid.uuid4().hex[:12]
    folder = batch_folder(batch.runs, name)
    with submitting(batch.runs) as lock:
        free = [[version.run for version in group if version.is_current()] for group in groups]
        tasks = [task for task in free if task]
        if not tasks:
            return Submission(Answer.TAKEN)
        cells = tuple(run for task in tasks for run in task)
        _write(folder, name, batch, tasks)
        claim = {"launcher": "slurm", "batch": name, "code": batch.code.name}
        taken = [
            _Claim.take(run, {**claim, "task": i}) for i, task in enumerate(tasks) for run in task
        ]
        job, words = _sbatch(folder / "submission.sh", lock)
        if job:
            write_text(folder / "job_id", f"{job}\n")
            return Submission(Answer.TAKEN, "", job, len(tasks), cells)
        answer = next((a for a, known in _WORDS.items() if known.search(words)), Answer.REFUSED)
        if answer == Answer.UNSURE:
            return Submission(answer, words, "", len(tasks), cells)
        for held in taken:
            held.give_back()
        shutil.rmtree(folder, ignore_errors=True)
        return Submission(answer, words)


@dataclass
class _Claim:
    """A claim that can be given back: what the run directory said before."""

    run: RunDir
    claim: dict[str, Any]
    outcome: dict[str, Any]
    error: str | None

    @classmethod
    def take(cls, run: RunDir, claim: dict[str, Any]) -> _Claim:
        error = run.error.read_text(encoding="utf-8") if run.error.exists() else None
        before = cls(run, run.read_claim(), run.read_outcome(), error)
        run.claim(claim)
        return before

    def give_back(self) -> None:
        if self.claim:
            write_json(self.run.job, self.claim)
        else:
            self.run.job.unlink(missing_ok=True)
        if self.outcome:
            write_json(self.run.outcome, self.outcome)
        if self.error is not None:
            write_text(self.run.error, self.error)


def _write(folder: Path, name: str, batch: JobArray, tasks: Sequence[Sequence[RunDir]]) -> None:
    """All that the jobs need, before any of them can start."""
    text = script_text(
        batch.resources,
        name=job_name(batch.sweep, name),
        folder=folder,
        code=batch.code,
        count=len(tasks),
        gpus=batch.gpus,
        after=batch.after,
    )
    content = {
        "batch": name,
        "sweep": batch.sweep,
        "cells": [[run.signature for run in task] for task in tasks],
        "runs": str(batch.runs),
        "code": batch.code.name,
        "resources": batch.resources.model_dump(mode="json"),
    }
    write_json(folder / "batch.json", content)
    task = DelayedSubmission(Task(folder))
    task.set_timeout(batch.resources.slurm.minutes(), LONG_TIMEOUTS)
    task.dump(folder / "task.pkl")
    write_text(folder / "submission.sh", text)


def _sbatch(script: Path, lock: int) -> tuple[str, str]:
    """(job id, "") or ("", what sbatch said).

    It gets a session of its own and is not killed when the client is interrupted, and it holds the
    lock as long as it lives.
    """
    try:
        process = subprocess.Popen(
            ["sbatch", "--parsable", str(script)],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=(lock,),
            start_new_session=True,
        )
    except OSError as problem:
        return "", f"sbatch: {problem.strerror}"
    out, err = process.communicate()
    match = re.match(r"(\d+)", out.strip())
    if process.returncode == 0 and match:
        return match[1], ""
    return "", err.strip() or out.strip() or f"exit status {process.returncode}"
