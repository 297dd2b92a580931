"""Stopping a cell without losing or changing anything.

A signal (SLURM's warning before preemption or the time limit, `scancel`, Ctrl-C) only sets a flag.
The training loop reads it at the next step boundary, where all ranks agree on it, writes the
checkpoint and raises `Interrupted`; everything else reads it where nothing is half done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_PREEMPTED = 75
"""Exit status of a process of a cell that was told to stop and wrote its checkpoint (EX_TEMPFAIL)."""
EXIT_PRUNED = 76
"""Exit status of a process of a cell that a search stopped."""

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


class Interrupted(BaseException):
    """The cell was told to stop and can go on from its checkpoint.

    Not an Exception: a broad `except` in between must not turn it into a failure.
    """

    def __init__(self, reason: str, *, pruned: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pruned = pruned


_reason: str | None = None


def requested() -> str | None:
    """Why this process was asked to stop, or None."""
    return _reason


@contextmanager
def listening() -> Iterator[None]:
    """Within the block SIGUSR2, SIGTERM and the first Ctrl-C set the flag; a second Ctrl-C raises
    KeyboardInterrupt as ever. Outside the main thread, where handlers cannot be set, it does nothing.
    """
    global _reason
    _reason = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _request) for number in (*SIGNALS, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _request(number: int, _frame: FrameType | None) -> None:
    global _reason
    if number == signal.SIGINT and _reason is not None:
        raise KeyboardInterrupt
    _reason = _reason or signal.Signals(number).name


@contextmanager
def held_back() -> Iterator[None]:
    """Within the block the signals wait. Processes started in it never get them: loader workers,
    which SLURM signals together with the process that they belong to and which must outlive it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
