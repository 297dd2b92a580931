"""Who is submitting cells of a folder of runs: one client at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.store.files import lock
from bench.store.rundir import jobs_folder

LOCK_PATIENCE_S = 5.0


@contextmanager
def submitting(runs: Path, *, patience_s: float = float("inf")) -> Iterator[int]:
    """Hold the lock under which cells are claimed and handed to sbatch; yields its descriptor.

    sbatch inherits the descriptor and so keeps the lock when the client dies: whoever gets the lock
    knows that no sbatch is under way. Raises Busy after `patience_s` seconds. Where the file system
    has no locks, the claims must do.
    """
    path = jobs_folder(runs) / "submit.lock"
    waiting_for = f"another client, which is submitting into {runs}"
    with lock(path, patience_s=patience_s, waiting_for=waiting_for, required=False) as handle:
        yield handle.fileno()
