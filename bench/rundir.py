"""The run directory `runs/<signature>/`: paths, atomic writes, and the state of a run read from its
files.

The only module that knows file names. State comes from files alone, so any process on any machine
that sees the directory reads the same answer; a lock that the running process holds (and that the
kernel drops when it dies, however it dies) tells a live run from a dead one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from io import StringIO
from pathlib import Path
from typing import IO, Any

from ruamel.yaml import YAML


class State(StrEnum):
    """What is known of a cell. Only DONE is not submitted again."""

    NEW = "NEW"  # nothing on disk
    PENDING = "PENDING"  # handed to a launcher, not started
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"  # an error was written
    INTERRUPTED = (
        "INTERRUPTED"  # started, then died or was stopped; goes on from its last checkpoint
    )
    STALE = "STALE"  # same signature, but a default has changed since
    SKIPPED = "SKIPPED"  # an impossible combination; never submitted


_DIGEST = "# sha256 of the full config: "


class RunDir:
    """One run's files."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    # Properties, because a plan of thousands of cells makes this object for each of them.

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def resources(self) -> Path:
        return self.path / "resources.yaml"

    @property
    def env(self) -> Path:
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.parquet"

    @property
    def last(self) -> Path:
        return self.path / "checkpoint/last.pt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoint/best.pt"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def error(self) -> Path:
        return self.path / "error.txt"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def progress(self) -> Path:
        return self.path / "progress.json"

    @property
    def job(self) -> Path:
        return self.path / "job.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def pictures(self) -> Path:
        """PNG files that evaluations keep for the figures: <evaluation>/<name>.png"""
        return self.path / "pictures"

    @property
    def scratch(self) -> Path:
        """State of evaluations that are not through yet."""
        return self.path / "scratch"

    @property
    def signature(self) -> str:
        return self.path.name

    def create(self, config: Mapping[str, Any], resources: Mapping[str, Any], digest: str) -> None:
        """Write the config (once; it never changes) and the resources of the next start.

        The digest in the first line lets a plan of thousands of cells check for drift without
        parsing them all.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config.exists():
            write_text(self.config, f"{_DIGEST}{digest}\n{dump_yaml(config)}")
        write_text(self.resources, dump_yaml(resources))

    def config_digest(self) -> str | None:
        """The digest that `create` was given, or None when there is no config."""
        try:
            with self.config.open(encoding="utf-8") as handle:
                return handle.readline().removeprefix(_DIGEST).strip()
        except FileNotFoundError:
            return None

    def read_config(self) -> dict[str, Any]:
        return load_yaml(self.config)

    def read_resources(self) -> dict[str, Any]:
        return load_yaml(self.resources)

    def read_result(self) -> dict[str, Any] | None:
        return read_json(self.result)

    def read_progress(self) -> dict[str, Any]:
        return read_json(self.progress) or {}

    def error_line(self) -> str:
        """The last line of the traceback: what the user wants to see first."""
        try:
            lines = [
                line for line in self.error.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
        except OSError:
            return ""
        return lines[-1].strip() if lines else "(empty error.txt)"

    def state(self) -> State:
        """NEW, PENDING, RUNNING, DONE, FAILED or INTERRUPTED; STALE and SKIPPED are the plan's to
        say.
        """
        if self.result.exists():
            return State.DONE
        if not self.config.exists():
            return State.NEW
        if self.is_locked():
            return State.RUNNING
        if self.error.exists():
            return State.FAILED
        if self._job_alive():
            return State.PENDING
        return State.INTERRUPTED if self.env.exists() else State.NEW

    def is_locked(self) -> bool:
        """Whether a live process works on this run."""
        try:
            with self.lock.open("r") as handle:
                return not _try_lock(handle, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    def _job_alive(self) -> bool:
        job = read_json(self.job) or {}
        pid = job.get("pid")
        if not pid or job.get("host") != os.uname().nodename:
            return False
        started = process_started(int(pid))
        return started is not None and started == job.get("pid_started")

    @contextmanager
    def hold(self, *, patience_s: float = 5.0) -> Iterator[None]:
        """Hold the run's lock. Raises RunBusy when another process has it (readers let go within
        microseconds).
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self.lock.open("a") as handle:
            deadline = time.monotonic() + patience_s
            while not _try_lock(handle, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise RunBusy(f"{self.path} is being worked on by another process")
                time.sleep(0.05)
            yield

    def set_aside(self) -> Path | None:
        """Move the directory to `<runs>/replaced/`, so that --force starts afresh and nothing is
        lost.
        """
        if not self.path.exists():
            return None
        target = (
            self.path.parent / "replaced" / f"{self.signature}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        for n in range(1, 1000):
            if not target.exists():
                break
            target = target.with_name(f"{target.name.split('.')[0]}.{n}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.path, target)
        return target


class RunBusy(RuntimeError):
    """Another process holds the run's lock."""


def _try_lock(handle: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def process_started(pid: int) -> str | None:
    """When a local process started (clock ticks since boot; tells it from a later one of the same
    pid), or None.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well: a kill leaves the
    old version.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON mapping in a file, or None when the file is absent or was cut short by something
    other than us.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None


def dump_yaml(value: Mapping[str, Any]) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    stream = StringIO()
    yaml.dump(json.loads(json.dumps(value)), stream)
    return stream.getvalue()


def load_yaml(path: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def manifest_path(runs: Path, name: str) -> Path:
    """Where a sweep records which labels belong to which signatures."""
    return runs / "sweeps" / f"{name}.json"


def manifests(runs: Path) -> list[Path]:
    return sorted((runs / "sweeps").glob("*.json"))


def evaluated_path(runs: Path, slug: str) -> Path:
    """The result of a model that was evaluated without being a run of this suite. What it kept is
    in the folder of the same name, laid out like a run directory."""
    return Path(runs) / "evaluated" / f"{slug}.json"


def jobs_folder(runs: Path) -> Path:
    """submitit's own files (pickles, stdout of each job)."""
    return runs / ".jobs"
