"""Rows of evaluations as trackers have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CLASS = "class: "
"""How the subsets of single classes begin: hundreds of rows, which trackers leave out."""


def scalars(label: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """<evaluation>/<split>/<view>/<subset>/<metric> -> value, for trackers; none of single classes."""
    return {
        "/".join(
            [label, *(str(row[name]) for name in ("split", "view", "subset", "metric"))]
        ): float(row["value"])
        for row in rows
        if not str(row["subset"]).startswith(CLASS)
    }
