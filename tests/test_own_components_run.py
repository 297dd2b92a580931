"""A folder of the user's own with one component of each kind, made by the recipes of CONTRIBUTING: a
sweep through all of them, on processes of their own, and the report that shows them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from makers import ROOT

COMPONENTS = ROOT / "tests/fixtures/components"


@pytest.mark.slow
def test_a_sweep_and_its_report(tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(COMPONENTS, own, ignore=shutil.ignore_patterns("__pycache__"))
    work = tmp_path / "work"
    work.mkdir()
    # a loader worker unpickles the data set and the labels' function by name
    sweep = ["own", "--scale", "tiny", "--set", "resources.workers=1", "--launcher", "local"]
    run(work, "bench.sweep", *sweep)
    done = [json.loads(path.read_text()) for path in work.glob("runs/*/result.json")]
    assert len(done) == 2
    for path in work.glob("runs/*/env.json"):
        assert len(json.loads(path.read_text())["code"]["components"]) == 64
    [copy] = work.glob("runs/.jobs/code/*/components/0")
    assert (copy / "sources/squares.py").is_file() and not (copy / "tables").exists()
    run(work, "reports.build")
    page = (work / "reports/out/index.html").read_text()
    assert "Certainty of the predictions" in page and "+ brightness" in page
    table = pd.read_csv(work / "reports/out/tiny/certainty.csv")
    assert len(table) == 2 and table.notna().all(axis=None)
    assert (work / "reports/out/tiny/certainty.png").is_file()


def run(work: Path, command: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", command, *arguments, "--components", "../own"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
