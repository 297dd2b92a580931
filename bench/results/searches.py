"""The searches of `bench.tune`, as the report reads them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from bench.results import rows_file
from bench.results.rows import EVALUATED, overrides_of
from bench.store.files import DamagedFile
from bench.store.result_files import Kind, read_result

log = logging.getLogger(__name__)


def search(runs: Path) -> list[dict[str, Any]]:
    """The searches of `bench.tune`, by name: each {study, sweep, scale, overrides, title, metric,
    split, direction, sampler, pruner, optuna, planned, epochs, best, importances,
    importances_reason, trials}.

    A trial is {number, state, params, value, intermediate, signature, seconds, retry_of, point,
    error, lost}; only a COMPLETE one has a value.
    """
    if (place := rows_file.inside(runs)) is not None:
        file, name = place
        return list(file.searches.get(name, ()))
    found = []
    for path in sorted((Path(runs) / "tune").glob("*/trials.json")):
        try:
            study = read_result(path, Kind.SEARCH)
        except DamagedFile as error:
            log.warning("%s; `python -m bench.tune` writes it again", error)
            continue
        found += [study] if study else []
    return found


def search_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The searches among the runs of these rows, at their scale and with their overrides: what may
    stand beside them.
    """
    rows = frame[frame["sweep"] != EVALUATED]
    folders = {_runs_of(Path(run_dir)) for run_dir in rows["run_dir"].dropna().unique()}
    asked = rows[["scale", "overrides"]].drop_duplicates()
    settings = set(zip(asked["scale"], asked["overrides"], strict=True))
    studies = [study for folder in sorted(folders) for study in search(folder)]
    return [s for s in studies if (s["scale"], overrides_of(s)) in settings]


def _runs_of(run_dir: Path) -> Path:
    """The folder of runs that one of its directories, or of an evaluation in it, is in."""
    inside = run_dir.parent.name == "evaluations"
    return run_dir.parents[2] if inside else run_dir.parent
