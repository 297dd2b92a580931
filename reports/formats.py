"""A table in every format: Markdown, LaTeX, CSV, JSON with the provenance of each cell, HTML.

Called by `build` and `page`. All formats show the same strings, made in `reports.table`.
"""

from __future__ import annotations

import csv as csv_module
import io
import json as json_module
from collections.abc import Callable
from typing import Any

from bench.shown import inert
from reports import evidence, hypertext, latex
from reports.stats import MADE_FROM
from reports.table import PERCENT, Column, Table, TableCell, best, footnotes, notes, shown

# --- Markdown and CSV --------------------------------------------------------------------------


def markdown(table: Table, name: str = "") -> str:
    marks, winners = footnotes(table), best(table)
    head = [*table.labels, *(column.full_heading for column in table.columns)]
    lines = [
        f"### {inert.markdown(table.title)}",
        "",
        inert.markdown(table.caption),
        "",
        "| " + " | ".join(map(inert.markdown, head)) + " |",
        "| " + " | ".join([":--"] * len(table.labels) + ["--:"] * len(table.columns)) + " |",
    ]
    for i, row in enumerate(table.rows):
        cells = [inert.markdown(shown(cell, marks)) for cell in row.cells]
        cells = [f"**{cell}**" if (i, j) in winners else cell for j, cell in enumerate(cells)]
        lines.append("| " + " | ".join([*map(inert.markdown, row.labels), *cells]) + " |")
    lines += ["", *(f"- {inert.markdown(note)}" for note in notes(table))]
    lines += [f"- [{mark}] {inert.markdown(reason)}" for reason, mark in marks.items()]
    return "\n".join(lines).rstrip() + "\n"


def csv(table: Table, name: str = "") -> str:
    """One header line; captions, notes and reasons are in the other formats."""
    marks = footnotes(table)
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    heads = [*table.labels, *(column.full_heading for column in table.columns)]
    writer.writerow(map(inert.csv_cell, heads))
    for row in table.rows:
        cells = [_csv_cell(cell, shown(cell, marks)) for cell in row.cells]
        writer.writerow([*map(inert.csv_cell, row.labels), *cells])
    return out.getvalue()


def _csv_cell(cell: TableCell, string: str) -> str:
    """A signed number is one, with or without its deviation."""
    return inert.csv_cell(string) if cell.value is None else string


# --- JSON --------------------------------------------------------------------------------------


def json(table: Table, name: str = "") -> str:
    """Every cell with its exact value, seeds and signatures: the full provenance of the table."""
    marks, winners = footnotes(table), best(table)
    document = {
        "name": name,
        "title": table.title,
        "caption": table.caption,
        "unit": "percent",
        "labels": list(table.labels),
        "columns": [
            {"name": column.name, "group": column.group, "better": column.better, **_unit(column)}
            for column in table.columns
        ],
        "rows": [
            {
                "labels": list(row.labels),
                "cells": [
                    {
                        **_json_cell(cell, shown(cell, marks), "bold" if (i, j) in winners else ""),
                        **_json_p(table, i, j),
                    }
                    for j, cell in enumerate(row.cells)
                ],
            }
            for i, row in enumerate(table.rows)
        ],
        "notes": list(notes(table)),
        "footnotes": {mark: reason for reason, mark in marks.items()},
    }
    return json_module.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _unit(column: Column) -> dict[str, str]:
    """Where it is not the table's."""
    return {} if column.unit == PERCENT else {"unit": column.unit.name}


def _json_p(table: Table, row: int, column: int) -> dict[str, float]:
    """Of a difference."""
    if (row, column) not in table.p_values:
        return {}
    p, adjusted = table.p_values[row, column]
    return {"p": p, "p_holm": adjusted}


def _json_cell(cell: TableCell, string: str, weight: str) -> dict[str, Any]:
    return {
        "text": string,
        "status": cell.status,
        "bold": weight == "bold",
        "value": cell.value,
        "std": cell.std,
        "interval": None if cell.interval is None else list(cell.interval),
        "interval_of": None if cell.estimate is None else cell.estimate.of,
        "n_seeds": cell.n_seeds,
        "n_expected": cell.n_expected,
        "seeds": {str(seed): value for seed, value in cell.seeds},
        "samples": cell.samples,
        "signatures": list(cell.signatures),
        "made_from": [
            dict(zip(MADE_FROM, origin, strict=True)) for origin in sorted(cell.made_from)
        ],
        "reason": cell.reason,
        "published": cell.published,
        **_json_change(cell),
    }


def _json_change(cell: TableCell) -> dict[str, Any]:
    """What its brackets say of the reference."""
    if cell.change_of is None or cell.change_of.mean is None:
        return {}
    found, percent = evidence.estimate(cell.change_of), cell.unit.percent
    interval = None if found is None else [end * percent for end in found.interval]
    p = None if found is None else found.p_value
    return {"change": {"value": cell.change_of.mean * percent, "interval": interval, "p": p}}


FORMATS: dict[str, Callable[[Table, str], str]] = {
    "md": markdown,
    "tex": latex.latex,
    "csv": csv,
    "json": json,
    "html": hypertext.html,
}
