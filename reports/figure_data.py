"""The numbers of a figure, as files beside it: `<figure>.data.csv` and `<figure>.data.json`.

Called by `build`. A figure asks `stats.aggregate` for what it draws, and all that it asked for is what
is written: in percent, with each seed's value and the runs behind it. A figure that draws something
else says so itself (`FigureModule.data`).
"""

from __future__ import annotations

import csv as csv_module
import io
import json as json_module
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from bench.shown import inert
from reports.asked import Asked
from reports.stats import Aggregate


def of_aggregates(asked: Iterable[Asked]) -> pd.DataFrame:
    """One row for each number that was found; none for what was asked for in vain."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for labels, measure, number in asked:
        if number.mean is not None:
            key = (*sorted(labels.items()), measure)
            rows[key] = {**labels, **asdict(measure), **_numbers(number)}
    return pd.DataFrame(list(rows.values()))


def _numbers(number: Aggregate) -> dict[str, Any]:
    return {
        "mean": number.mean,
        "std": number.std,
        "samples": number.samples,
        "seeds": [run.seed for run in number.measured],
        "values": list(number.values),
        "seeds_missing": len(number.expected) - len(number.measured),
        "signatures": list(number.signatures),
    }


def files(data: pd.DataFrame) -> dict[str, bytes]:
    """By format; nothing of no rows."""
    if data.empty:
        return {}
    records = [{name: _plain(row[name]) for name in data} for row in data.to_dict("records")]
    return {"data.csv": _csv(list(data), records).encode(), "data.json": _json(records).encode()}


def _plain(value: Any) -> Any:
    """As JSON has it: a number that is none is null."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is None or value is pd.NA or value != value else value


def _csv(columns: Sequence[Any], records: Iterable[Mapping[Any, Any]]) -> str:
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow(inert.csv_cell(str(name)) for name in columns)
    for record in records:
        writer.writerow(_cell(record[name]) for name in columns)
    return out.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return inert.csv_cell(" ".join(map(str, value)))
    return "" if value is None else inert.csv_cell(str(value))


def _json(records: list[dict[Any, Any]]) -> str:
    return json_module.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
