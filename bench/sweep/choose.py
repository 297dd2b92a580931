"""Which cells to start, and with what changed: the policy behind the plain command, --force and
--retry.

A failed cell is tried again where the same again can end otherwise: a node that went away, a time
limit with a checkpoint behind it. Where it cannot (a bug, damaged data, out of memory) something must have
changed first, and what that could be is said. Between status.py and launching.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from bench.config.mistakes import Mistakes
from bench.config.resources import Resources, parse_resources
from bench.run.directory import create
from bench.store import places
from bench.store.failure import Failure
from bench.store.files import DamagedFile, dump_yaml, write_text
from bench.store.rundir import RunDir, State
from bench.sweep.status import FINAL, CellStatus

_REDUCED = "# out of memory: micro_batch "


@dataclass(frozen=True)
class Choice:
    """Cells to start, and cells that --retry does not start: why not, and what would help."""

    start: list[CellStatus]
    refused: list[tuple[CellStatus, str]]


def choose(
    statuses: list[CellStatus],
    *,
    retry: bool,
    force: bool,
    retrain: bool = False,
    code: Callable[[], str | None],
) -> Choice:
    """The cells to submit, longest first as far as their objectives tell, so that the last slots
    end together; those that are only measured come last. A cell that is queued or running is never
    among them.

    `code`: digest of the code as it is now; asked only where a cell failed with a bug. `retrain`: also
    those that kept no weights.
    """
    idle = [s for s in statuses if not s.busy]
    start: list[CellStatus] = []
    refused: list[tuple[CellStatus, str]] = []
    if force:
        start = [s.afresh() for s in idle if s.state != State.SKIPPED]
    elif not retry:
        for s in idle:
            if s.is_another or (s.weights_are_gone and not retrain):
                refused.append((s, s.note))
            elif s.state not in FINAL:
                start.append(s.afresh() if s.weights_are_gone else _as_asked(s))
    else:
        ask = cache(code)
        for s in idle:
            decision = again(s, ask)
            if isinstance(decision, CellStatus):
                start.append(decision)
            elif decision is not None:
                refused.append((s, decision))
    starts, lost = {s.cell.signature for s in start}, {s.cell.signature: why for s, why in refused}
    for s in [s for s in start if not s.trained and s.cell.config.parent in lost]:
        start.remove(s)
        refused.append(
            (s, f"its parent {s.cell.config.parent}: {lost[s.cell.config.parent or '']}")
        )
    start.sort(
        key=lambda chosen: (
            chosen.trained,
            chosen.cell.config.parent in starts,
            -len(chosen.cell.config.objectives),
        )
    )
    return Choice(start, refused)


def again(s: CellStatus, code: Callable[[], str | None]) -> CellStatus | str | None:
    """What --retry does with a cell: start it, as is returned; leave it, for this reason; or nothing
    (it did not fail).
    """
    if s.is_another:
        return s.note
    if s.state not in (State.FAILED, State.DAMAGED, State.INTERRUPTED, State.PREEMPTED):
        return None
    if s.kind == Failure.CANCELLED:
        return "was cancelled; the same command without --retry goes on with it"
    if s.state == State.PREEMPTED:  # it has its checkpoint, whatever stopped it
        return _as_asked(s)
    if s.kind in (Failure.TIMEOUT, Failure.NO_PROGRESS):
        return _after_time(s)
    if s.kind == Failure.OOM:
        return _after_memory(s)
    if s.kind == Failure.DISK:
        return _after_disk(s)
    if s.kind in (Failure.BUG, Failure.DATA):
        return _after_bug(s, code)
    return _as_asked(s)


def memory_note(s: CellStatus) -> str:
    """Empty where memory has not run out."""
    if s.micro_batch is None:
        return ""
    asked = s.cell.resources.micro_batch or "the whole batch"
    return f"ran out of memory: micro_batch {s.micro_batch} instead of {asked}"


def prepare(same: Sequence[CellStatus]) -> None:
    """Write the run's config, resources and what it is to measure: all that is missing of cells that
    share it. A halved micro_batch is marked, so that later starts keep it.
    """
    s = same[0]
    if s.replaces is not None:
        s.replaces.set_aside()
    asked = {identity: entry for cell in same for identity, entry in cell.missing.items()}
    create(s.run, s.cell.config, s.resources, asked)
    if s.micro_batch is not None:
        mark = f"{_REDUCED}{s.micro_batch} instead of {s.cell.resources.micro_batch}\n"
        write_text(s.run.resources, mark + dump_yaml(s.resources.model_dump(mode="json")))


# -- by class of failure ---


def _after_time(s: CellStatus) -> CellStatus | str:
    before, now = _resources_before(s), _as_asked(s)
    if before is None or _progressed(s):
        return now
    if now.resources.slurm.minutes() > before.slurm.minutes():
        return now
    if s.kind == Failure.NO_PROGRESS and now.resources != before:
        return now
    return (
        "got no further than the start before: raise resources.slurm.time, or checkpoint more often "
        "(resources.checkpoint_minutes)"
    )


def _progressed(s: CellStatus) -> bool:
    """Whether the last start went on from a later step than the one before, or itself left a
    checkpoint before its time was over.
    """
    starts = s.run.read_starts()
    steps = [int(start.get("step") or 0) for start in starts]
    if len(steps) > 1 and steps[-1] > steps[-2]:
        return True
    if s.kind == Failure.NO_PROGRESS or not starts:
        return False
    try:
        return s.run.last.stat().st_mtime > float(starts[-1].get("time") or 0)
    except OSError:
        return False


def _after_memory(s: CellStatus) -> CellStatus | str:
    before, now = _resources_before(s), _as_asked(s)
    if before is None or now.resources != before:
        return now
    share = math.ceil(s.cell.config.train.batch / now.resources.world)
    micro = min(now.resources.micro_batch or share, share)
    if micro == 1:
        return (
            "ran out of memory with micro_batch 1: more devices (resources.devices), more memory "
            "(resources.slurm.mem_gb, another partition) or a smaller model"
        )
    return replace(s, micro_batch=micro // 2)


def _after_disk(s: CellStatus) -> CellStatus | str:
    checkpoint = next((p for p in (s.run.last, s.run.previous) if p.is_file()), None)
    needed = 2 * checkpoint.stat().st_size if checkpoint else 1
    free = places.free(s.run.path)
    if needed <= free:
        return _as_asked(s)
    return (
        f"the disk was full, and only {places.size(free)} are free where two checkpoints need "
        f"{places.size(needed)}: make room"
    )


def _after_bug(s: CellStatus, code: Callable[[], str | None]) -> CellStatus | str:
    now, ran = _as_asked(s), s.run.read_outcome().get("code") or s.run.read_claim().get("code")
    if ran is None or ran != code() or _resources_before(s) != now.resources:
        return now
    if s.kind == Failure.DATA:
        return (
            "the data are damaged: mend them (error.txt says which file and how, `python -m bench.prepare "
            "SOURCE --out DIR --check` all that is wrong), then the same command without --retry starts it"
        )
    return "the same code would fail again: mend it (see the traceback), or change its resources"


# -- resources ---


def _as_asked(s: CellStatus) -> CellStatus:
    """With the resources of the plan, but a micro_batch that was halved stays so until the user
    asks for another one.
    """
    reduced = _read_mark(s.run)
    if reduced is None or reduced[1] != str(s.cell.resources.micro_batch):
        return s
    return replace(s, micro_batch=reduced[0])


def _read_mark(run: RunDir) -> tuple[int, str] | None:
    """(micro_batch used, micro_batch asked for) where it was halved."""
    try:
        with run.resources.open(encoding="utf-8", errors="replace") as handle:
            line = handle.readline()
    except OSError:
        return None
    mark = re.fullmatch(rf"{re.escape(_REDUCED)}([1-9]\d{{0,8}}) instead of (\S+)\n", line)
    return (int(mark[1]), mark[2]) if mark else None


def _resources_before(s: CellStatus) -> Resources | None:
    """What the last start was given; None where that can no longer be read."""
    try:
        return parse_resources(s.run.read_resources())
    except (OSError, DamagedFile, Mistakes):
        return None
