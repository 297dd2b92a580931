"""A file is whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.store.files import read_lines, write_bytes


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
