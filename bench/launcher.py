"""Getting cells computed: inline in this process, or through submitit as local processes, several
at once.

submitit's local executor has no queue, so this module keeps one: at most `slots` cells run, the
next starts when one ends, whatever its end. State is read from the run directories, never from job
objects: a cell started by a sweep that was killed meanwhile is found RUNNING and waited for, not
started twice.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from bench.config import Resources
from bench.data.pack import available_cores
from bench.run import run_cell
from bench.rundir import RunDir, State, jobs_folder, process_started, write_json, write_text

POLL_S = 0.2


@dataclass
class Job:
    """A cell that was handed to submitit."""

    run: RunDir
    handle: Any  # submitit.Job


OnChange = Callable[[RunDir, State], None]
"""Called when a cell's state changes."""


def slots(resources: Resources) -> int:
    """How many cells run at once on this machine: one per GPU user or per `threads` cores."""
    if _uses_gpu(resources):
        return 1
    return max(1, available_cores() // resources.threads)


def _uses_gpu(resources: Resources) -> bool:
    import torch

    return torch.cuda.is_available() if resources.device == "auto" else resources.device != "cpu"


def run_inline(runs: list[RunDir], on_change: OnChange, tick: Callable[[], None]) -> None:
    """One cell after the other in this process; for debugging (`breakpoint()` works)."""
    for run in runs:
        on_change(run, State.RUNNING)
        run_cell(run.path)
        on_change(run, run.state())
        tick()


def run_local(
    runs: list[RunDir],
    resources: Resources,
    *,
    folder: Path,
    on_change: OnChange,
    tick: Callable[[], None],
) -> None:
    """Every cell in its own process, at most `slots` at once; returns when all have ended, however
    they ended.
    """
    executor = submitit.AutoExecutor(folder=jobs_folder(folder), cluster="local")
    executor.update_parameters(
        timeout_min=60 * 24 * 365, gpus_per_node=1 if _uses_gpu(resources) else 0
    )
    waiting = deque(runs)
    running: list[Job] = []
    others: list[RunDir] = []
    free = slots(resources)
    try:
        while waiting or running or others:
            while waiting and len(running) < free:
                run = waiting.popleft()
                if run.state() in (State.RUNNING, State.PENDING):
                    others.append(run)  # started by another sweep, perhaps one that was killed
                    on_change(run, State.RUNNING)
                    continue
                running.append(_submit(executor, run))
                on_change(run, State.RUNNING)
            for job in [j for j in running if j.handle.done()]:
                running.remove(job)
                on_change(job.run, _settle(job))
            for run in [r for r in others if r.state() not in (State.RUNNING, State.PENDING)]:
                others.remove(run)
                if run.state() == State.DONE:
                    on_change(run, State.DONE)
                else:
                    waiting.append(run)
            tick()
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        for job in running:
            job.handle.cancel()
        raise


def _submit(executor: Any, run: RunDir) -> Job:
    handle = executor.submit(run_cell, str(run.path.resolve()))
    pid = int(handle.job_id) if str(handle.job_id).isdigit() else None
    job = {
        "launcher": "local",
        "job_id": handle.job_id,
        "pid": pid,
        "pid_started": process_started(pid) if pid else None,
        "host": os.uname().nodename,
        "submitted": time.time(),
        "stdout": str(handle.paths.stdout),
    }
    write_json(run.job, job)
    return Job(run, handle)


def _settle(job: Job) -> State:
    """The state a cell ended in. A process that vanished without a word leaves an error the user
    can read.
    """
    state = job.run.state()
    if state in (State.DONE, State.FAILED, State.RUNNING):
        return state
    stderr = job.handle.stderr() or ""
    last = "\n".join(stderr.strip().splitlines()[-20:])
    write_text(
        job.run.error,
        f"{last}\nthe process of this cell ended without a result: it was killed (out of memory?) or crashed; "
        f"its output: {job.handle.paths.stderr}\n",
    )
    return State.FAILED
