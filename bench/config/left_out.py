"""What a cell is without, in words: made by bench.grid.leave_out, shown by sweeps and reports."""

from __future__ import annotations

from collections.abc import Mapping

LeftOut = dict[str, str]
"""Component -> why it is left out."""


def without(left_out: Mapping[str, str]) -> str:
    """'without video.flow (frames of 24 pixels ...)'; empty where nothing is left out."""
    return ", ".join(f"without {name} ({reason})" for name, reason in sorted(left_out.items()))
