"""Whether the objectives of a run have learned anything, as its training result says (`objectives`, which
bench.train.learned has summed up). Read by the cell, by the sweep's summary and by bench.results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = ("accuracy", "majority", "standard_error")


def is_learned(*, accuracy: float, majority: float, standard_error: float) -> bool:
    """Whether an accuracy is above that of always guessing the commonest label by more than its standard
    error; all three as fractions or all in percent.
    """
    return not accuracy - majority <= standard_error


def nothing_learned(result: Mapping[str, Any]) -> tuple[str, ...]:
    """One line for each objective that has not learned its labels over the last epoch. Results of before
    say nothing.
    """
    return tuple(
        f"{name}: accuracy {found['accuracy']:.2f}, its commonest label {found['majority']:.2f}: "
        "it has learned nothing"
        for name, found in (result.get("objectives") or {}).items()
        if "majority" in found and not is_learned(**{part: found[part] for part in PARTS})
    )
