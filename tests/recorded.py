"""A run directory as a run leaves it, written by hand: for tests of what reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.store.files import write_json
from bench.store.rundir import RunDir

ROWS = tuple(
    {
        "evaluation": "video.arrow_of_time", "split": "val", "view": "direction", "subset": "all",
        "metric": metric, "value": value, "n": 7, "n_failed": 1,
    }
    for metric, value in (("accuracy", 0.625), ("chance", 0.5), ("ci_low", 0.25), ("ci_high", 0.875))
)  # fmt: skip


def recorded(
    path: Path, *, rows: Sequence[dict[str, Any]] = ROWS, data: str = "mini_ssv2"
) -> RunDir:
    run = RunDir(path)
    run.create({"data": {"name": data}, "train": {"lr": 0.1}}, {}, "digest", {})
    lines = [{"step": step, "epoch": step / 2, "lr": 0.1, "loss": 1 / step} for step in (1, 2)]
    run.metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    folder = run.evaluation("video.arrow_of_time-12345678")
    made_from = {"data": data, "data_digest": "d" * 64, "provenance": "4 frames, 1 centre crop"}
    folder.path.mkdir(parents=True)
    named = {"evaluation": "video.arrow_of_time", "version": 1, "options": {"folds": 5}}
    write_json(folder.result, {**named, **made_from, "rows": list(rows)})
    write_json(run.result, {"signature": run.signature, **made_from})
    return run


def rows_of(run: RunDir) -> list[dict[str, Any]]:
    """All rows of its evaluations, in the order of their names."""
    return [row for _, result in run.read_measured() for row in (result or {})["rows"]]


def copy_of(run: RunDir, folder: Path) -> RunDir:
    return RunDir(shutil.copytree(run.path, folder / run.signature))
