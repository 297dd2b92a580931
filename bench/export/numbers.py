"""Rows as numbers that stand for themselves, with their chance level and interval.

An evaluation writes `chance`, `ci_low` and `ci_high` as rows of their own, after the row that they belong to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

CLASS = "class: "
"""How the subsets of single classes begin: hundreds of rows, which trackers and cards leave out."""

BESIDE = ("chance", "ci_low", "ci_high")


@dataclass(frozen=True)
class Number:
    """One measured number."""

    split: str
    view: str
    subset: str
    metric: str
    value: float
    n: int
    n_failed: int
    chance: float | None = None
    low: float | None = None  # the ends of its interval
    high: float | None = None


def numbers(rows: Iterable[Mapping[str, Any]]) -> list[Number]:
    """Of all subsets but those of single classes, in their order."""
    found: list[Number] = []
    for row in rows:
        if str(row["subset"]).startswith(CLASS):
            continue
        made = _number(row)
        if made.metric in BESIDE and found and _where(found[-1]) == _where(made):
            found[-1] = _with(found[-1], made)
        else:
            found.append(made)
    return found


def _number(row: Mapping[str, Any]) -> Number:
    return Number(
        split=str(row["split"]),
        view=str(row["view"]),
        subset=str(row["subset"]),
        metric=str(row["metric"]),
        value=float(row["value"]),
        n=int(row["n"]),
        n_failed=int(row.get("n_failed", 0)),
    )


def _with(number: Number, beside: Number) -> Number:
    """The number with its chance level or an end of its interval."""
    if beside.metric == "chance":
        return replace(number, chance=beside.value)
    if beside.metric == "ci_low":
        return replace(number, low=beside.value)
    return replace(number, high=beside.value)


def _where(number: Number) -> tuple[str, str, str]:
    return number.split, number.view, number.subset


def scalars(label: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """<evaluation>/<split>/<view>/<subset>/<metric> -> value, for trackers; none of single classes."""
    return {
        "/".join(
            [label, *(str(row[name]) for name in ("split", "view", "subset", "metric"))]
        ): float(row["value"])
        for row in rows
        if not str(row["subset"]).startswith(CLASS)
    }
