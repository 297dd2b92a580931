"""Getting cells computed on this machine: inline in this process, or each in processes of its own
under a supervisor (supervisor.py), as many at once as cores and GPUs allow.

State is read from the run directories, never from process objects: a cell that another client has
started, perhaps one that was killed meanwhile, is found at work and waited for, not started twice. GPUs
are leased with locks that the supervisors hold, so clients share a machine without knowing of each
other, and whatever dies gives its GPUs back.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from bench.config.resources import Resources
from bench.launch.item import Item, OnChange
from bench.process.interrupt import SIGNALS
from bench.process.machine import available_cores, process_started
from bench.store import snapshot
from bench.store.claims import submitting
from bench.store.failure import Failure, of_traceback
from bench.store.files import Busy, lock
from bench.store.rundir import RunDir, State, jobs_folder

log = logging.getLogger("bench")

POLL_S = 0.05
OTHERS_POLL_S = 0.5
LAST_LINES = 20


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use."""

    visible: str  # what CUDA_VISIBLE_DEVICES calls it
    lock: str  # the same for everybody on this machine


@dataclass(frozen=True)
class Slot:
    """What a supervisor occupies."""

    cores: int  # 0 where it has GPUs
    visible: str | None = None  # CUDA_VISIBLE_DEVICES; None: as it is here
    locks: tuple[int, ...] = ()  # descriptors of the GPUs' locks


@dataclass
class Supervised:
    """A supervisor that we started."""

    items: list[Item]
    process: subprocess.Popen[bytes]
    log: Path
    cores: int  # that it occupies

    @property
    def pid(self) -> int:
        return self.process.pid


def run_local(
    items: Sequence[Item],
    *,
    runs: Path,
    on_change: OnChange,
    tick: Callable[[], None],
    command: Sequence[str] = (),
) -> None:
    """Run every cell in its own processes, first come, first served; returns when all have ended,
    however they ended. `command`: what computes a cell instead of `python -m bench.run` (tests).

    Raises ValueError, before anything starts, for a cell that needs more GPUs than there are. On
    Ctrl-C the cells are told to stop, and waited for: they write their checkpoints.
    """
    queue = _Queue(items, runs, on_change, command)
    try:
        while queue.step():
            tick()
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        queue.stop()
        raise


