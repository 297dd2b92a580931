"""The journal of a search: Optuna's operations, one a line, each verified when it is read.

A line carries the SHA-256 of itself and of all lines before it (`sha256`, which Optuna ignores), and
`journal.head` says how much there was at least, and its digest. So a changed bit, a line that is missing,
an end that is gone and another search's journal are noticed. An unfinished last line is no damage: its
writer was killed, nobody was told that it had been written, and the next one cuts it off. Lines of before
there were digests are taken as they are, up to the first that has one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from bench.store.files import DamagedFile, lock, read_json_if_sound, replacing

Operation = dict[str, Any]

_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""What is wrong with the place and not with the disk or the rights, of which a journal is no worse."""
_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n\Z')


def open_journal(path: Path) -> JournalStorage:
    """Raises DamagedFile, and OSError where it may not or cannot be read for now."""
    if not path.exists():
        path.touch()
    try:
        return JournalStorage(SearchJournal(path))
    except (DamagedFile, OSError):
        raise
    except Exception as error:  # of lines without digests Optuna finds out by failing with any
        raise DamagedFile(path, f"is no journal ({type(error).__name__}: {error})") from error


def head_of(path: Path) -> Path:
    """What keeps the size and digest that the journal had after its last line was written."""
    return path.with_suffix(".head")


@dataclass(frozen=True)
class Position:
    """Behind a line of a journal."""

    line: int
    offset: int
    digest: str  # of all before it
    sealed: bool  # whether lines have digests there


def lines(path: Path, start: Position | None = None) -> Iterator[tuple[Operation, Position]]:
    """The operations behind `start`, each with the place behind it. Raises DamagedFile at the first that
    is not what was written.
    """
    at = start or beginning(path)
    try:
        with path.open("rb") as file:
            file.seek(at.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                operation, at = _verified(path, line, at)
                yield operation, at
    except _NO_FILE as error:
        raise DamagedFile(path, f"cannot be read ({error.strerror})") from error


def sound_part(path: Path) -> tuple[list[Operation], Position]:
    """The operations before the first damage, and the place behind them."""
    found, at = [], beginning(path)
    with suppress(DamagedFile):
        for operation, behind in lines(path):
            found.append(operation)
            at = behind
    return found, at


def beginning(path: Path) -> Position:
    """Of the journal in this folder: a search's journal is no other's."""
    return Position(0, 0, path.parent.name, sealed=False)


def _verified(path: Path, line: bytes, at: Position) -> tuple[Operation, Position]:
    where, seal = f"line {at.line + 1}", _SEAL.search(line)
    digest = _digest(at.digest, line[: seal.start()] if seal else line)
    if (seal is None and at.sealed) or (seal and seal[1].decode() != digest):
        raise DamagedFile(path, f"is not what was written ({where})")
    try:
        operation = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"is not JSON ({where}: {error})") from error
    if not isinstance(operation, dict):
        raise DamagedFile(path, f"holds no operation ({where})")
    return operation, Position(at.line + 1, at.offset + len(line), digest, seal is not None)


def _digest(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + body).hexdigest()


class SearchJournal(BaseJournalBackend):
    """For Optuna's JournalStorage. Raises DamagedFile wherever the file is not what it was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = beginning(path)
        self._inode: int | None = None

    def read_logs(self, log_number_from: int) -> Iterator[Operation]:
        whole = log_number_from != self._at.line or not self._at.line
        if whole:
            self._at = beginning(self._path)
        head = self._head()  # before the file, which may grow meanwhile
        self._refuse_another(head[0] if whole else self._at.offset)
        for operation, behind in lines(self._path, self._at):
            self._at = behind
            if whole and self._at.offset == head[0] and self._at.digest != head[1]:
                raise DamagedFile(self._path, "is not what was written")
            if self._at.line > log_number_from:
                yield operation
        if self._at.offset < head[0]:
            raise DamagedFile(self._path, f"ends after {self._at.offset} of {head[0]} bytes")

    def append_logs(self, logs: list[Operation]) -> None:
        with lock(self._path.with_suffix(".lock")):
            size, _ = self._head()
            self._refuse_another(size)
            try:
                with self._path.open("r+b") as file:
                    digest = self._end(file, size)
                    for log in logs:
                        body = json.dumps(log, separators=(",", ":"))[:-1].encode()
                        digest = _digest(digest, body)
                        file.write(body + f',"sha256":"{digest}"}}\n'.encode())
                    file.flush()
                    os.fsync(file.fileno())
                    size = file.tell()
            except IsADirectoryError as error:
                raise DamagedFile(self._path, "is a directory") from error
            with replacing(head_of(self._path), durable=False) as head:
                head.write_text(json.dumps({"size": size, "sha256": digest}))

    def _head(self) -> tuple[int, str]:
        found = read_json_if_sound(head_of(self._path))
        size, digest = found.get("size"), found.get("sha256")
        known = isinstance(size, int) and isinstance(digest, str)
        return (size, digest) if known else (0, "")  # type: ignore[return-value]

    def _refuse_another(self, size: int) -> None:
        """Nothing is read from, or written to, a file that others have replaced or cut."""
        try:
            status = self._path.stat()
        except _NO_FILE as error:
            raise DamagedFile(self._path, f"cannot be read ({error.strerror})") from error
        self._inode = self._inode or status.st_ino
        if status.st_ino != self._inode:
            raise DamagedFile(self._path, "was replaced meanwhile")
        if status.st_size < size:
            raise DamagedFile(self._path, f"has {status.st_size} of {size} bytes")

    def _end(self, file: BinaryIO, least: int) -> str:
        """Go to the end of the last whole line, and cut off what follows; the digest of all before."""
        end = file.seek(0, os.SEEK_END)
        last = b""
        for size in (4096, end):  # nearly always the last line is in the first of these
            file.seek(max(0, end - size))
            tail = file.read()
            whole = tail[: tail.rfind(b"\n") + 1]
            start = whole.rfind(b"\n", 0, -1) + 1
            if start or len(tail) == end:
                last = whole[start:]
                break
        end -= len(tail) - len(whole)
        if end < least:
            raise DamagedFile(self._path, f"has {end} of {least} bytes")
        file.seek(end)
        file.truncate()
        if seal := _SEAL.search(last):
            return seal[1].decode()
        return sound_part(self._path)[1].digest
