"""What a cell says while it works: progress, log, and where it stands if it is killed."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.shown.streams import PrintableFormatter
from bench.store.files import write_json, write_text
from bench.store.rundir import RunDir
from bench.train.world import ALONE, World

log = logging.getLogger("bench")

STACK_EVERY_S = 5.0


class Progress:
    """progress.json for `--status` and live displays, at most once a second; epochs and phases also
    to log.txt.
    """

    def __init__(self, run: RunDir, world: World = ALONE) -> None:
        self._run = run
        self._world = world
        self._written = 0.0
        self._phase = ""
        self._begun = time.time()

    def __call__(self, update: dict[str, Any]) -> None:
        now = time.time()
        if update["phase"] != self._phase:
            self._phase, self._begun = update["phase"], now
            log.info("%s", self._phase)
        elif now - self._written < 1.0:
            return
        self._written = now
        if self._world.first:
            write_json(self._run.progress, {**update, "phase_started": self._begun, "time": now})


@contextmanager
def stack_kept(path: Path) -> Iterator[None]:
    """Within the block a file says where this thread was a moment ago, for the case that the process
    is killed.

    By a thread of Python's: faulthandler's own timer reads the frames while they change, and now and
    then crashes a healthy process.
    """
    thread, over = threading.get_ident(), threading.Event()

    def keep() -> None:
        while not over.wait(STACK_EVERY_S):
            with suppress(OSError):  # a full disk must not end the cell
                write_text(path, "".join(traceback.format_stack(sys._current_frames()[thread])))

    keeper = threading.Thread(target=keep, name="stack", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
    with suppress(OSError):
        path.unlink(missing_ok=True)


class _LogFile(logging.FileHandler):
    """A line that finds no room on the disk is only on the console."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def logging_to(path: Path, world: World) -> Iterator[None]:
    """Rank 0 logs to the run's log.txt; of the others only warnings are shown, on the console."""
    log.setLevel(logging.INFO if world.first else logging.WARNING)
    if not world.first:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.captureWarnings(capture=True)
    loggers = (log, logging.getLogger("py.warnings"))
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        with suppress(OSError):
            handler.close()
