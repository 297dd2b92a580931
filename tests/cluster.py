"""A real SLURM cluster of one node on this machine's loopback, for as long as a `with` block lasts.

Debian's slurmctld, slurmd and munge run with their own ports, key and folders. As root munged runs as
the user munge; otherwise everything runs as the user who tests.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "srun", "scontrol")
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_PATIENCE_S = 120.0  # tells "late" from "never"; on a quiet machine all of this takes seconds


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    absent = [name for name in NEEDED if _which(name) is None]
    packages = "apt-get install slurmctld slurmd slurm-client munge"
    return f"{', '.join(absent)} not installed ({packages})" if absent else None


@dataclass(frozen=True)
class Cluster:
    """A running cluster; its commands need `env`."""

    folder: Path
    env: Mapping[str, str]

    def ask(self, *command: str) -> str:
        """Standard output of a SLURM command, which must succeed."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=_PATIENCE_S
        )
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr}")
        return done.stdout

    def jobs(self) -> dict[str, tuple[str, str, str]]:
        """Of every job: id -> (state, reason, name)."""
        lines = self.ask("squeue", "-r", "-h", "-t", "all", "-o", "%i|%T|%r|%j").splitlines()
        rows = (line.split("|", 3) for line in lines)
        return {job: (state, reason, name) for job, state, reason, name in rows}

    def hurry(self) -> None:
        """SLURM lets a job that was queued again wait for two minutes: not here."""
        for job, (_, reason, _) in self.jobs().items():
            if reason == "BeginTime":
                with contextlib.suppress(RuntimeError):  # it began by itself
                    self.ask("scontrol", "update", f"jobid={job}", "StartTime=now")

    def clear(self) -> None:
        """Remove every job and wait until the node is free."""
        self.ask("scancel", "--state=PENDING", "--user", getpass.getuser())
        self.ask("scancel", "--signal=KILL", "--full", "--user", getpass.getuser())
        self.ask("scancel", "--user", getpass.getuser())
        _wait(lambda: not self.ask("squeue", "-h").strip(), "the queue to be empty")


@contextmanager
def running(*, cpus: int = 8) -> Iterator[Cluster]:
    """Start a cluster whose node pretends to have `cpus` cores; stops and removes all of it."""
    # Not pytest's folder: munged, another user, must be able to walk there.
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    try:
        env = _configure(folder, cpus)
        try:
            _start_munge(folder)
            for name in ("slurmctld", "slurmd"):
                subprocess.run([_which(name) or name], env=env, check=True, timeout=_PATIENCE_S)
            cluster = Cluster(folder, env)
            _wait(lambda: "idle" in _quietly(cluster, "sinfo", "-h", "-o", "%T"), "the node")
            yield cluster
            with contextlib.suppress(RuntimeError):
                cluster.clear()
        finally:
            for name in ("slurmd", "slurmctld", "munged"):
                _stop(folder / f"run/{name}.pid")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, cpus: int) -> dict[str, str]:
    folder.chmod(0o755)
    for name in ("state", "spool", "munge", "run"):
        (folder / name).mkdir()
    (folder / "munge/key").write_bytes(os.urandom(1024))
    (folder / "munge/key").chmod(0o400)
    (folder / "munge").chmod(0o700)
    if os.getuid() == 0:
        for path in (folder / "run", folder / "munge", folder / "munge/key"):
            shutil.chown(path, "munge")
    ctld_port, d_port = _free_ports(2)
    conf = _CONF.format(
        host=socket.gethostname().partition(".")[0],
        user=getpass.getuser(),
        folder=folder,
        ctld_port=ctld_port,
        d_port=d_port,
        cpus=cpus,
    )
    (folder / "slurm.conf").write_text(conf)
    dropped = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "SLURM_CONF": str(folder / "slurm.conf")}


def _start_munge(folder: Path) -> None:
    options = {
        "key-file": "munge/key",
        "socket": "run/munge.sock",
        "pid-file": "run/munged.pid",
        "log-file": "munge/log",
        "seed-file": "munge/seed",
    }
    command = [_which("munged") or "munged"]
    command += [f"--{option}={folder / path}" for option, path in options.items()]
    if os.getuid() == 0:
        command = ["runuser", "-u", "munge", "--", *command]
    subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE_S)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _stop(pid_file: Path) -> None:
    """End a daemon by its own pid file."""
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):  # never started, or gone
        return


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _quietly(cluster: Cluster, *command: str) -> str:
    try:
        return cluster.ask(*command)
    except RuntimeError:
        return ""


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {_PATIENCE_S:.0f} s for {what}")
        time.sleep(0.1)
