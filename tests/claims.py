"""Marks in Markdown that tie a sentence or a table to committed tables, and whether what they say holds.

    <!-- claim: mini/ablation "TimeSformer + TIME @ Gap" > "TimeSformer baseline" separated -->
    <!-- number: mini/ablation "TimeSformer + TIME @ Gap" -->
    <!-- numbers: mini/ablation mini/temporal_static -->

CONTRIBUTING says how they are written. A table is `<folder>/<setting>/<table>.json`, as `reports.build`
writes it, with the number of each seed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

MARK = re.compile(r"<!--\s*(\w+):(.*?)-->", re.DOTALL)
CODE = re.compile(r"^(`{3,}).*?^\1`*\s*?$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[+\u2212-]?\d+(?:\.\d+)?(?: ± \d+(?:\.\d+)?)?(?: \(\d+/\d+\))?")
CONFIDENCE = 0.95
SAID = {(): None, ("separated",): True, ("not", "separated"): False}


class Wrong(ValueError):
    """Something that a mark says does not hold, or cannot be looked up."""


@dataclass(frozen=True)
class Claim:
    """`first` [- `second`] is above or below `right`, a number or a cell; `separated`: whether the interval
    excludes that, None where nothing is said of it.
    """

    table: str
    first: str
    second: str | None
    above: bool
    right: str | float
    separated: bool | None


def problems(text: str, tables: Path) -> list[str]:
    """What is wrong with the marks of a document."""
    text = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
    found = []
    for mark in MARK.finditer(text):
        kind, said = mark[1], " ".join(mark[2].split())
        try:
            if kind not in CHECKS:
                raise Wrong(f"no mark is called {kind!r}, but {', '.join(CHECKS)}")
            CHECKS[kind](said, (text[: mark.start()], text[mark.end() :]), tables)
        except Wrong as error:
            line = text.count("\n", 0, mark.start()) + 1
            found.append(f"line {line}: {kind}: {said}: {error}")
    return found


# --- claims ---


def parse(said: str) -> Claim:
    try:
        table, first, *rest = shlex.split(said)
        second = rest[1] if rest[0] == "-" else None
        sign, right, *more = rest[2:] if second else rest
        above, separated = {">": True, "<": False}[sign], SAID[tuple(more)]
    except (ValueError, IndexError, KeyError) as error:
        form = 'TABLE "ROW @ COLUMN" [- "ROW"] > or < NUMBER or "ROW" [[not] separated]'
        raise Wrong(f"not of the form {form}") from error
    try:
        return Claim(table, first, second, above, float(right), separated)
    except ValueError:
        return Claim(table, first, second, above, right, separated)


def _check_claim(said: str, around: tuple[str, str], tables: Path) -> None:
    claim = parse(said)
    table = _load(tables, claim.table)
    cell = _cell(table, claim.first)
    values, limit = _values(cell), 0.0
    others = [claim.second] if claim.second else []
    if isinstance(claim.right, str):
        others.append(claim.right)
    else:
        limit = claim.right
    for name in others:
        values = _minus(values, cell, _cell(table, name, claim.first))
    mean = float(np.mean(values))
    if (mean > limit) != claim.above or mean == limit:
        raise Wrong(f"it is {mean:.4g}, not {'above' if claim.above else 'below'} {limit:g}")
    if claim.separated is not None:
        low, high = interval(values)
        apart = low > limit if claim.above else high < limit
        if apart != claim.separated:
            shown = f"[{low:.4g}, {high:.4g}] over {len(values)} seeds"
            raise Wrong(f"its interval {shown} {'excludes' if apart else 'contains'} {limit:g}")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's t, of the mean of (differences of) seeds."""
    if len(values) < 2:
        raise Wrong("one seed has no interval")
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def _values(cell: Mapping[str, Any]) -> list[float]:
    if cell["value"] is None:
        raise Wrong(f"there is no number: {cell['text']} {cell['reason']}".strip())
    if cell["status"] == "incomplete":
        raise Wrong(f"seeds are missing: {cell['text']}")
    return list(cell["seeds"].values()) or [cell["value"]]


def _minus(
    values: Sequence[float], cell: Mapping[str, Any], other: Mapping[str, Any]
) -> list[float]:
    """Seed by seed; of a published number, which has none, from each."""
    subtracted = _values(other)
    if not other["seeds"]:
        return [value - subtracted[0] for value in values]
    if cell["seeds"].keys() != other["seeds"].keys():
        seeds = " and ".join(", ".join(one["seeds"]) or "none" for one in (cell, other))
        raise Wrong(f"the cells have other seeds: {seeds}")
    data = [{(m["data"], m["data_digest"]) for m in one["made_from"]} for one in (cell, other)]
    if data[0] != data[1]:
        raise Wrong("the cells were measured on other data")
    pairs = zip(values, (other["seeds"][seed] for seed in cell["seeds"]), strict=True)
    return [value - subtrahend for value, subtrahend in pairs]


# --- numbers ---


