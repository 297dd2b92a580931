"""Commands where the runs are no folder, may only be read, or have no room: one line, exit status 2,
nothing written; and what needs to write nothing works.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import fill, make_room, read_only, small_disk
from makers import ROOT

from bench import prepare
from bench.evaluate.command import main as evaluate
from bench.sweep.command import main as sweep
from bench.tune.command import main as tune
from reports.build import main as report

MEGABYTES = 12


def arguments(runs: Path, data_dir: Path, *more: str) -> list[str]:
    places = ["--set", f"resources.data_dir={data_dir}", "--set", "resources.device=cpu"]
    few = ["--set", "evaluations={video.shuffle_gap: {}}"]
    file = str(ROOT / "sweeps/ablation.yaml")
    return [file, "--scale", "smoke", "--runs", str(runs), *places, *few, *more]


def tune_arguments(runs: Path, data_dir: Path, *more: str) -> list[str]:
    file = str(ROOT / "sweeps/tune.yaml")
    return [file, "--scale", "smoke", "--runs", str(runs), *more]


COMMANDS: dict[str, Callable[[Path, Path], int]] = {
    "sweep": lambda runs, data: sweep(arguments(runs, data)),
    "status": lambda runs, data: sweep(arguments(runs, data, "--status")),
    "plan": lambda runs, data: sweep(arguments(runs, data, "--plan")),
    "tune": lambda runs, data: tune(tune_arguments(runs, data)),
    "tune status": lambda runs, data: tune(tune_arguments(runs, data, "--status")),
    "evaluate": lambda runs, data: evaluate(
        ["video.shuffle_gap", "--model", "x", "--data", str(data), "--runs", str(runs)]
    ),
    "report": lambda runs, data: report(["--runs", str(runs), "--out", str(data / "report")]),
    "report to": lambda runs, data: report(["--runs", str(data), "--out", str(runs)]),
    "prepare": lambda runs, data: prepare.main(["mini-ssv2", "--out", str(runs)]),
}


@pytest.mark.parametrize("kind", ["file", "link"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_folder_is_said_in_a_line(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, data = tmp_path / "runs", tmp_path / "data"
    if command == "report to":
        make_an_archive(data)
    runs.touch() if kind == "file" else runs.symlink_to("gone")
    before = sorted(tmp_path.rglob("*"))
    assert COMMANDS[command](runs, data) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and f"{runs} is " in said, said
    assert ("a link to gone" if kind == "link" else "no folder but a file") in said
    assert sorted(tmp_path.rglob("*")) == before


def make_an_archive(folder: Path) -> None:
    """The smallest that has a report."""
    shutil.copytree(ROOT / "tests/fixtures/old_runs/runs", folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    runs = tmp_path_factory.mktemp("places") / "runs"
    assert sweep(arguments(runs, data_dir, "--launcher", "inline")) == 0
    shutil.rmtree(runs / ".jobs", ignore_errors=True)
    for previous in runs.glob("*/checkpoint/*.pt"):
        previous.unlink()
    return runs


def test_an_archive_that_may_only_be_read(
    finished: Path, tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", MEGABYTES) as disk:
        runs = shutil.copytree(finished, disk / "runs")
        with read_only(disk):
            for more in ((), ("--status",), ("--plan",)):
                assert sweep(arguments(runs, data_dir, *more)) == 0
                shown = capsys.readouterr()
                assert "DONE" in shown.out and "read-only" not in shown.out and shown.err == ""
            assert report(["--runs", str(runs), "--out", str(tmp_path / "report")]) == 0
            assert report(["--runs", str(runs), "--out", str(disk / "report")]) == 2
            assert "read-only file system" in capsys.readouterr().err
        next((runs / "sweeps").glob("ablation-smoke*.json")).unlink()
        with read_only(disk):
            assert sweep(arguments(runs, data_dir)) == 0
            assert "read-only file system" in capsys.readouterr().out.replace("\n", " ")
            more = ("--set", "seeds=[7]", "--launcher", "inline")
            assert sweep(arguments(runs, data_dir, *more)) == 2
            said = capsys.readouterr().err.strip()
            assert said.count("\n") == 0 and "--runs:" in said and "read-only file system" in said


def test_data_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with small_disk(tmp_path / "disk", 1) as disk:
        for data, why in ((disk, "read-only file system"), (tmp_path / "file", "no folder but")):
            with read_only(disk):
                assert sweep(arguments(tmp_path / "runs", data, "--launcher", "inline")) == 2
            said = capsys.readouterr().err.strip()
            assert "resources.data_dir: mini_ssv2 is not there yet" in said and why in said
            assert not (tmp_path / "runs").exists()


def test_data_on_a_disk_that_fills_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    with small_disk(tmp_path / "disk", 4 * MEGABYTES) as disk:
        sizes = ("--train", "24", "--tune", "12", "--test", "12")
        command = ["mini-ssv2", "--out", str(disk / "data"), *sizes]
        for free in (0, 65_536, 1 << 20):
            fill(disk, but=free)
            assert prepare.main(command) == 2
            said = capsys.readouterr().err
            assert "No space left on device" in said or "MB are free" in said
            assert "Traceback" not in said
            make_room(disk)
        assert prepare.main(command) == 0
        assert prepare.main([*command, "--check"]) == 0


def test_a_report_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_an_archive(tmp_path / "runs")
    with small_disk(tmp_path / "disk", MEGABYTES) as disk:
        command = ["--runs", str(tmp_path / "runs"), "--out", str(disk / "report")]
        for free in (0, 8_192, 65_536):
            fill(disk, but=free)
            assert report(command) == 2
            said = capsys.readouterr().err.strip()
            assert said.count("\n") == 0 and "No space left on device" in said
            make_room(disk)
        assert report(command) == 0
        assert report([*command[:2], "--out", str(tmp_path / "report")]) == 0
        names = {path.relative_to(disk / "report") for path in (disk / "report").rglob("*.*")}
        for name in names:
            there = (tmp_path / "report" / name).read_bytes()
            assert (disk / "report" / name).read_bytes() == there
