"""What every file of the suite is written, locked and compared with: `replacing` (whole or not there:
temporary file, then rename), `lock` (dropped by the kernel when its holder dies), `sha256_of`, and
`read_lines` for files that grow by a line at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from io import FileIO, StringIO
from pathlib import Path
from typing import IO, Any, BinaryIO

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bench.process.machine import process_started

log = logging.getLogger(__name__)

SAY_AFTER_S = 5.0
"""How long a lock is waited for without a word."""


ABANDONED_S = 86_400.0
"""The age at which a temporary file of another host is nobody's any more."""

_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d{1,10})(-(?P<host>[0-9a-f]{8}))?\.tmp")


class Busy(TimeoutError):
    """Another process holds the lock."""


class DamagedFile(ValueError):
    """A file of ours is not what was written. The message: which file, and what is wrong with it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path, self.why = path, why


@contextmanager
def lock(
    path: Path,
    *,
    shared: bool = False,
    patience_s: float = float("inf"),
    waiting_for: str = "",
    required: bool = True,
) -> Iterator[IO[str]]:
    """Hold the lock of a file; yields it, open and unchanged.

    The kernel drops the lock when no process has that file open any more, however the holder died:
    a child that inherits the descriptor keeps it. Raises Busy after `patience_s` seconds. `shared`:
    with others that share it, and FileNotFoundError where nobody ever locked. `waiting_for`: logged
    when it takes long. `required`: else a file system without locks grants everything, and what is
    written under the lock must do; otherwise OSError.
    """
    if not shared:
        path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r" if shared else "a", encoding="utf-8") as handle:
        begun, said = time.monotonic(), not waiting_for
        while not _try_lock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, required=required):
            waited = time.monotonic() - begun
            if waited >= patience_s:
                raise Busy(f"{path} is held by another process")
            if waited > SAY_AFTER_S and not said:
                log.info("waiting for %s", waiting_for)
                said = True
            time.sleep(min(0.02, 0.001 + waited / 10))
        yield handle


def _try_lock(handle: IO[str], kind: int, *, required: bool) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        if required:
            raise
    return True


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well: a kill leaves the
    old version. So does a power cut, unless `durable` is off: thousands of small files that can be
    made again need not wait for the disk one by one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{_host()}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files of `replacing` whose writers were killed, in a folder and below. Of other
    hosts, whose processes cannot be seen from here, those that are older than a day.
    """
    for path in folder.rglob(".*.tmp"):
        if (name := _TEMPORARY.fullmatch(path.name)) and _is_abandoned(path, name):
            with suppress(OSError):  # it may not be ours, or another process was faster
                path.unlink()


def _is_abandoned(path: Path, name: re.Match[str]) -> bool:
    if name["host"] == _host():
        return process_started(int(name["pid"])) is None
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_S
    except OSError:
        return False


@cache
def _host() -> str:
    """This machine, short enough for the name of a file."""
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def sha256_of(path: Path) -> str:
    """Of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_next(file: BinaryIO, size: int) -> hashlib._Hash:
    """Of the next `size` bytes, or of as many as there are."""
    digest, left = hashlib.sha256(), size
    while left and (chunk := file.read(min(left, 1 << 20))):
        digest.update(chunk)
        left -= len(chunk)
    return digest


def set_aside(path: Path) -> Path:
    """Give a file that cannot be used another name, beside it, so that nothing is lost; returns that."""
    return path.rename(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_bytes(path: str | Path) -> bytes | None:
    """The content of a file, or None where there is no such file. Raises DamagedFile where it cannot be
    read. The state of thousands of cells is read with it: it makes no Path of its own.
    """
    try:
        with FileIO(path) as file:
            return file.readall()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedFile(Path(path), f"cannot be read ({error.strerror})") from error


def read_json(path: str | Path) -> dict[str, Any] | None:
    """The JSON mapping in a file, or None where there is no such file. Raises DamagedFile for any other
    content, and for what cannot be read.
    """
    content = read_bytes(path)
    if content is None:
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # also what is not UTF-8
        raise DamagedFile(Path(path), f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DamagedFile(Path(path), f"holds no JSON mapping but a {type(value).__name__}")
    return value


def read_json_if_sound(path: Path) -> dict[str, Any]:
    """The JSON mapping in a file; empty, with a warning, where there is none that can be read: for
    files without which things go on.
    """
    try:
        return read_json(path) or {}
    except DamagedFile as error:
        warn_once(f"{error}; it is ignored")
        return {}


@cache
def warn_once(message: str) -> None:
    """Of a file that is read again and again."""
    log.warning("%s", message)


def read_lines(path: Path, *, having: str = "") -> list[dict[str, Any]]:
    """The JSON mappings in a file that has one per line, or those whose line has this text; none when
    there is no such file. A line that was cut short or damaged is left out, and no other with it.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        if having.encode() in line:
            with suppress(ValueError, RecursionError):
                found.append(json.loads(line))
    return [value for value in found if isinstance(value, dict)]


def dump_yaml(value: Mapping[str, Any]) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    stream = StringIO()
    yaml.dump(json.loads(json.dumps(value)), stream)
    return stream.getvalue()


def load_yaml(path: Path) -> dict[str, Any]:
    """The YAML mapping in a file. Raises FileNotFoundError, and DamagedFile for any other content."""
    try:
        value = YAML(typ="safe", pure=True).load(path.read_bytes().decode())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(path, f"cannot be read ({error.strerror})") from error
    except (ValueError, YAMLError, RecursionError) as error:
        raise DamagedFile(path, f"is not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(value, dict):
        raise DamagedFile(path, f"holds no YAML mapping but a {type(value).__name__}")
    return value
