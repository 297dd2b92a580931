"""Small and read-only disks, mounted for a test (tmpfs); skips where mounting is not allowed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BALLAST = "ballast"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of this size, mounted at a folder that is made."""
    folder.mkdir()
    if problem := _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)):
        pytest.skip(f"a small disk cannot be mounted here: {problem}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Within the block the disk may only be read, by root too."""
    assert not _mount("-o", "remount,ro", str(disk))
    try:
        yield
    finally:
        assert not _mount("-o", "remount,rw", str(disk))


def fill(disk: Path, *, but: int = 0) -> None:
    """Leave this number of bytes free."""
    assert disk.is_mount(), "never the disk of the machine"
    (disk / BALLAST).write_bytes(b"")
    with suppress(OSError):  # another process may be writing: full is full
        (disk / BALLAST).write_bytes(bytes(max(0, shutil.disk_usage(disk).free - but)))


def make_room(disk: Path) -> None:
    (disk / BALLAST).unlink(missing_ok=True)


def _mount(*arguments: str) -> str:
    """What was wrong; nothing where it worked."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""
