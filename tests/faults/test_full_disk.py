"""A disk that is full at a moment of a cell's life: it is said, it is a class of its own, and after room
was made the same command ends with the undisturbed numbers.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import fill, make_room, small_disk
from makers import assert_same, make_run, smoke_config
from recorded import rows_of

from bench.run.cell import run_cell
from bench.store import files
from bench.store.rundir import RunDir, State
from bench.train import checkpoint

MEGABYTES = 6
MOMENTS = 20


class Writes:
    """Counts the files that are replaced, and fills the disk before one of them, but for some bytes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.at, self.but, self.disk = -1, 0, Path()
        original = files.replacing

        def replacing(path: Path, **how: Any) -> Any:
            if path.name != "progress.json":  # which is written now and then
                if len(self.names) == self.at:
                    fill(self.disk, but=self.but)
                self.names.append(path.name)
            return original(path, **how)

        for module in _users_of(original):
            patch.setattr(module, "replacing", replacing)

    def fill_at(self, number: int, disk: Path, but: int) -> None:
        self.names, self.at, self.disk, self.but = [], number, disk, but


def _users_of(function: Callable[..., Any]) -> list[Any]:
    """The modules that have it under its name."""
    found = list(sys.modules.values())
    return [m for m in found if getattr(m, "replacing", None) is function]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> RunDir:
    run = made(tmp_path_factory.mktemp("straight"), data_dir)
    assert run_cell(run.path) == State.DONE
    return run


def made(folder: Path, data_dir: Path) -> RunDir:
    return make_run(folder, smoke_config("baseline"), data_dir, checkpoint_steps=1)


def is_as(straight: RunDir, run: RunDir) -> None:
    assert_same(straight, run)
    assert rows_of(straight) == rows_of(run)


def test_a_checkpoint_says_that_the_disk_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        state = {"weights": [torch.zeros(100_000) for _ in range(4)]}
        checkpoint.save(disk / "last.pt", {"step": 1})
        for free in (0, 8_192, 1_000_000):
            fill(disk, but=free)
            with pytest.raises(OSError, match=r"No space left on device.*last.pt"):
                checkpoint.save(disk / "last.pt", state)
            assert checkpoint.read(disk / "last.pt") == {"step": 1}
            make_room(disk)
        assert [path.name for path in disk.iterdir()] == ["last.pt"]


def test_a_full_disk_is_a_failure_of_its_own(
    undisturbed: RunDir, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for a small file: the cell can still say why it ended."""
    with small_disk(tmp_path / "disk", MEGABYTES) as disk:
        run = made(disk, data_dir)
        with monkeypatch.context() as patch:
            writes = Writes(patch)
            writes.fill_at(3, disk, but=32_768)
            assert run_cell(run.path) == State.FAILED == run.state()
        assert run.read_outcome()["kind"] == "DISK"
        assert "No space left on device" in run.error_line()
        make_room(disk)
        assert run_cell(run.path) == State.DONE
        is_as(undisturbed, run)


@pytest.mark.slow
def test_a_cell_on_a_full_disk_goes_on_after_room_was_made(
    undisturbed: RunDir,
    tmp_path: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = random.Random(14)
    writes = Writes(monkeypatch)
    assert run_cell(made(tmp_path / "whole", data_dir).path) == State.DONE
    count, seen = len(writes.names), []
    for moment in range(MOMENTS):
        with small_disk(tmp_path / f"disk-{moment}", MEGABYTES) as disk:
            run = made(disk, data_dir)
            writes.fill_at(rng.randrange(count), disk, but=rng.choice((0, 4_096, 16_384, 65_536)))
            capsys.readouterr()
            ended = run_cell(run.path)
            shown = capsys.readouterr().err
            stopped_at = writes.names[writes.at : writes.at + 1]
            writes.fill_at(-1, disk, but=0)
            make_room(disk)
            if ended != State.DONE:  # else it ended before, or what was left was enough
                assert "No space left on device" in shown + run.error_line()
                assert "Traceback" not in shown
                assert run.state() in (State.FAILED, State.INTERRUPTED, State.NEW)
                seen += stopped_at
                assert run_cell(run.path) == State.DONE
            is_as(undisturbed, run)
    assert len(set(seen)) >= 3, seen
