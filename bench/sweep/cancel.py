"""Stopping the cells of a sweep, or of a search, from another shell (`--cancel`).

First the clients, which would start the next cell in the place of a stopped one; then the cells:
SLURM's through scancel, local ones by SIGTERM to their supervisors. Cells stop at their next step,
write their checkpoint and are PREEMPTED.
"""

from __future__ import annotations

import glob
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.process.machine import is_alive, process_started
from bench.store.files import write_json
from bench.store.records import CLAIM, read_record
from bench.store.rundir import RunDir, jobs_folder
from bench.sweep.status import FINAL, CellStatus, label

_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Client:
    """A `bench.sweep`, or a `bench.tune`, that launches cells or waits for them."""

    host: str
    pid: int
    launcher: str
    told: bool  # to stop; else it is on another machine

    def __str__(self) -> str:
        if self.told:
            return f"told the client with pid {self.pid} to stop"
        return f"a client on {self.host} (pid {self.pid}) goes on: give this command there too"


@contextmanager
def known_client(runs: Path, sweep: str, launcher: str) -> Iterator[None]:
    """Within the block other shells can find this process as a client of the sweep."""
    pid = os.getpid()
    path = _clients(runs) / f"{sweep}-{pid}.json"
    started = process_started(pid)
    write_json(path, {"host": _host(), "pid": pid, "pid_started": started, "launcher": launcher})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def has_client(runs: Path, sweep: str) -> bool:
    """Whether a client of this sweep lives on this machine: between two of its cells none is busy. Of one elsewhere
    nobody here knows whether it lives.
    """
    return any(client["host"] == _host() and is_alive(client) for _, client in _known(runs, sweep))


def _known(runs: Path, sweep: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(_clients(runs).glob(f"{glob.escape(sweep)}-*.json")):
        client = read_record(path, CLAIM, "host", "pid", "launcher")
        if client and path.stem.removeprefix(f"{sweep}-").isdigit():
            yield path, client  # neither damaged, nor of a sweep whose name begins alike


def stop_clients(runs: Path, sweep: str) -> list[Client]:
    """Tell the clients of this sweep on this machine to stop and wait a moment for their end."""
    found, told = [], []
    for path, client in _known(runs, sweep):
        here = client["host"] == _host()
        if here and not _terminate(client):
            path.unlink(missing_ok=True)  # it died without a word
            continue
        found.append(Client(client["host"], client["pid"], client["launcher"], here))
        told += [client] if here else []
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and any(is_alive(client) for client in told):
        time.sleep(0.05)
    return found


def stop_cells(statuses: list[CellStatus], clients: list[Client]) -> list[str]:
    """Tell the cells that are queued or running to stop. Returns what was told, one line each.

    Raises RuntimeError with SLURM's words when it refuses.
    """
    lines = []
    slurm = any(client.launcher == "slurm" for client in clients)
    for s in (s for s in statuses if s.busy):
        claim, name = s.run.read_claim(), label(s.cell)
        if claim.get("launcher") == "slurm":
            slurm = True
        elif claim.get("host", _host()) != _host():
            lines.append(f"{name}: runs on {claim['host']}; give this command there")
        elif _terminate(claim):
            lines.append(f"{name}: told to stop")
        else:
            lines.append(f"{name}: was not started by bench.sweep; stop its process: {s.run.path}")
    if slurm:
        # Also those that have not been submitted: a client elsewhere may be waiting to do so.
        lines.append(_cancel_jobs([s.run for s in statuses if s.state not in FINAL]))
    return lines


def _cancel_jobs(runs: list[RunDir]) -> str:
    from bench.launch.slurm import client as slurm

    if problem := slurm.problem():
        return f"{len(runs)} cells are SLURM's, which cannot be asked from here: {problem}"
    return f"cancelled {slurm.cancel(runs)} jobs in SLURM"


def _clients(runs: Path) -> Path:
    return jobs_folder(runs) / "clients"


def _host() -> str:
    return os.uname().nodename


def _terminate(process: dict[str, Any]) -> bool:
    """SIGTERM, unless the process is gone (or its pid is another one's by now)."""
    if not is_alive(process):
        return False
    try:
        os.kill(int(process["pid"]), signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True
