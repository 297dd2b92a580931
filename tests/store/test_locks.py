"""The one lock: who holds it, who waits, and when it is free again."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from bench.store import files
from bench.store.files import Busy, lock

HOLD = "import sys; sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read()"


def is_free(path: Path, *, shared: bool = False) -> bool:
    try:
        with lock(path, shared=shared, patience_s=0):
            return True
    except Busy:
        return False


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new folder/lock"
    with lock(path):
        assert not is_free(path) and not is_free(path, shared=True)
    assert is_free(path)


def test_readers_share_it_and_make_no_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(FileNotFoundError):
        is_free(path, shared=True)
    with lock(path):
        pass
    with lock(path, shared=True):
        assert is_free(path, shared=True) and not is_free(path)


def test_a_child_keeps_it_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path) as handle:
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[handle.fileno()],
        )
    assert child.stdout is not None and child.stdout.read(1) == b"."
    assert not is_free(path)
    child.kill()
    child.communicate()
    assert is_free(path)


def test_waiting_for_long_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "SAY_AFTER_S", 0.0)
    path = tmp_path / "lock"
    with (
        lock(path),
        caplog.at_level(logging.INFO),
        pytest.raises(Busy, match="held by another process"),
        lock(path, patience_s=0.2, waiting_for="a client"),
    ):
        pass
    assert [record.message for record in caplog.records] == ["waiting for a client"]


def test_without_locks_a_file_system_grants_what_is_not_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_handle: object, _kind: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with lock(tmp_path / "lock", required=False):
        pass
    with pytest.raises(OSError, match="No locks"), lock(tmp_path / "lock"):
        pass
