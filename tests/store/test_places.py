"""Folders that cannot be read from or written to are told apart, and nothing is written to find out."""

from __future__ import annotations

import tempfile
from pathlib import Path

from damaging import as_nobody
from disks import read_only, small_disk

from bench.store import places


def test_what_is_or_can_be_made_is_fine(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "new/deeper"):
        assert places.no_folder(path) is None
        assert places.unwritable(path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_and_a_link_to_nothing_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    for name, why in (("file", "no folder but a file"), ("link", "a link to gone")):
        for path in (tmp_path / name, tmp_path / name / "below"):
            for said in (places.no_folder(path), places.unwritable(path)):
                assert said and said.startswith(f"{tmp_path / name} is {why}")


def test_a_folder_that_may_only_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies where only its owner may look
        Path(name).chmod(0o555)
        with as_nobody():
            assert places.no_folder(Path(name, "new")) is None
            assert "may not be written by this user" in (places.unwritable(Path(name, "new")) or "")
        Path(name).chmod(0o755)


def test_a_disk_that_may_only_be_read(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk, read_only(disk):
        assert places.no_folder(disk) is None
        assert "read-only file system" in (places.unwritable(disk / "runs") or "")


def test_what_is_free_is_that_of_the_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        assert places.free(disk / "runs/later") == 1 << 20
