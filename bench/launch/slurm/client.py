"""Cells through SLURM: job arrays by resource shape, each cell submitted once, whatever happens to
the client.

`run_slurm` submits as many cells as SLURM takes (the others follow when there is room) and with
`wait` stays until all have ended. It keeps nothing that it could not read again from the run
directories and the queue. Script: script.py; sbatch: submit.py; squeue: queue.py;
what a job does: bench.launch.supervisor.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config.resources import Resources
from bench.launch.slurm.queue import Queue, ask, batch_folder, began, is_open
from bench.launch.slurm.script import Cluster, Script, by_shape, cores_per_node, packed, scripts
from bench.launch.slurm.submit import Answer, JobArray, Submission, Version, submit
from bench.store import snapshot
from bench.store.claims import submitting
from bench.store.failure import Failure
from bench.store.files import read_json_if_sound, write_json
from bench.store.rundir import Activity, RunDir, RunStatus, State, jobs_folder

if TYPE_CHECKING:
    from bench.launch.item import Item, OnChange

__all__ = ["Queue", "Refused", "Script", "cancel", "problem", "run_slurm", "scripts"]

log = logging.getLogger(__name__)

POLL_S = (2.0, 30.0)
"""Seconds between two looks at the queue: at first and after a change, and at most."""
BAD_NODE = 2
"""Cells that failed for their device on a node before that node is left out."""
TRIES = 3
"""Submissions by one client of a cell whose jobs go away before it begins."""


class Refused(ValueError):
    """sbatch refused for good. The message has its words and what was asked."""


def problem() -> str | None:
    """Why SLURM cannot be used from here, or None."""
    for command in ("sbatch", "squeue"):
        if shutil.which(command) is None:
            return f"{command} is not on the PATH: run this on a login node of the cluster"
    return None


def run_slurm(
    items: Sequence[Item],
    *,
    runs: Path,
    sweep: str,
    wait: bool,
    on_change: OnChange,
    tick: Callable[[], None],
    poll_s: tuple[float, float] = POLL_S,
) -> None:
    """Submit cells; cells that are in the queue already are not submitted again.

    Returns when SLURM has all of them, with `wait` when all have ended. Raises Refused when sbatch
    will never take some (those are left as they were). May be killed at any time: the next call goes
    on. `poll_s`: see POLL_S.
    """
    client = _Client(Path(runs).resolve(), sweep, on_change, wait=wait)
    client.add(items)
    pause = poll_s[0]
    while True:
        changed = client.round()
        if client.finished():
            return
        pause = poll_s[0] if changed else min(1.5 * pause, poll_s[1])
        end = time.monotonic() + pause
        while (left := end - time.monotonic()) > 0:
            tick()
            time.sleep(min(0.2, left))


@dataclass
class _Client:
    """One call of run_slurm."""

    runs: Path
    sweep: str
    on_change: OnChange
    wait: bool
    items: list[Item] = field(default_factory=list)
    cluster: Cluster = field(default_factory=Cluster)
    open_jobs: int = 0  # of this user, in the queue
    full_at: dict[str, int] = field(default_factory=dict)  # by shape: how many were too many
    bad_nodes: set[str] = field(default_factory=set)
    said: str = ""

    def __post_init__(self) -> None:
        self.queue = Queue(self.runs)
        self.code = snapshot.take(self.runs)

    def add(self, items: Sequence[Item]) -> None:
        cancelled = _read_cancelled(self.runs)
        for given in items:
            item = replace(given)  # what is remembered of it is this client's own
            item.version = Version.of(item.run)
            item.cancelled = cancelled.get(item.run.signature)
            self.items.append(item)

    def finished(self) -> bool:
        waits = self.wait or not all(item.submitted for item in self.items)
        return not (self.items and waits)

    def round(self) -> bool:
        """Look once at the queue and do what there is to do. Returns whether anything changed."""
        self.queue.refresh()
        self.open_jobs = self.queue.my_open_jobs()
        # By signature: many cells may start from one, which mostly is an item too.
        runs = {item.after.signature: item.after for item in self.items if item.after is not None}
        runs |= {item.run.signature: item.run for item in self.items}
        statuses = self.queue.statuses(runs.values())
        cancelled = _read_cancelled(self.runs)
        known = {item.run.signature: (item.shown, item.submitted) for item in self.items}
        ready = []
        for item in list(self.items):
            status = statuses[item.run.signature]
            if status.busy:
                self._note_busy(item, status)
            elif cancelled.get(item.run.signature) == item.cancelled and self._wants(item, status):
                ready.append(item)
            else:
                self._show(item, status.state)
                self.items.remove(item)
        ready, changed = self._startable(ready, statuses)
        if ready:
            self._feed(ready)
        now = {item.run.signature: (item.shown, item.submitted) for item in self.items}
        return changed or now != known

    def _startable(
        self, ready: list[Item], statuses: dict[str, RunStatus]
    ) -> tuple[list[Item], bool]:
        """Those of them whose parent is trained or has a job to wait for, and whether there are others that can
        follow soon. What waits for a parent that nobody will train is let go.
        """
        coming = {item.run.signature for item in self.items}
        found, later = [], False
        for item in ready:
            item.after_job = ""
            if item.after is not None and not item.is_ready():
                parent = statuses[item.after.signature]
                item.after_job = parent.job if parent.activity == Activity.ACTIVE else ""
                if not item.after_job:
                    later = True
                    if not parent.busy and item.after.signature not in coming:
                        self._show(item, statuses[item.run.signature].state)
                        self.items.remove(item)
                    continue
            found.append(item)
        return found, later

    def _note_busy(self, item: Item, status: RunStatus) -> None:
        """A cell that is in the queue or, for all we know, may be."""
        if status.activity == Activity.ACTIVE:
            item.submitted, item.unsure = True, False
            # One that was stopped and waits to go on has not ended.
            self._show(item, State.RUNNING if status.state == State.RUNNING else State.PENDING)
        elif not item.unsure:
            item.submitted = True

    def _wants(self, item: Item, status: RunStatus) -> bool:
        """Whether to submit a cell that has no job."""
        version = Version.of(item.run)
        if status.state == State.DONE:
            return False
        if not item.submitted and (item.unsure or version == item.version):
            item.version = version
            return True
        # It had a job, ours or another client's, which is gone.
        item.submitted, item.version = True, version
        tries = TRIES + len(item.run.read_starts())
        return self.wait and item.tries < tries and _goes_on(item.run, status.state)

    def _show(self, item: Item, state: State) -> None:
        if item.shown != state:
            item.shown = state
            self.on_change(item.run, state)

    # -- submitting ---

    def _feed(self, ready: list[Item]) -> None:
        """Submit these cells, as many as SLURM takes."""
        self.bad_nodes |= _bad_nodes(self.runs)
        words, left = "", 0
        for shape, alike in by_shape(ready).items():
            resources = self._avoiding(alike[0].resources)
            groups = packed(alike, resources.pack)
            text, groups = self._feed_shape(shape, resources, groups)
            words, left = text or words, left + sum(map(len, groups))
        if left and words != self.said:
            log.info("%d cells wait: sbatch says: %s", left, words)
        self.said = words

    def _feed_shape(
        self, shape: str, resources: Resources, groups: list[list[Item]]
    ) -> tuple[str, list[list[Item]]]:
        """Returns sbatch's words when it wants no more for now, and what was not submitted."""
        gpus = self.cluster.gpus(resources)
        after = groups[0][0].after_job
        batch = JobArray(self.runs, self.sweep, self.code, resources, gpus, after)
        most, refused = len(groups), False
        while groups:
            room = self.full_at.get(shape, self.open_jobs + len(groups)) - self.open_jobs
            count = max(1, min(len(groups), most, room, self.cluster.max_array))
            outcome = submit(batch, [[item.version for item in group] for group in groups[:count]])
            self._note(outcome, groups[:count], resources)
            if outcome.answer == Answer.TAKEN:
                groups = groups[count:]
                most = most if refused else 2 * most
                if room < 1:
                    self.full_at.pop(shape)  # there is more room than was thought
                    most = 1
            elif outcome.answer == Answer.UNSURE:
                return outcome.words, groups
            elif outcome.answer == Answer.TOO_BIG and count > 1:
                self.cluster.max_array = count // 2
            elif outcome.answer == Answer.FULL and count > 1:
                most, refused = count // 2, True
            elif outcome.answer == Answer.FULL and not self._queue_is_empty():
                self.full_at[shape] = self.open_jobs
                return outcome.words, groups
            else:
                raise Refused(_explain(outcome.words, resources, gpus, count))
        return "", groups

    def _queue_is_empty(self) -> bool:
        """Then a limit on jobs cannot be what is meant: this one job is too much."""
        return not self.queue.trouble and self.open_jobs == 0

    def _note(self, outcome: Submission, groups: list[list[Item]], resources: Resources) -> None:
        """Remember what became of the cells of a submission."""
        claimed = {run.signature for run in outcome.cells}
        for item in (i for group in groups for i in group if i.run.signature in claimed):
            item.version = Version.of(item.run)
            item.submitted, item.unsure = bool(outcome.job), not outcome.job
            item.tries += bool(outcome.job)
            if outcome.job:
                self._show(item, State.PENDING)
        if outcome.job:
            self.open_jobs += outcome.tasks
            at_once = min(outcome.tasks, resources.slurm.array_parallelism)
            array = f"0-{outcome.tasks - 1}%{at_once}"
            log.info("submitted %d cells as job %s (array %s)", len(claimed), outcome.job, array)

    def _avoiding(self, resources: Resources) -> Resources:
        """The same without the nodes whose devices fail."""
        if not self.bad_nodes:
            return resources
        nodes = ",".join(sorted(self.bad_nodes))
        log.info("leaving out %s: cells failed there for their device", nodes)
        exclude = ",".join(filter(None, (resources.slurm.exclude, nodes)))
        slurm = resources.slurm.model_copy(update={"exclude": exclude})
        return resources.model_copy(update={"slurm": slurm})


