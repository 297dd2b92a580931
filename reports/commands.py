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
    if not (ROOT / "sweeps" / f"{sweep}.yaml").is_file() or frame.empty:
        return ""
    line = f"python -m bench.sweep sweeps/{sweep}.yaml --scale {min(frame['scale'])}"
    return line + (" (with the same --set)" if any(frame["overrides"]) else "")


def not_run(frame: pd.DataFrame, sweep: str) -> str:
    """Why a row has no runs at all, with the command if this checkout has that sweep."""
    how = command(frame, sweep)
    return "not run: no sweep in these results has this row" + (f"; {how}" if how else "")
