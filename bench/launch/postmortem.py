"""Why a cell failed, from what its processes (ranks) left behind: exit status, traceback, last output,
and where they were a moment before. supervisor.py asks once all of them have ended.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable
from typing import NamedTuple

from bench.launch.rank import Rank
from bench.process.interrupt import EXIT_PREEMPTED, EXIT_PRUNED
from bench.store import failure
from bench.store.failure import Failure
from bench.store.rundir import RunDir

TAIL_LINES = 20
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken ?pipe|remote peer|remote process exited|"
    r"\bgloo\b|\bnccl|DistBackendError|DistNetworkError|DistStoreError|TCPStore|socket|"
    r"(timed out|timeout) (after )?waiting|waited .* for rank 0|watchdog",
    re.IGNORECASE,
)


class Cause(NamedTuple):
    """One rank's failure."""

    rank: int
    kind: Failure
    text: str  # its last line says it all
    time: float
    by_signal: bool = False
    lost: bool = False  # it only lost touch with another rank

    def order(self) -> tuple[bool, bool, float]:
        """The smallest is where it began."""
        return (self.lost, not self.by_signal, self.time)


def causes(run: RunDir, ranks: Iterable[Rank], *, several: bool) -> list[Cause]:
    """The failures among the ranks that have ended; `several`: the cell has more than one."""
    found = []
    for rank in ranks:
        written = _written(run, rank) if several else None
        if written:
            found.append(written)
        elif rank.status not in (0, EXIT_PREEMPTED, EXIT_PRUNED) and not rank.stopped_by_us:
            found.append(_vanished(run, rank, several=several))
    return found


def _written(run: RunDir, rank: Rank) -> Cause | None:
    """The failure that a rank wrote down itself: lines `time: <unix time>` and, where it knows,
    `kind: <Failure>`, then the traceback.
    """
    try:
        text = run.rank_error(rank.number).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    head: dict[str, str] = {}
    while match := re.match(r"(time|kind): *(\S+)\n", text):
        head[match[1]] = match[2]
        text = text[match.end() :]
    when = float(head.get("time") or rank.ended or time.time())
    kind = Failure(head["kind"]) if head.get("kind") in set(Failure) else failure.of_traceback(text)
    return Cause(rank.number, kind, text, when, lost=bool(_LOST.search(failure.message_of(text))))


def _vanished(run: RunDir, rank: Rank, *, several: bool) -> Cause:
    who = f"rank {rank.number}" if several else "the process of this cell"
    status = rank.status or 0
    if status < 0:
        names = {int(s): s.name for s in signal.Signals}
        how = f"killed by signal {-status} ({names.get(-status, 'unknown')})"
        where = f"{who} was {how}"
    else:
        how = f"exit status {status}"
        where = f"{who} ended with {how}"
    hint = ", perhaps for lack of memory" if status == -signal.SIGKILL else ""
    lines = rank.tail.decode(errors="replace").strip().splitlines()[-TAIL_LINES:]
    parts = [
        *lines,
        f"{where}; where it was a moment before:",
        _stack(run, rank.number),
        f"{who} ended without a result: {how}{hint}",
    ]
    # NCCL's watchdog aborts ranks whose peer has gone.
    lost = several and status != -signal.SIGKILL and bool(_LOST.search("\n".join(lines)))
    # The disk on which it could not write down its end itself.
    full = status > 0 and failure.of_traceback("\n".join(lines)) == Failure.DISK
    return Cause(
        rank.number,
        Failure.DISK if full else Failure.KILLED,
        "\n".join([*parts, ""]),
        rank.ended or time.time(),
        by_signal=status < 0,
        lost=lost,
    )


def _stack(run: RunDir, rank: int) -> str:
    """The last stack that a rank kept."""
    try:
        text = run.rank_stack(rank).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return text.rstrip() or "  (it had not run for long enough to tell)"
