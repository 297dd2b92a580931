"""Stopping a cell without losing or changing anything.

A signal (SLURM's warning before preemption or the time limit, `scancel`, Ctrl-C) only sets a flag.
The training loop reads it at the next step boundary, where all ranks agree on it, writes the
checkpoint and raises `Interrupted`; everything else reads it where nothing is half done.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
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
    """Why this process was asked to stop (the signal's name), or None."""
    return _reason


def check() -> None:
    """Raises Interrupted when this process was asked to stop. For places where nothing is half done
    and no other rank waits.
    """
    if _reason is not None:
        raise Interrupted(_reason)


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
            # None: a handler that was not set from Python, and cannot be
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _reason = None


def _request(number: int, _frame: FrameType | None) -> None:
    global _reason
    if number == signal.SIGINT and _reason is not None:
        raise KeyboardInterrupt
    _reason = _reason or signal.Signals(number).name


@contextmanager
def held_back() -> Iterator[None]:
    """Processes started within the block never get the signals: loader workers, which SLURM or a
    terminal signals together with the process that they belong to and which must outlive it. For
    this thread the signals wait until the end of the block.
    """
    held = (*SIGNALS, signal.SIGINT)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        # multiprocessing starts this helper with the first process, and then lets SIGTERM and
        # Ctrl-C through again: hence now, and once more
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """In a process that was started within `held_back`: from now on it ends when its parent sends
    SIGTERM, as multiprocessing does to end what it started, and when its parent is gone. The same
    signal from anybody else it still does not get.
    """
    threading.Thread(target=_await_end, args=(os.getppid(),), name="end", daemon=True).start()


def _await_end(parent: int) -> None:
    while os.getppid() == parent:
        told = signal.sigtimedwait((signal.SIGTERM,), 1.0)
        if told is not None and told.si_pid == parent:
            break
    os._exit(0)  # torch takes another status for a worker that crashed


def end_children() -> None:
    """End what multiprocessing started here, without waiting for it.

    After a failure: a worker that was killed can have held the lock of a queue, which the others
    then wait for, and torch waits for each of them in turn.
    """
    for child in multiprocessing.active_children():
        child.terminate()
