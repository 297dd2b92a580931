"""The command that would fill a gap, for the reasons in tables and for error messages.

Known by path only: reports never import the engine's command line.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
FIRST_SWEEP = "python -m bench.sweep sweeps/ablation.yaml"


def not_run(frame: pd.DataFrame, sweep: str) -> str:
    """Why a row has no runs at all, with the command if this checkout has that sweep."""
    why = "not run: no sweep in these results has this row"
    if not (ROOT / "sweeps" / f"{sweep}.yaml").is_file() or frame.empty:
        return why
    scales = sorted(set(frame["scale"]))
    command = f"python -m bench.sweep sweeps/{sweep}.yaml --scale {scales[0]}"
    changed = any(frame["overrides"])
    return f"{why}; {command}" + (" (with the same --set)" if changed else "")
