"""Who is submitting cells of a folder of runs: one client at a time."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.store.rundir import jobs_folder

log = logging.getLogger(__name__)

LOCK_PATIENCE_S = 5.0


@contextmanager
def submitting(runs: Path, *, patience_s: float = float("inf")) -> Iterator[int]:
    """Hold the lock under which cells are claimed and handed to sbatch; yields its descriptor.

    sbatch inherits the descriptor and so keeps the lock when the client dies: whoever gets the lock
    knows that no sbatch is under way. Raises TimeoutError after `patience_s` seconds.
    """
    path = jobs_folder(runs) / "submit.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        begun, said = time.monotonic(), False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            except OSError:  # a file system without locks: the claims must do
                break
            waited = time.monotonic() - begun
            if waited > patience_s:
                raise TimeoutError(f"{path} is held by another submission")
            if waited > LOCK_PATIENCE_S and not said:
                log.info("another client is submitting into %s; waiting for it", runs)
                said = True
            time.sleep(0.02)
        yield handle.fileno()
