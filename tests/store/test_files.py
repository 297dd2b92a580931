"""A file is whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from makers import ROOT, make_run, smoke_config

from bench.run.cell import run_cell
from bench.store import files
from bench.store.files import clear_leftovers, read_lines, replacing, write_bytes
from bench.store.rundir import State


def test_a_failed_write_leaves_the_previous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.md"
    write_bytes(path, b"old")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.md"]
    assert path.read_bytes() == b"old"


def test_lines_that_are_damaged_take_no_others_with_them(tmp_path: Path) -> None:
    path = tmp_path / "starts.jsonl"
    assert read_lines(path) == []
    deep = b"[" * 100_000
    path.write_bytes(
        b'{"step": 1}\n\xff\xfe\n\x00\x00\n{"st\n[3]\n' + deep + b'\n{"step": 2}\n{"step": 3, "lo'
    )
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    assert read_lines(path, having='"step": 2') == [{"step": 2}]


KILLED = """
import os, signal, sys
from pathlib import Path
from bench.store.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path: Path) -> Path:
    """What a writer left that was killed."""
    subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    (left,) = path.parent.glob(f".{path.name}.*.tmp")
    return left


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    killed_while_writing(tmp_path / "a.json")
    killed_while_writing(tmp_path / "below/b.c.pt")
    for name in (".hidden", ".a.tmp", "a.1.tmp", ".a.b.tmp"):  # not ours
        (tmp_path / name).touch()
    clear_leftovers(tmp_path)
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == [".a.b.tmp", ".a.tmp", ".hidden", "a.1.tmp", "below"]


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as temporary:
        temporary.write_bytes(b"{}")
        long_ago = time.time() - 10 * files.ABANDONED_S
        os.utime(temporary, (long_ago, long_ago))
        clear_leftovers(tmp_path)
        assert temporary.exists()
    assert (tmp_path / "a.json").read_bytes() == b"{}"


@pytest.mark.parametrize("name", [".a.json.4194303-01234567.tmp", ".a.json.1.tmp"])
def test_of_another_host_only_what_is_old_is_removed(tmp_path: Path, name: str) -> None:
    """As is what was written when names did not say the host."""
    left = tmp_path / name
    left.touch()
    clear_leftovers(tmp_path)
    assert left.exists()
    long_ago = time.time() - files.ABANDONED_S - 60
    os.utime(left, (long_ago, long_ago))
    clear_leftovers(tmp_path)
    assert not left.exists()


def test_a_cell_starts_without_what_the_one_before_left(tmp_path: Path, data_dir: Path) -> None:
    run = make_run(tmp_path, smoke_config("baseline", **{"evaluations": {}}), data_dir)
    run.last.parent.mkdir()
    left = killed_while_writing(run.last)
    assert run_cell(run.path) == State.DONE
    assert run.last.exists() and not left.exists()
