"""The command that would fill a gap, for the reasons in tables and for error messages.

Known by path only: reports never import the engine's command line.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
FIRST_SWEEP = "python -m bench.sweep sweeps/ablation.yaml"


def command(frame: pd.DataFrame, sweep: str) -> str:
    """How to run a sweep at the scale of these results; nothing if this checkout lacks it."""
    scales = sorted(set(frame["scale"].unique()) - {""})  # models without a run have none
    if not (ROOT / "sweeps" / f"{sweep}.yaml").is_file() or not scales:
        return ""
    line = f"python -m bench.sweep sweeps/{sweep}.yaml --scale {scales[0]}"
    return line + (" (with the same --set)" if any(frame["overrides"].unique()) else "")


def not_run(frame: pd.DataFrame, sweep: str) -> str:
    """Why a row has no runs at all, with the command if this checkout has that sweep."""
    how = command(frame, sweep)
    return "not run: no sweep in these results has this row" + (f"; {how}" if how else "")


def nothing(frame: pd.DataFrame, sweep: str, does: str) -> tuple[str, ...]:
    """The note of a table without rows: that no sweep does this, and how to run one that does."""
    how = command(frame, sweep)
    return (f"No sweep in these results {does}" + (f"; {how}" if how else "") + ".",)
