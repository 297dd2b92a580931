"""Runs -> one long DataFrame, one row per measured number. The only API that reports use.

Rebuilt from manifests and run directories alone. A cell without a result is one row with empty
value and its reason, so that a table shows a hole instead of forgetting the cell.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.rundir import RunDir, State, manifests, read_json

COLUMNS = (
    "sweep", "scale", "overrides", "seed", "signature", "state", "reason", "data", "data_digest", "provenance",
    "evaluation", "split", "view", "subset", "metric", "value", "n",
)  # fmt: skip


def load(runs: Path) -> pd.DataFrame:
    """Columns: COLUMNS plus one per axis of any sweep. Empty when nothing was launched."""
    rows: list[dict[str, Any]] = []
    for path in manifests(Path(runs)):
        manifest = read_json(path)
        if manifest is None:
            raise ValueError(f"{path}: not readable; run the sweep again to rewrite it")
        for cell in manifest["cells"]:
            rows += _cell_rows(Path(runs), manifest, cell)
    axes = {key: None for row in rows for key in row if key not in COLUMNS}
    return pd.DataFrame(rows, columns=[*COLUMNS[:3], *axes, *COLUMNS[3:]])


def _cell_rows(runs: Path, manifest: dict[str, Any], cell: dict[str, Any]) -> list[dict[str, Any]]:
    run = RunDir(runs / cell["signature"])
    result = run.read_result()
    common = {
        "sweep": manifest["sweep"],
        "scale": manifest["scale"],
        "overrides": json.dumps(manifest["overrides"], sort_keys=True)
        if manifest["overrides"]
        else "",
        **cell["labels"],
        "seed": cell["seed"],
        "signature": cell["signature"],
        "data": cell["data"],
    }
    if result is None or cell["stale"]:
        state, reason = _hole(run, cell)
        empty = dict.fromkeys(("evaluation", "split", "view", "subset", "metric"))
        return [{**common, "state": state, "reason": reason, **empty, "value": np.nan, "n": 0}]
    traced = {
        "state": str(State.DONE),
        "reason": "",
        "data_digest": result["data_digest"],
        "provenance": result["provenance"],
    }
    return [{**common, **traced, **row} for row in result["rows"]]


def _hole(run: RunDir, cell: dict[str, Any]) -> tuple[str, str]:
    if cell["skip"]:
        return str(State.SKIPPED), cell["skip"]
    if cell["stale"]:
        return str(State.STALE), cell["stale"]
    state = run.state()
    if state == State.DONE:
        return str(State.FAILED), f"{run.result} is not readable"
    reasons = {
        State.FAILED: run.error_line() if state == State.FAILED else "",
        State.NEW: "not run yet",
        State.PENDING: "waiting to start",
        State.RUNNING: "still running",
        State.INTERRUPTED: "interrupted; run the sweep again to go on",
    }
    return str(state), reasons.get(state, "")