def _explain(words: str, resources: Resources, gpus: int, count: int) -> str:
    asked = {
        "jobs": count,
        "nodes": resources.nodes,
        "cores per node": cores_per_node(resources),
        "gpus per node": gpus,
        **resources.slurm.model_dump(exclude_defaults=True, exclude={"setup"}),
        "time": f"{resources.slurm.minutes()} min",
    }
    what = ", ".join(f"{name} {value}" for name, value in asked.items())
    return f"{words}\nasked for: {what}\nchange it with --set resources.slurm.<option>=<value>"


def _goes_on(run: RunDir, state: State) -> bool:
    """Whether a cell that was submitted and has no job any more is submitted again without being
    asked: it was stopped through no fault of its own, and the last start got further than the one
    before.
    """
    if state == State.NEW:
        return True
    if state not in (State.PREEMPTED, State.INTERRUPTED):
        return False
    if run.read_outcome().get("kind") not in (None, Failure.NODE_FAIL):
        return False
    steps = [start.get("step") for start in run.read_starts()]
    return len(steps) < 2 or steps[-1] != steps[-2]


def _bad_nodes(runs: Path) -> set[str]:
    """Nodes where cells of this folder failed for their device, more than once."""
    counts: Counter[str] = Counter()
    for path in runs.glob("*/ended.json"):
        ended = read_json_if_sound(path)
        if ended.get("kind") == Failure.DEVICE and ended.get("host"):
            counts[str(ended["host"]).partition(".")[0]] += 1
    return {node for node, count in counts.items() if count >= BAD_NODE}


