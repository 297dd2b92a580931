"""The open shard: a tar that grows clip by clip, with a journal of what is in it, so that a killed
writer loses one clip. `shard_writer` writes through it.

Both files lie in `.receipts/` of a data set that is not complete yet. A line of the journal
follows the bytes it tells of and holds their CRC-32: whatever was lost in a crash, of the process
or of the machine, the longest part that is whole is found again.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bench.data.shards.plan import Job
from bench.store.files import lock


class Journal:
    """Appends clips to the tar. `entries` are those already there, of this plan."""

    def __init__(self, tar: BinaryIO, lines: BinaryIO, plan: str) -> None:
        self._tar, self._lines = tar, lines
        self.end = 0  # bytes in the tar
        self.entries: list[dict[str, Any]] = []
        self._recover(plan)

    def append(self, data: bytes, **entry: Any) -> None:
        """Add the members of a clip (nothing for one that failed) and what is to be known of it."""
        self._tar.write(data)
        self._tar.flush()  # a killed process loses nothing that it has handed to the kernel
        self.end += len(data)
        self.entries.append(entry | {"end": self.end, "crc32": zlib.crc32(data)})
        self._write_line(self.entries[-1])

    def _write_line(self, content: dict[str, Any]) -> None:
        self._lines.write(json.dumps(content).encode() + b"\n")
        self._lines.flush()

    def _recover(self, plan: str) -> None:
        self._lines.seek(0)
        self._tar.seek(0)
        head = {"plan": plan}
        whole = 0  # bytes of the journal
        for line in self._lines:
            entry = _parse(line)
            if entry is None or (not whole and entry != head):
                break
            if whole and not self._holds(entry):
                break
            if whole:
                self.entries.append(entry)
                self.end = entry["end"]
            whole += len(line)
        self._lines.truncate(whole)
        self._tar.truncate(self.end)
        if not whole:
            self._write_line(head)

    def _holds(self, entry: dict[str, Any]) -> bool:
        """Is the next clip in the tar as the entry says?"""
        data = self._tar.read(entry["end"] - self.end)
        return len(data) == entry["end"] - self.end and zlib.crc32(data) == entry["crc32"]


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return dict(json.loads(line))
    except ValueError:
        return None


@contextlib.contextmanager
def claimed(job: Job) -> Iterator[None]:
    """One process at a time writes a shard: the workers of a killed run live on for a second."""
    with lock(_path(job)):
        yield


@contextlib.contextmanager
def opened(job: Job) -> Iterator[Journal]:
    """The journal of a shard that this process has claimed; the tar is at `part_of(job)`."""
    with part_of(job).open("a+b") as tar, _path(job).open("a+b") as lines:
        yield Journal(tar, lines, job.plan)


def forget(job: Job) -> None:
    """After this the shard is written from its first clip on."""
    _path(job).unlink(missing_ok=True)


def part_of(job: Job) -> Path:
    """The tar while it grows."""
    return job.receipt.with_name(f"{job.name}.part")


def clips_done(job: Job) -> int:
    """How many clips of an open shard are written; for progress, from another process."""
    try:
        return max(_path(job).read_bytes().count(b"\n") - 1, 0)
    except FileNotFoundError:
        return 0


def _path(job: Job) -> Path:
    return job.receipt.with_name(f"{job.name}.journal")
