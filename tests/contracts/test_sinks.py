"""The rules of a sink (`bench.export.sinks.SinkModule`); tests/export has more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from makers import ROOT
from recorded import recorded

from bench import find
from bench.export.record import RunRecord
from bench.export.sinks import SinkModule

NAMES = find.names("sink")


@pytest.mark.parametrize("name", NAMES)
def test_it_says_in_a_line_what_it_makes(name: str) -> None:
    sink: SinkModule = find.load("sink", name)
    assert sink.HELP and "\n" not in sink.HELP, "HELP is one line"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_command_writes_the_same_files_anew(name: str, tmp_path: Path) -> None:
    sink: SinkModule = find.load("sink", name)
    run, out = recorded(tmp_path / "runs/0123"), tmp_path / "out"
    problems = sink.check([RunRecord(run)], out)
    assert not out.exists(), "check writes nothing"
    if problems:
        assert all("pip install" in problem for problem in problems), "check names the remedy"
        pytest.skip("; ".join(problems))
    before = files(run.path)
    listings = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "bench.export", name, str(run.path), "--out", str(out)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert str(out) in done.stdout, "write returns where it is"
        listings.append(files(out))
    assert listings[0], "write writes something"
    assert len(listings[0]) == len(listings[1]), "in place of what an earlier call wrote"
    assert files(run.path) == before, "nothing is written into the run directory"


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
