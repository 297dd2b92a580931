"""The record of a sweep among its runs, from which the report knows what belongs together."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.config import signature
from bench.grid.plan import Cell, Plan
from bench.store.files import DamagedFile, clear_leftovers
from bench.store.result_files import Kind, read_with_seal, write_result
from bench.store.rundir import State, manifest_path
from bench.sweep.status import CellStatus


def write_manifest(grid: Plan, runs: Path, statuses: Iterable[CellStatus]) -> None:
    """Which labels belong to which directories and to which evaluations in them, and which runs are
    stale; for bench.results. One that says so already is not touched.
    """
    parents = {cell.signature for cell in grid.parents}
    cells = [
        {
            "labels": s.cell.labels,
            "seed": s.cell.seed,
            "signature": s.run.signature,
            "evaluations": {
                identity: entry["evaluation"]
                for identity, entry in signature.asked_of(s.cell.config).items()
            },
            "skip": s.cell.skip,
            "left_out": s.cell.left_out,
            "stale": s.note if s.state == State.STALE else None,
            "data": s.cell.config.data.name,
            **_data_seed(s.cell),
        }
        for s in statuses
        if s.cell.signature not in parents
    ]
    manifest = {
        "sweep": grid.sweep,
        "scale": grid.scale,
        "title": grid.title,
        "axes": list(grid.axes),
        "overrides": grid.overrides,
        "cells": cells,
    }
    path = manifest_path(runs, grid.name)
    if not _says(path, manifest):
        write_result(path, Kind.MANIFEST, manifest)
        clear_leftovers(path.parent)


def _data_seed(cell: Cell) -> dict[str, int]:
    """Of generated data, unless it is 0 as it usually is: manifests of before say none."""
    seed = getattr(cell.config.data.config, "seed", None)
    return {"data_seed": seed} if seed else {}


def _says(path: Path, manifest: dict[str, Any]) -> bool:
    try:
        found, sealed = read_with_seal(path, Kind.MANIFEST)
    except DamagedFile:
        return False
    return sealed and found == json.loads(json.dumps(manifest))
