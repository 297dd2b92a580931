"""The supervisor of a job: starts the processes (ranks) of its cells, passes signals on to them, and
writes down how a cell ended where its own processes could not.

    python -m bench.launch.supervisor RUN_DIR...     one cell, or cells packed into one slot (local.py starts it)
    Task(folder)()                     one task of a SLURM array, on each of its nodes (slurm/submit.py)

A cell of one process writes its own end; the supervisor does when the process vanishes. Of a cell of
several, the supervisor picks the rank that failed first from those that only lost touch with it. Ranks
die with their supervisor, whatever kills it. It imports next to nothing, so it starts at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import selectors
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.launch import postmortem
from bench.launch.rank import Rank
from bench.process.environment import RankEnvironment
from bench.process.interrupt import EXIT_PREEMPTED, EXIT_PRUNED, SIGNALS
from bench.shown.streams import complain
from bench.store.failure import Failure
from bench.store.files import read_json
from bench.store.rundir import RunDir, State

COMMAND = (sys.executable, "-m", "bench.run")
"""What computes a cell, less its run directory."""
CLAIM_WAIT_S = 10.0  # the client writes the claim once it knows our process id
KILL_AFTER_S = 5.0  # ranks that were told to end because another one died
LEAVE_WITHIN_S = 60.0  # ranks after rank 0, which is the last to have work
SIGNAL_WAIT_S = 2.0  # a signal for the whole job reaches its processes one after the other
VERDICT_WAIT_S = 15.0  # for the node whose rank failed first to say so
EARLY_STOPS = 3  # in a row, before a job is not queued again
_POLL_S = 0.1  # at most; the end of a rank's stderr is noticed at once
_GOOD = (0, EXIT_PREEMPTED, EXIT_PRUNED)


class Place(NamedTuple):
    """Which job this is."""

    job: str  # "123_4", or "local:<pid>"
    claim: Mapping[str, Any]  # what the claim of a cell of ours says
    start: str  # the same on all nodes, another at each start
    node: int = 0
    nodes: int = 1

    @property
    def slurm(self) -> bool:
        return "batch" in self.claim

    def owns(self, run: RunDir) -> bool:
        claim = run.read_claim()
        return all(claim.get(key) == value for key, value in self.claim.items())


class RankGroup:
    """One cell of the job and its ranks on this node."""

    def __init__(
        self, run: RunDir, resources: Mapping[str, Any], place: Place, command: Sequence[str]
    ) -> None:
        self.run = run
        self.place = place
        self.devices = int(resources.get("devices", 1))
        self.world = place.nodes * self.devices
        self._first = place.node * self.devices
        self._before = run.read_outcome()
        self._deadline: float | None = None
        self._clear()
        threads = str(resources.get("threads", 1))
        self.ranks = [
            Rank(self._first + k, [*command, str(run.path)], self._environment(k, threads))
            for k in range(self.devices)
        ]

    def _environment(self, local: int, threads: str) -> dict[str, str]:
        told = RankEnvironment(
            job=self.place.job,
            claim=str(self.place.claim.get("batch") or self.place.claim["pid"]),
            start=self.place.start,
            rank=self._first + local,
            size=self.world,
            local_rank=local,
            local_size=self.devices,
        )
        return told.to_env() | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}

    def _clear(self) -> None:
        """Remove what ranks of this node wrote down for the case of a failure."""
        for number in range(self._first, self._first + self.devices):
            self.run.rank_error(number).unlink(missing_ok=True)
            self.run.rank_stack(number).unlink(missing_ok=True)
        if self.place.node == 0:
            for path in self.run.path.glob(self.run.rendezvous("*").name):
                path.unlink(missing_ok=True)

    def pass_on(self, number: int) -> None:
        for rank in self.ranks:
            rank.signal(number)

    def over(self) -> bool:
        """Whether all ranks have ended. Where one died, the others are made to."""
        for rank in self.ranks:
            rank.poll()
        alive = [rank for rank in self.ranks if rank.ended is None]
        if not alive:
            return True
        now = time.monotonic()
        ended = [rank for rank in self.ranks if rank.ended is not None]
        if any(rank.status not in _GOOD for rank in ended):
            for rank in alive:
                if signal.SIGTERM not in rank.told:
                    self._deadline = now + KILL_AFTER_S
                    rank.end(signal.SIGTERM)
        elif self._deadline is None and any(rank.number == 0 for rank in ended):
            self._deadline = now + LEAVE_WITHIN_S
        if self._deadline is not None and now > self._deadline:
            for rank in alive:
                rank.end(signal.SIGKILL)
        return False

    def write_outcome(self, received: list[int]) -> None:
        """Write down how it ended, unless its processes did."""
        run = self.run
        causes = postmortem.causes(run, self.ranks, several=self.world > 1)
        if run.is_done() or (self._said_so() and all(cause.lost for cause in causes)):
            self._clear()
        elif run.error.exists() or _locked(run) or not self.place.owns(run):
            return  # said by the rank itself or by another node, or no longer ours
        elif not causes and self.place.node != 0:
            return  # rank 0 says it
        elif self._was_stopped(received):
            self._stopped_early()
            self._clear()
        else:
            self._failed(min(causes, key=postmortem.Cause.order, default=None))

    def _said_so(self) -> bool:
        """Whether rank 0 wrote, in this start, that it stopped as it was told to."""
        ended = self.run.read_outcome()
        return ended != self._before and ended.get("state") in (State.PREEMPTED, State.PRUNED)

    def _was_stopped(self, received: list[int]) -> bool:
        """Whether the ranks did nothing but obey a signal to the job, be it with the default action
        because they had not got further than importing.
        """
        stops = (EXIT_PREEMPTED, *(-number for number in SIGNALS))
        if not all(rank.status in (0, *stops) or rank.stopped_by_us for rank in self.ranks):
            return False
        if any(rank.status == EXIT_PREEMPTED for rank in self.ranks):
            return True
        deadline = time.monotonic() + SIGNAL_WAIT_S
        while not received and time.monotonic() < deadline:
            time.sleep(0.05)
        return bool(received) and any(rank.status in stops for rank in self.ranks)

    def _stopped_early(self) -> None:
        facts: dict[str, Any] = {"host": os.uname().nodename, "job": self.place.job}
        stops = int(self._before.get("early_stops", 0)) + 1
        if self.place.slurm and stops > EARLY_STOPS:
            self.run.write_outcome(
                State.FAILED,
                Failure.NO_PROGRESS,
                reason=f"stopped {stops} times in a row before it had begun to train: give it a longer "
                "resources.slurm.time or a smaller resources.slurm.signal_delay_s",
                **facts,
            )
            return
        self.run.write_outcome(
            State.PREEMPTED,
            reason="stopped before it had begun",
            goes_on=self.place.slurm,
            early_stops=stops,
            **facts,
        )

    def _failed(self, cause: postmortem.Cause | None) -> None:
        if cause is None:
            status = [rank.status for rank in self.ranks]
            text = f"the processes of this cell ended without a result, with exit status {status}"
            cause = postmortem.Cause(self._first, Failure.KILLED, text, time.time())
        elif cause.lost and self.place.nodes > 1:
            deadline = time.monotonic() + VERDICT_WAIT_S
            while time.monotonic() < deadline:
                if self.run.error.exists() or self.run.is_done():
                    return
                time.sleep(0.2)
        self.run.write_outcome(
            State.FAILED,
            cause.kind,
            reason=cause.text.strip().splitlines()[-1],
            traceback=cause.text,
            rank=cause.rank,
            host=os.uname().nodename,
            job=self.place.job,
        )


def supervise(
    runs: Sequence[RunDir],
    place: Place,
    *,
    received: list[int],
    resources: Mapping[str, Any] | None = None,
    command: Sequence[str] = COMMAND,
) -> None:
    """Start the cells (`resources`: of each; else as their directories say) and stay until all have
    ended. `received` grows by the signals that come.
    """
    cells = [RankGroup(run, resources or run.read_resources(), place, command) for run in runs]
    passed = 0
    with selectors.DefaultSelector() as selector:
        for rank in (rank for cell in cells for rank in cell.ranks):
            selector.register(rank.stderr, selectors.EVENT_READ, rank)
        while cells:
            if not selector.get_map():
                time.sleep(0.01)
            for key, _ in selector.select(_POLL_S if selector.get_map() else 0):
                if not key.data.read():
                    selector.unregister(key.fileobj)
            while passed < len(received):
                for cell in cells:
                    cell.pass_on(received[passed])
                passed += 1
            for cell in [cell for cell in cells if cell.over()]:
                cells.remove(cell)
                for rank in cell.ranks:
                    with contextlib.suppress(KeyError):
                        selector.unregister(rank.stderr)
                    rank.stderr.close()
                _write_down(cell, received)


def _write_down(cell: RankGroup, received: list[int]) -> None:
    """How it ended. Where that cannot be written, it goes on as one that was killed."""
    try:
        cell.write_outcome(received)
    except OSError as error:
        _say(f"{cell.run.path}: how it ended cannot be written down: {error}")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be a file on the same disk
        complain(text)
        sys.stderr.flush()


def outcome_of(run: RunDir) -> State | None:
    """How the cell ended under its claim, or None."""
    if run.is_done():
        return State.DONE
    if run.error.exists():
        return State.FAILED
    state = run.read_outcome().get("state")
    return State(state) if state else None


class Task:
    """A task of a SLURM array, as submitit runs it: batch.json in the folder says which cells."""

    def __init__(self, folder: str | Path, command: Sequence[str] = COMMAND) -> None:
        self.folder = str(folder)
        self.command = tuple(command)

    def __call__(self) -> None:
        """Raises RuntimeError when a cell failed, so that the job counts as failed."""
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's
        received = _listen()
        batch = read_json(Path(self.folder) / "batch.json")
        if batch is None:
            raise RuntimeError(f"{self.folder}/batch.json cannot be read: submit the sweep again")
        place = _slurm_place(str(batch["batch"]))
        names = batch["cells"][place.claim["task"]]
        runs = [run for name in names if place.owns(run := RunDir(Path(batch["runs"]) / name))]
        over = (State.DONE, State.FAILED, State.PRUNED)
        supervise(
            [run for run in runs if outcome_of(run) not in over],
            place,
            received=received,
            resources=batch.get("resources"),
            command=self.command,
        )
        stopped = [run for run in runs if outcome_of(run) == State.PREEMPTED]
        if stopped and signal.SIGUSR2 in received and place.node == 0 and callable(requeue):
            requeue(signal.SIGUSR2, None)  # and exits
        failed = [run for run in runs if outcome_of(run) == State.FAILED]
        if failed:
            raise RuntimeError("\n".join(f"{run.signature}: {run.error_line()}" for run in failed))

    def checkpoint(self) -> Any:
        """What submitit queues again: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _slurm_place(batch: str) -> Place:
    env = os.environ
    task = int(env["SLURM_ARRAY_TASK_ID"])
    return Place(
        job=f"{env['SLURM_ARRAY_JOB_ID']}_{task}",
        claim={"launcher": "slurm", "batch": batch, "task": task},
        start=f"{batch}-{task}-{env.get('SLURM_RESTART_COUNT', '0')}",
        node=int(env.get("SLURM_NODEID", 0)),
        nodes=int(env.get("SLURM_JOB_NUM_NODES", 1)),
    )


