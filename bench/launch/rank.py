"""One process of a cell, as its supervisor (supervisor.py) starts, hears and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial

from bench.process.parent import die_with

_TAIL_BYTES = 16384


class Rank:
    """One process of a cell."""

    def __init__(self, number: int, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.number = number
        self.tail = b""
        self.ended: float | None = None
        self.told: set[int] = set()  # signals by which we wanted it to end
        self._process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=partial(die_with, os.getpid()),
        )
        assert self._process.stderr is not None
        self.stderr = self._process.stderr
        os.set_blocking(self.stderr.fileno(), False)

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._process.returncode

    @property
    def stopped_by_us(self) -> bool:
        return self.status is not None and -self.status in self.told

    def poll(self) -> None:
        """Notice its end. What it has left running (loader workers) ends with it, lest it keeps the
        run's lock.
        """
        if self.ended is None and self._process.poll() is not None:
            self.ended = time.time()
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self.read()

    def read(self) -> bool:
        """Pass on what it wrote to stderr. False once there cannot be more."""
        try:
            while chunk := os.read(self.stderr.fileno(), 65536):
                self.tail = (self.tail + chunk)[-_TAIL_BYTES:]
                with contextlib.suppress(OSError):  # a full disk must not end the cell
                    sys.stderr.buffer.write(chunk)
                    sys.stderr.buffer.flush()
        except BlockingIOError:
            return True
        return False

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self, number: int) -> None:
        """Make it end; its death by this signal says nothing about the cell then."""
        self.told.add(number)
        self.signal(number)
