"""What tests of several trackers share. The command runs as a process: trackers read the environment once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from makers import ROOT

from bench.store.rundir import RunDir


def export(sink: str, run: RunDir, out: Path, **environment: str) -> str:
    """Returns what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.export", sink, str(run.path), "--out", str(out)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def scalars_of(run: RunDir) -> dict[str, float]:
    """Of its evaluations: evaluation/split/view/subset/metric -> value."""
    names = ("evaluation", "split", "view", "subset", "metric")
    rows = (row for row in run.read_rows() if not row["subset"].startswith("class: "))
    return {"/".join(row[name] for name in names): row["value"] for row in rows}


def points_of(rows: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
    """(column, step, value) of each number of metrics.jsonl."""
    return [
        (name, row["step"], value) for row in rows for name, value in row.items() if name != "step"
    ]
