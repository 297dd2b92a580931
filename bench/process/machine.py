"""Facts about this machine and its processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def process_started(pid: int) -> str | None:
    """When a local process started (clock ticks since boot; tells it from a later one of the same
    pid), or None when it is gone or has died and is not yet fetched by its parent.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return None


def is_alive(process: Mapping[str, Any]) -> bool:
    """Whether the process of this machine that was written down as {pid, pid_started} still runs."""
    started = process_started(int(process.get("pid") or 0))
    return started is not None and started == process.get("pid_started")


def available_cores() -> int:
    """The cores this process may use (cgroup pinning and SLURM respected)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
