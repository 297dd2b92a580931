"""Are the shards that are about to be read what was written? Every byte is compared with the SHA-256 in
index.json, once on a machine: what was verified gets a stamp in the user's cache
(`resources.verify`).

A stamp holds size, time of change and inode of the file and the digest that was expected of it. As
long as these are the same nothing is read again; whatever differs is verified again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from bench.data.shards.read import BadData, read_index, remedy
from bench.process import interrupt
from bench.process.environment import RankEnvironment
from bench.process.machine import available_cores
from bench.store.files import (
    Busy,
    lock,
    read_json_if_sound,
    sha256_of,
    warn_once,
    write_json,
)

log = logging.getLogger(__name__)

Verify = Literal["first", "always", "never"]
SHOWN = 5
"""How many damaged shards a message lists."""
_READERS = 4  # more do not make a disk faster
_SAVED_EVERY_S = 2.0
_PATIENCE_S = 10.0  # between two looks whether a process that waits was told to stop

Entry = Mapping[str, Any]
"""Of a shard in index.json: bytes, sha256 ..."""


def wrong_with(path: Path, entry: Entry) -> str | None:
    """In one line why a shard is not the file that its entry tells of; None if it is."""
    if not path.exists():
        return f"{path.name} is missing"
    if not path.is_file():
        return f"{path.name} is not a file"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{path.name} has {size} bytes instead of {entry['bytes']}"
    if sha256_of(path) != entry["sha256"]:
        return f"{path.name} has another SHA-256 than when it was written"
    return None


def verify(folder: Path, splits: Sequence[str], when: Verify) -> None:
    """Verify the shards of some splits. BadData lists those that are not what was written.

    `first`: those without a stamp; `always`: all, but for what another process verified while this one
    waited for it; `never`: none.
    """
    if when == "never":
        return
    index = read_index(folder)
    names = [name for split in splits for name in index["splits"][split]["shards"]]
    # shards were once written without checksums
    entries = {name: e for name in names if "sha256" in (e := index["shards"].get(name, {}))}
    since = time.time() if when == "always" else 0.0
    stamps = _Stamps(folder)
    if not stamps.lacking(entries, since):
        return
    with stamps.alone():
        _verify(folder, stamps.lacking(entries, since), stamps)


def _verify(folder: Path, entries: Mapping[str, Entry], stamps: _Stamps) -> None:
    if not entries:  # another process has just done it
        return
    size = sum(entry["bytes"] for entry in entries.values())
    log.info(
        "verifying %d shard%s of %s, %s, once on this machine",
        len(entries),
        "s" if len(entries) > 1 else "",
        folder,
        f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB",
    )
    if problems := _problems(folder, entries, stamps):
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise BadData(
            f"the shard folder {folder} is not what was written: {'; '.join(problems[:SHOWN])}{more}. "
            f"Copy what is damaged anew, or run the command that made the shards again, it rewrites "
            f"that. {remedy(folder)}"
        )


def _problems(folder: Path, entries: Mapping[str, Entry], stamps: _Stamps) -> list[str]:
    """A line for each shard that is damaged, a stamp for each that is not."""
    problems = []
    # From before the files are read: what changes meanwhile gets no stamp that fits.
    states = {name: _state(folder / name, entry) for name, entry in entries.items()}
    with ThreadPoolExecutor(min(_READERS, available_cores())) as pool:
        found = pool.map(lambda name: _readable(folder / name, entries[name]), entries)
        try:
            for (name, state), problem in zip(states.items(), found, strict=True):
                if problem:
                    problems.append(problem)
                else:
                    stamps.add(name, state)
                _stop_if_told()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            stamps.save()
    return problems


def _readable(path: Path, entry: Entry) -> str | None:
    try:
        return wrong_with(path, entry)
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"


def _stop_if_told() -> None:
    """A rank goes on: the others wait for it, and SLURM kills them together."""
    if RankEnvironment.from_env().size == 1:
        interrupt.check()


class _Stamps:
    """Of one shard folder on this machine. Without a cache that can be written there are none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        where = f"{os.uname().nodename}\n{folder.resolve()}"
        name = hashlib.sha256(where.encode(errors="surrogateescape")).hexdigest()[:16]
        self._path = cache_folder() / f"{name}.json"
        self._new: dict[str, Any] = {}
        self._saved = time.monotonic()

    def lacking(self, entries: Mapping[str, Entry], since: float) -> dict[str, Entry]:
        """The shards without a stamp that fits, or with one that is older than `since`."""
        known = self._read()
        return {
            name: entry
            for name, entry in entries.items()
            if not _fits(known.get(name), _state(self._folder / name, entry), since)
        }

    def add(self, name: str, state: list[Any] | None) -> None:
        """Kept within seconds: a process that is killed has not read for nothing."""
        self._new[name] = {"state": state, "time": time.time()}
        if time.monotonic() > self._saved + _SAVED_EVERY_S:
            self.save()

    def save(self) -> None:
        """What was added, beside what is there."""
        if not self._new:
            return
        shards = {**self._read(), **self._new}
        try:
            write_json(self._path, {"folder": str(self._folder.resolve()), "shards": shards})
        except OSError as error:
            _warn(error)
        self._new, self._saved = {}, time.monotonic()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process on this machine verifies, the others wait for its stamps."""
        with ExitStack() as stack:
            while True:
                _stop_if_told()
                try:
                    stack.enter_context(self._lock())
                except Busy:
                    continue
                except OSError as error:
                    _warn(error)
                break
            yield

    def _lock(self) -> AbstractContextManager[Any]:
        whom = f"another process, which is verifying {self._folder}"
        return lock(self._path.with_suffix(".lock"), patience_s=_PATIENCE_S, waiting_for=whom)

    def _read(self) -> dict[str, Any]:
        shards = read_json_if_sound(self._path).get("shards")
        return shards if isinstance(shards, dict) else {}


def cache_folder() -> Path:
    """Where stamps are kept. May be deleted: everything is then verified once more."""
    home = os.environ.get("HOME") or tempfile.gettempdir()
    base = os.environ.get("XDG_CACHE_HOME") or Path(home) / ".cache"
    return Path(base) / "time-matters" / "verified"


def _state(path: Path, entry: Entry) -> list[Any] | None:
    """What a stamp holds of a file; None where there is none, which no stamp fits."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino, entry["sha256"]]


def _fits(stamp: Any, state: list[Any] | None, since: float) -> bool:
    """Whatever the stamp is: the cache is a file like others."""
    if state is None or not isinstance(stamp, dict) or stamp.get("state") != state:
        return False
    when = stamp.get("time")
    return isinstance(when, float) and when >= since


def _warn(error: OSError) -> None:
    warn_once(
        f"shards are verified at every start, since {cache_folder()} cannot be written "
        f"({error.strerror}): set XDG_CACHE_HOME"
    )