# -- cancelling ---


def cancel(runs: Sequence[RunDir]) -> int:
    """Stop the jobs of these cells and keep clients from submitting them. Returns how many jobs
    were cancelled. Running cells write a checkpoint first. Raises RuntimeError with SLURM's words.

    A job that has other cells to do, packed beside these, goes on.
    """
    if not runs:
        return 0
    folder = runs[0].path.resolve().parent
    with submitting(folder):
        now = {run.signature: time.time() for run in runs}
        write_json(_cancelled_path(folder), _read_cancelled(folder) | now)
    queue = Queue(folder)
    queue.refresh()
    if queue.trouble:
        raise RuntimeError(f"nothing was cancelled: {queue.trouble}")
    statuses = queue.statuses(runs)
    jobs: dict[str, list[RunDir]] = {}
    for run in runs:
        status = statuses[run.signature]
        active = status.activity == Activity.ACTIVE and status.job
        if active and not _others(folder, run, set(statuses)):
            jobs.setdefault(status.job, []).append(run)
    if jobs:
        answer = ask(["scancel", *_elements(list(jobs))])
        if not answer.ok:
            raise RuntimeError(f"scancel refused: {answer.error}")
        for run in (run for cells in jobs.values() for run in cells):
            _write_cancelled(folder, run)
    return len(jobs)


def _cancelled_path(runs: Path) -> Path:
    return jobs_folder(runs) / "cancelled.json"


def _read_cancelled(runs: Path) -> dict[str, Any]:
    """When each cell was cancelled last: a client that has not submitted it yet leaves it alone."""
    return read_json_if_sound(_cancelled_path(runs))


def _others(runs: Path, run: RunDir, chosen: set[str]) -> bool:
    """Whether the job of a cell has cells to do that are not among the chosen ones."""
    claim = run.read_claim()
    batch = read_json_if_sound(batch_folder(runs, claim["batch"]) / "batch.json")
    names = batch["cells"][claim["task"]] if batch else []
    over = (State.DONE, State.FAILED, State.PRUNED)
    others = [n for n in names if n not in chosen and RunDir(runs / n).state() not in over]
    if others:
        log.warning("%s goes on: its job has other cells (%s)", run.signature, ", ".join(others))
    return bool(others)


def _elements(jobs: Sequence[str]) -> list[str]:
    """12_0, 12_1, 13_4 -> 12_[0,1], 13_[4]: one request to SLURM per array."""
    arrays: dict[str, list[str]] = {}
    for job in jobs:
        array, _, task = job.partition("_")
        arrays.setdefault(array, []).append(task)
    return [f"{array}_[{','.join(tasks)}]" for array, tasks in arrays.items()]


def _write_cancelled(runs: Path, run: RunDir) -> None:
    """A cell that had not begun says so at once; a running one says itself how it ends."""
    with submitting(runs):
        claim = run.read_claim()
        if claim and not began(run, claim) and is_open(run):
            reason = "cancelled before it began"
            run.write_outcome(State.INTERRUPTED, Failure.CANCELLED, reason=reason)