def slots(resources: Resources) -> int:
    """How many cells (or packs of cells) of this kind run at once on this machine."""
    if uses_gpu(resources):
        return len(_gpus_for(resources)) // resources.devices
    return max(1, available_cores() // _cores(resources))


def uses_gpu(resources: Resources) -> bool:
    if resources.device == "auto":
        return bool(gpus())
    return resources.device != "cpu"


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process sees; CUDA_VISIBLE_DEVICES is respected."""
    import torch

    if not torch.cuda.is_available():
        return ()
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",")[:count] if named else [str(number) for number in range(count)]
    # Jobs of a shared node may each call their GPU 0: only its id tells whether it is the same one.
    ids = [getattr(torch.cuda.get_device_properties(number), "uuid", "") for number in range(count)]
    return tuple(Gpu(n.strip(), str(i) or n.strip()) for n, i in zip(names, ids, strict=True))


def _gpus_for(resources: Resources) -> tuple[Gpu, ...]:
    """The GPUs from which cells of this kind may take theirs."""
    _, colon, number = resources.device.partition(":")
    if not colon:
        return gpus()
    return gpus()[int(number) : int(number) + 1]


def _cores(resources: Resources) -> int:
    return resources.threads * resources.devices


class _Queue:
    """Cells that wait, cells that run, and cells that somebody else runs."""

    def __init__(
        self, items: Sequence[Item], runs: Path, on_change: OnChange, command: Sequence[str]
    ) -> None:
        check(items)
        self._runs = Path(runs)
        self._on_change = on_change
        self._command = tuple(command)
        self._code = snapshot.take(self._runs)
        self._waiting = deque(_packs(items))
        self._jobs: list[Supervised] = []
        self._others: list[Item] = []
        self._look_at_others = 0.0
        self._find_others()

    def step(self) -> bool:
        """Notice what has ended, start what fits. False when there is nothing left to do."""
        for job in [job for job in self._jobs if _is_over(job)]:
            self._jobs.remove(job)
            self._conclude(job)
        if self._others and time.monotonic() > self._look_at_others:
            self._look_at_others = time.monotonic() + OTHERS_POLL_S
            self._see_to_others()
        self._start_ready()
        return bool(self._waiting or self._jobs or self._others)

    def _start_ready(self) -> None:
        """Start, in their order, the packs whose parents are trained, as long as there is a slot."""
        left: deque[list[Item]] = deque()
        # By parent, each looked at once: many may wait for the same.
        ready: dict[str, bool] = {}
        coming: dict[str, bool] = {}
        while self._waiting:
            pack = self._waiting.popleft()
            after = pack[0].after
            parent = after.signature if after else ""
            if parent not in ready:
                ready[parent] = pack[0].is_ready()
            if ready[parent]:
                if not self._start(pack):
                    left.append(pack)
                    break
                continue
            if parent not in coming:
                coming[parent] = self._is_coming(after, left)
            if coming[parent]:
                left.append(pack)
            else:  # what it starts from failed
                for item in pack:
                    self._on_change(item.run, item.run.state())
        self._waiting.extendleft(reversed(left))

    def _is_coming(self, parent: RunDir | None, left: deque[list[Item]]) -> bool:
        """Whether a run will still be tried: it waits, or somebody works on it."""
        ours = [*left, *self._waiting, *(job.items for job in self._jobs), self._others]
        assert parent is not None
        waits = any(i.run.signature == parent.signature for items in ours for i in items)
        return waits or parent.status().busy

    def stop(self) -> None:
        """Tell our supervisors to stop their cells, and wait until they have."""
        for job in self._jobs:
            job.process.send_signal(signal.SIGTERM)
        for job in self._jobs:
            job.process.wait()
            self._conclude(job)
        self._jobs.clear()

    # -- other clients' cells ---

    def _find_others(self) -> None:
        """Move out of the queue what is at work already, so that its cores count from the start."""
        for pack in list(self._waiting):
            for item in [item for item in pack if item.run.status().busy]:
                self._leave_to_others(item)
                pack.remove(item)
        self._waiting = deque(pack for pack in self._waiting if pack)

    def _leave_to_others(self, item: Item) -> None:
        self._others.append(item)
        self._on_change(item.run, State.RUNNING)

    def _see_to_others(self) -> None:
        for item in list(self._others):
            status = item.run.status()
            if status.busy:  # where it is SLURM's, a file will say when it has ended
                continue
            self._others.remove(item)
            if status.state in (State.DONE, State.FAILED, State.PRUNED):
                self._on_change(item.run, status.state)
            else:
                self._waiting.append([item])

    def _used_cores(self) -> int:
        """Cores of our jobs, and of cells on this machine that others left running."""
        used = sum(job.cores for job in self._jobs)
        by_pid = {
            claim.get("pid"): 0 if uses_gpu(item.resources) else _cores(item.resources)
            for item in self._others
            if (claim := item.run.read_claim()).get("host") == os.uname().nodename
        }
        return used + sum(by_pid.values())

    # -- ours ---

    def _start(self, pack: list[Item]) -> bool:
        """Start these cells in one slot, or return False: there is none free."""
        with ExitStack() as held:  # until the supervisor has inherited the locks
            slot = self._free_slot(pack[0].resources, held)
            if slot is None:
                return False
            with submitting(self._runs):
                found = [(item, item.run.status()) for item in pack]
                # DONE: another client has ended it since we were asked for it.
                free = [item for item, s in found if not s.busy and s.state != State.DONE]
                if free:
                    self._jobs.append(self._supervise(free, slot))
        for item, status in found:
            if item in free:
                self._on_change(item.run, State.RUNNING)
            elif status.state == State.DONE:
                self._on_change(item.run, status.state)
            else:
                self._leave_to_others(item)
        return True

    def _free_slot(self, resources: Resources, held: ExitStack) -> Slot | None:
        """GPUs, locked until `held` is closed, or cores."""
        if not uses_gpu(resources):
            cores, used = _cores(resources), self._used_cores()
            return None if used and used + cores > available_cores() else Slot(cores)
        leased = _lease(_gpus_for(resources), resources.devices, held)
        if leased is None:
            return None
        # A device with a number is found by it among the GPUs that we see.
        visible = None if ":" in resources.device else ",".join(gpu.visible for gpu in leased)
        return Slot(0, visible, tuple(leased.values()))

    def _supervise(self, items: list[Item], slot: Slot) -> Supervised:
        env = snapshot.environment(self._code)
        if slot.visible is not None:
            env["CUDA_VISIBLE_DEVICES"] = slot.visible
        log = jobs_folder(self._runs).absolute() / f"local/{items[0].run.signature}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bench.launch.supervisor"]
        if self._command:
            command += ["--command", shlex.join(self._command)]
        with log.open("ab") as out:
            process = subprocess.Popen(
                [*command, *(str(item.run.path.absolute()) for item in items)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is for us; we tell it
                pass_fds=slot.locks,
            )
        claim = {
            "launcher": "local",
            "pid": process.pid,
            "pid_started": process_started(process.pid),
            "host": os.uname().nodename,
            "code": self._code.name,
            "stdout": str(log),
        }
        for item in items:
            item.run.claim(claim)
        return Supervised(items, process, log, slot.cores)

    def _conclude(self, job: Supervised) -> None:
        """Say how each cell of a supervisor that has ended stands."""
        for item in job.items:
            run = item.run
            if run.read_claim().get("pid") != job.pid:
                self._leave_to_others(item)
                continue
            if run.state() in (State.NEW, State.PENDING, State.INTERRUPTED):
                try:
                    _write_outcome(run, job)
                except OSError as error:
                    log.warning("%s: how it ended cannot be written down: %s", item.name, error)
            self._on_change(run, run.state())


def check(items: Sequence[Item]) -> None:
    """Raises ValueError for a cell that this machine cannot run."""
    for item in items:
        if item.resources.nodes > 1:
            raise ValueError(
                f"{item.name}: resources.nodes is {item.resources.nodes}, and this is one machine; "
                "use --launcher slurm, or set resources.nodes=1"
            )
        if not uses_gpu(item.resources):
            continue
        found, wanted = len(_gpus_for(item.resources)), item.resources.devices
        if wanted > found:
            raise ValueError(
                f"{item.name}: resources.devices is {wanted}, and this machine offers {found} GPUs "
                f"for resources.device={item.resources.device}; set resources.devices to at most "
                f"{max(found, 1)}"
                + ("" if found else " and resources.device=cpu, or run it where there is a GPU")
            )


def _packs(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Neighbours in the queue that share a slot."""
    for (resources, _), group in groupby(items, key=_shares):
        members = list(group)
        for k in range(0, len(members), resources.pack):
            yield members[k : k + resources.pack]


def _shares(item: Item) -> tuple[Resources, Path | None]:
    """What cells of one pack have in common; a parent and what starts from it do not run side by side."""
    return item.resources, item.after.path if item.after else None


def _is_over(job: Supervised) -> bool:
    """Whether the supervisor has ended, and with it its ranks (they take a moment when it is killed)."""
    return job.process.poll() is not None and not any(
        item.run.is_locked() and item.run.read_claim().get("pid") == job.pid for item in job.items
    )


def _write_outcome(run: RunDir, job: Supervised) -> None:
    """How it ended, when the supervisor vanished without a word."""
    status = job.process.returncode
    if -status in SIGNALS:  # told to stop while it was starting
        run.write_outcome(State.PREEMPTED, reason="stopped before it had begun")
        return
    try:
        lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    reason = (
        f"the supervisor of this cell ended without a result (exit status {status}): it was killed or "
        f"crashed; its output: {job.log}"
    )
    text = "\n".join([*lines, reason, ""])
    full = status > 0 and of_traceback("\n".join(lines)) == Failure.DISK
    kind = Failure.DISK if full else Failure.KILLED
    run.write_outcome(State.FAILED, kind, reason=reason, traceback=text)


def _lease(candidates: Sequence[Gpu], count: int, held: ExitStack) -> dict[Gpu, int] | None:
    """Lock so many GPUs until `held` is closed and no process has inherited the locks: the descriptor
    of each. None when fewer are free.
    """
    folder = lease_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    leased: dict[Gpu, int] = {}
    with ExitStack() as taken:
        for gpu in candidates:
            if len(leased) == count:
                break
            path = folder / f"{gpu.lock.replace('/', '_')}.lock"
            with suppress(Busy):
                leased[gpu] = taken.enter_context(lock(path, patience_s=0)).fileno()
        if len(leased) < count:
            return None
        held.enter_context(taken.pop_all())
    return leased


def lease_folder() -> Path:
    """Where the locks of this machine's GPUs are."""
    return Path(tempfile.gettempdir()) / f"bench-gpus-{os.getuid()}"
