"""The sink `trackio`: its database, read back by trackio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trackers import export, points_of, scalars_of

from bench.store.rundir import RunDir

pytest.importorskip("trackio")

READ = """
import json, sys, trackio
from trackio.sqlite_storage import SQLiteStorage
runs = list(trackio.Api().runs("time-matters"))
print(json.dumps([[run.name, run.config, SQLiteStorage.get_logs("time-matters", run.name)] for run in runs]))
"""


def read(folder: Path) -> list[Any]:
    environment = {**os.environ, "TRACKIO_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout))


def test_it_holds_every_step_and_row_once_and_stays_here(
    run: RunDir, metrics: list[dict[str, Any]], tmp_path: Path
) -> None:
    for _ in range(2):
        export("trackio", run, tmp_path, TRACKIO_SPACE_ID="nobody/nothing")
    ((name, config, logs),) = read(tmp_path)
    assert name == run.signature and config["model"] == run.read_config()["model"]
    wanted = points_of(metrics)
    wanted += [(name, metrics[-1]["step"], value) for name, value in scalars_of(run).items()]
    names = {name for name, _, _ in wanted}
    found = [point for point in points_of(logs) if point[0] in names]
    assert sorted(found) == sorted(wanted)
    tables = {name: value for log in logs for name, value in log.items() if isinstance(value, dict)}
    assert tables["video.order_probe"]["_value"] == [
        row for row in run.read_rows() if row["evaluation"] == "video.order_probe"
    ]