def _listen() -> list[int]:
    """From now on SIGUSR2 and SIGTERM only add their numbers to the list."""
    received: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: received.append(number))
    return received


def _locked(run: RunDir) -> bool:
    """Whether a process that is not ours works on the run (ours are dead, their helpers soon)."""
    deadline = time.monotonic() + SIGNAL_WAIT_S
    while run.is_locked():
        if time.monotonic() > deadline:
            return True
        time.sleep(0.05)
    return False


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 all done (or not ours), 1 a cell failed, 75 stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.launch.supervisor",
        description="Supervise cells; the local launcher starts this.",
    )
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument(
        "--command", type=shlex.split, default=COMMAND, help="what computes a cell, for tests"
    )
    options = parser.parse_args(arguments)
    received = _listen()
    pid = os.getpid()
    claim = {"launcher": "local", "pid": pid, "host": os.uname().nodename}
    place = Place(f"local:{pid}", claim, secrets.token_hex(6))
    runs = [RunDir(path.absolute()) for path in options.run_dirs]
    deadline = time.monotonic() + CLAIM_WAIT_S
    while not all(place.owns(run) for run in runs) and time.monotonic() < deadline:
        time.sleep(0.01)
    ours = [run for run in runs if place.owns(run)]
    for run in runs:
        if run not in ours:
            complain(f"{run.path} was given to another job: left alone")
    supervise(ours, place, received=received, command=options.command)
    states = {outcome_of(run) for run in ours}
    return (
        1 if states & {State.FAILED, None} else EXIT_PREEMPTED if State.PREEMPTED in states else 0
    )


if __name__ == "__main__":
    sys.exit(main())
