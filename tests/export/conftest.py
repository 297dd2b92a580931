"""A real run of two epochs, and what bench.evaluate measured of its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from makers import make_run, smoke_config
from recorded import copy_of

from bench import find
from bench.evaluate import command as evaluate
from bench.export import record
from bench.run.cell import run_cell
from bench.store.rundir import RunDir, State


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> RunDir:
    made = make_run(tmp_path_factory.mktemp("exported") / "runs", smoke_config("+ TIME"), data_dir)
    assert run_cell(made.path) == State.DONE
    return made


@pytest.fixture(scope="session")
def runs(run: RunDir) -> Path:
    return run.path.parent


@pytest.fixture(scope="session")
def evaluated(run: RunDir, data_dir: Path) -> list[Path]:
    """Of two evaluations of one model."""
    data = smoke_config().data
    shards = find.load("source", data.name).locate(data.config, data_dir)
    where = ["--data", str(shards), "--runs", str(run.path.parent), "--device", "cpu"]
    names = "video.shuffle_gap,video.arrow_of_time"
    assert evaluate.main([names, "--model", str(run.path), *where, "--threads", "1"]) == 0
    return sorted((run.path.parent / "evaluated").glob("*.json"))


@pytest.fixture(scope="session")
def metrics(run: RunDir) -> list[dict[str, Any]]:
    """The lines of the run's metrics.jsonl."""
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.fixture
def unfinished(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """The run as it was before its first step."""
    monkeypatch.setattr(record, "POLL_S", 0.01)
    made = copy_of(run, tmp_path)
    made.result.unlink()
    made.metrics.write_bytes(b"")
    return made