def _check_number(said: str, around: tuple[str, str], tables: Path) -> None:
    """The number before the mark is that of the cell, with or without its deviation."""
    try:
        table, name = shlex.split(said)
    except ValueError as error:
        raise Wrong('not of the form TABLE "ROW @ COLUMN"') from error
    text = _plain(_cell(_load(tables, table), name)["text"])
    numbers = list(NUMBER.finditer(around[0]))
    if not numbers or len(around[0]) - numbers[-1].end() > 12:
        raise Wrong("no number stands before it")
    shown = _plain(numbers[-1][0])
    if shown.lstrip("+") not in {text.lstrip("+"), text.partition(" ± ")[0].lstrip("+")}:
        raise Wrong(f"{shown} stands there, the table has {text}")


def _check_numbers(said: str, around: tuple[str, str], tables: Path) -> None:
    """The numbers of each line of the Markdown table below stand in one row of the committed tables, and
    those of each column in one column.
    """
    committed = [_load(tables, name) for name in said.split()]
    rows: dict[tuple[str, ...], dict[tuple[int, int], str]] = {}
    for k, table in enumerate(committed):
        for row in table["rows"]:
            cells = {(k, j): _plain(cell["text"]) for j, cell in enumerate(row["cells"])}
            rows.setdefault(tuple(row["labels"]), {}).update(cells)
    lines = [_numbers_in(line) for line in _table_below(around[1])]
    if not any(lines):
        raise Wrong("no table with numbers is below it")
    candidates = [_rows_with(line, rows) for line in lines]
    for column in sorted({j for line in lines for j in line}):
        asked = [
            (line[column], of) for line, of in zip(lines, candidates, strict=True) if column in line
        ]
        places = {place for cells in rows.values() for place in cells}
        if not any(
            all(any(rows[r].get(place) == number for r in of) for number, of in asked)
            for place in places
        ):
            shown = ", ".join(number for number, _ in asked)
            raise Wrong(f"column {column + 1} is no column of the tables: {shown}")


def _rows_with(
    line: Mapping[int, str], rows: Mapping[tuple[str, ...], Mapping[tuple[int, int], str]]
) -> list[tuple[str, ...]]:
    known = {number for cells in rows.values() for number in cells.values()}
    if strange := [number for number in line.values() if number not in known]:
        raise Wrong(f"not in the tables: {', '.join(strange)}")
    found = [labels for labels, cells in rows.items() if {*line.values()} <= {*cells.values()}]
    if not found:
        raise Wrong(f"not in one row of the tables: {', '.join(line.values())}")
    return found


def _table_below(text: str) -> Iterator[list[str]]:
    """The cells of each line below the head."""
    lines = text.lstrip().splitlines()
    for line in lines[2:] if lines and lines[0].startswith("|") else ():
        if not line.startswith("|"):
            return
        yield re.split(r"(?<!\\)\|", line.strip())[1:-1]


def _numbers_in(cells: Sequence[str]) -> dict[int, str]:
    """By column; the first column is of labels."""
    return {j: _plain(cell) for j, cell in enumerate(cells) if j and re.search(r"\d", cell)}


def _plain(text: str) -> str:
    """Without bold type and the mark of a footnote."""
    text = re.sub(r" \[[a-z]+\]$", "", text.strip().strip("*").strip())
    return re.sub(r"^-(?=\d)", "\N{MINUS SIGN}", text)


# --- looking up ---


def _load(tables: Path, name: str) -> dict[str, Any]:
    path = tables / f"{name}.json"
    if not path.is_file():
        there = sorted(
            p.relative_to(tables).with_suffix("").as_posix() for p in tables.rglob("*.json")
        )
        raise Wrong(f"no table {name}, but {', '.join(there)}")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _cell(table: Mapping[str, Any], name: str, beside: str = "") -> dict[str, Any]:
    """ "ROW @ COLUMN"; a column that is not named is that of the cell `beside`."""
    row_name, _, column_name = name.partition(" @ ")
    column_name = column_name or beside.partition(" @ ")[2]
    rows = {k: (" ".join(r["labels"]), r["labels"][-1]) for k, r in enumerate(table["rows"])}
    columns = {
        j: (f"{c['group']}: {c['name']}" if c["group"] else c["name"], c["name"])
        for j, c in enumerate(table["columns"])
    }
    cells = table["rows"][_one("row", row_name, rows)]["cells"]
    cell: dict[str, Any] = cells[_one("column", column_name, columns)]
    return cell


def _one(what: str, name: str, there: Mapping[int, tuple[str, str]]) -> int:
    """By its full name, or by the last part of it where only one has that."""
    for part in (0, 1):
        found = [k for k, names in there.items() if names[part] == name]
        if len(found) == 1:
            return found[0]
    names = ", ".join(dict.fromkeys(full for full, _ in there.values()))
    raise Wrong(f"{f'several of the {what}s' if found else f'no {what}'} {name!r}, but {names}")


CHECKS: Mapping[str, Callable[[str, tuple[str, str], Path], None]] = {
    "claim": _check_claim,
    "number": _check_number,
    "numbers": _check_numbers,
}
