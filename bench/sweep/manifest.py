"""The record of a sweep among its runs, from which the report knows what belongs together."""

from __future__ import annotations

from pathlib import Path

from bench.grid.plan import Plan
from bench.store.files import write_json
from bench.store.rundir import manifest_path


def write_manifest(grid: Plan, runs: Path, stale: dict[str, str]) -> None:
    """Which labels belong to which signatures, and which runs are stale; for bench.results."""
    cells = [
        {
            "labels": c.labels,
            "seed": c.seed,
            "signature": c.signature,
            "skip": c.skip,
            "stale": stale.get(c.signature),
            "data": c.config.data.name,
        }
        for c in grid.cells
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
    write_json(path, manifest)
