"""A table as data, and its five renderings: Markdown, LaTeX, CSV, JSON and HTML.

A table module (`reports/tables/*.py`) makes a `Table` out of `Aggregate`s; `reports.build` writes
it. Every rendering shows the same cell strings. JSON adds what is behind each of them: the exact
value, the seeds, the signatures of the runs (`runs/<signature>/`) and the reason for a gap.

Rules that hold for every table: a gap is a dash with a footnote, never a number; a mean over fewer
seeds than the sweep asks for says so in the cell and is never bold; bold is the best complete
measured number of a column, when there are at least two to compare.
"""

from __future__ import annotations

import csv as csv_module
import html as html_module
import io
import json as json_module
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reports.stats import MADE_FROM, Aggregate

DASH = "—"
MINUS = "\N{MINUS SIGN}"
ARROWS = {"up": " ↑", "down": " ↓", "": ""}
OVER_SEEDS = (
    "Numbers are percent: mean ± sample standard deviation (ddof = 1) over runs that differ in "
    "the seed only (initial weights, data order, augmentation); a single seed has no ±."
)
OVER_PAIRS = (
    "Differences are paired: per seed, then mean ± sample standard deviation over the seeds."
)

Status = Literal["complete", "incomplete", "missing", "skipped", "published", "text"]


@dataclass(frozen=True)
class Cell:
    """One cell: the string that is shown, and everything that is behind it. Numbers are percent."""

    text: str
    status: Status
    value: float | None = None
    std: float | None = None
    n_seeds: int = 0
    n_expected: int = 0
    seeds: tuple[tuple[int, float], ...] = ()
    samples: int | None = None
    signatures: tuple[str, ...] = ()
    made_from: frozenset[tuple[str, ...]] = frozenset()  # data set, digest, provenance
    reason: str = ""
    published: str = ""  # where a published number was read

    @property
    def hole(self) -> bool:
        """A number that should be there and is not, or not over all its seeds."""
        return self.status in ("incomplete", "missing")


@dataclass(frozen=True)
class Column:
    """One column; neighbours with the same `group` share a heading."""

    name: str
    group: str = ""
    better: Literal["up", "down", ""] = ""

    @property
    def heading(self) -> str:
        return self.name + ARROWS[self.better]

    @property
    def full_heading(self) -> str:
        return f"{self.group}: {self.heading}" if self.group else self.heading


@dataclass(frozen=True)
class Row:
    labels: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """What a table module builds."""

    title: str
    caption: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.labels) != len(self.labels) or len(row.cells) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {row.labels} has {len(row.labels)} labels and "
                    f"{len(row.cells)} cells, the header {len(self.labels)} and {len(self.columns)}"
                )

    @property
    def holes(self) -> tuple[tuple[str, str, str], ...]:
        """(row, column, reason) of every hole."""
        return tuple(
            (" ".join(row.labels), column.full_heading, cell.reason)
            for row in self.rows
            for column, cell in zip(self.columns, row.cells, strict=True)
            if cell.hole
        )


# --- cells -------------------------------------------------------------------------------------


def measured(number: Aggregate, *, not_run: str = "", signed: bool = False) -> Cell:
    """The cell of an aggregate; `not_run` is the reason to give when no sweep asks for it."""
    n_seeds, n_expected = len(number.measured), len(number.expected)
    reason = number.reason or ("" if number.runs else not_run or "not run")
    status: Status
    if number.mean is None:
        string, status = DASH, "skipped" if number.skipped else "missing"
    else:
        string, status = percent(number.mean, signed=signed), "complete"
        if number.std is not None:
            string += f" ± {percent(number.std)}"
        if not number.complete:
            string, status = string + number.fraction, "incomplete"
    return Cell(
        text=string,
        status=status,
        value=number.mean,
        std=number.std,
        n_seeds=n_seeds,
        n_expected=n_expected,
        seeds=tuple((run.seed, run.value) for run in number.measured if run.value is not None),
        samples=number.samples,
        signatures=number.signatures,
        made_from=number.made_from,
        reason=reason,
    )


def published(value: float | None, source: str) -> Cell:
    """The cell of a published number, or a dash where the sources give none."""
    if value is None:
        return Cell(DASH, "published", published=source)
    return Cell(percent(value), "published", value=value, published=source)


def seed_count(numbers: Sequence[Aggregate]) -> Cell:
    """How many of the expected seeds are behind a row."""
    have = sorted({len(number.measured) for number in numbers})
    expected = max((len(number.expected) for number in numbers), default=0)
    if expected == 0:
        return Cell(DASH, "text")
    return Cell(f"{have[0]} of {expected}", "text")


def text(string: str) -> Cell:
    """A cell that is no number, e.g. the reference row of a difference."""
    return Cell(string, "text")


def percent(value: float, *, signed: bool = False) -> str:
    """One decimal; a minus sign instead of a hyphen, and no minus zero."""
    digits = f"{abs(value):.1f}"
    if float(digits) == 0:
        return digits
    return (MINUS if value < 0 else "+" if signed else "") + digits


# --- what all renderings share -----------------------------------------------------------------


def best(table: Table) -> frozenset[tuple[int, int]]:
    """(row, column) of the best complete number of each column, ties as displayed included.

    Where all are equal none is best.
    """
    winners: set[tuple[int, int]] = set()
    for j, column in enumerate(table.columns):
        values = {
            i: round(row.cells[j].value or 0.0, 1)
            for i, row in enumerate(table.rows)
            if row.cells[j].status == "complete"
        }
        if column.better and len(set(values.values())) > 1 and not _mixed(table, j):
            top = max(values.values()) if column.better == "up" else min(values.values())
            winners |= {(i, j) for i, value in values.items() if value == top}
    return frozenset(winners)


def notes(table: Table) -> tuple[str, ...]:
    """The notes of the table, and those that follow from its cells."""
    extra = []
    cells = [cell for row in table.rows for cell in row.cells]
    if any(cell.status == "published" and cell.value is None for cell in cells):
        extra.append(f"A {DASH} under 'paper': the sources give no such number.")
    # A column must not rank what is not comparable.
    mixed = [c.full_heading for j, c in enumerate(table.columns) if _mixed(table, j)]
    if mixed:
        extra.append(
            "The rows were measured on data made in different ways, so no best is marked in: "
            f"{', '.join(mixed)}."
        )
    return (*table.notes, *extra)


def _mixed(table: Table, column: int) -> bool:
    origins = {origin for row in table.rows for origin in row.cells[column].made_from}
    return len(origins) > 1


def footnotes(table: Table) -> dict[str, str]:
    """Reason -> mark, in reading order."""
    reasons = dict.fromkeys(cell.reason for row in table.rows for cell in row.cells if cell.reason)
    return {reason: _letters(position) for position, reason in enumerate(reasons)}


def shown(cell: Cell, marks: dict[str, str]) -> str:
    """The string of a cell, the same in every rendering."""
    return f"{cell.text} [{marks[cell.reason]}]" if cell.reason else cell.text


def _letters(position: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    rest, letter = divmod(position, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("a") + letter)


def _groups(columns: Iterable[Column]) -> list[tuple[str, int]]:
    """Neighbouring columns of one group: (heading, how many)."""
    runs: list[tuple[str, int]] = []
    for column in columns:
        if runs and runs[-1][0] == column.group:
            runs[-1] = (column.group, runs[-1][1] + 1)
        else:
            runs.append((column.group, 1))
    return runs


# --- Markdown and CSV --------------------------------------------------------------------------


def markdown(table: Table, name: str = "") -> str:
    marks, winners = footnotes(table), best(table)
    head = [*table.labels, *(column.full_heading for column in table.columns)]
    lines = [
        f"### {_md(table.title)}",
        "",
        _md(table.caption),
        "",
        "| " + " | ".join(map(_md, head)) + " |",
        "| " + " | ".join([":--"] * len(table.labels) + ["--:"] * len(table.columns)) + " |",
    ]
    for i, row in enumerate(table.rows):
        cells = [_md(shown(cell, marks)) for cell in row.cells]
        cells = [f"**{cell}**" if (i, j) in winners else cell for j, cell in enumerate(cells)]
        lines.append("| " + " | ".join([*map(_md, row.labels), *cells]) + " |")
    lines += ["", *(f"- {_md(note)}" for note in notes(table))]
    lines += [f"- [{mark}] {_md(reason)}" for reason, mark in marks.items()]
    return "\n".join(lines).rstrip() + "\n"


def _md(string: str) -> str:
    for special in "\\`*_|<>":
        string = string.replace(special, "\\" + special)
    return string.replace("\n", " ")


def csv(table: Table, name: str = "") -> str:
    """One header line; captions, notes and reasons are in the other formats."""
    marks = footnotes(table)
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    writer.writerow([*table.labels, *(column.full_heading for column in table.columns)])
    for row in table.rows:
        writer.writerow([*row.labels, *(shown(cell, marks) for cell in row.cells)])
    return out.getvalue()


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
            {"name": column.name, "group": column.group, "better": column.better}
            for column in table.columns
        ],
        "rows": [
            {
                "labels": list(row.labels),
                "cells": [
                    _json_cell(cell, shown(cell, marks), "bold" if (i, j) in winners else "")
                    for j, cell in enumerate(row.cells)
                ],
            }
            for i, row in enumerate(table.rows)
        ],
        "notes": list(notes(table)),
        "footnotes": {mark: reason for reason, mark in marks.items()},
    }
    return json_module.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _json_cell(cell: Cell, string: str, weight: str) -> dict[str, Any]:
    return {
        "text": string,
        "status": cell.status,
        "bold": weight == "bold",
        "value": cell.value,
        "std": cell.std,
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
    }


# --- LaTeX -------------------------------------------------------------------------------------

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # the straight quote is not in every font encoding
    # After a line break, a bracket would be read as its argument and a star as its variant.
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    "—": "---",
    "–": "--",
    MINUS: "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "Δ": r"$\Delta$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "`": r"\textasciigrave{}",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
}


def escape_tex(string: str) -> str:
    """Any text as LaTeX that compiles; what fonts may lack becomes its base letter or ?."""
    return "".join(_tex_character(character) for character in string)


def _tex_character(character: str) -> str:
    if character in _TEX:
        return _TEX[character]
    if character.isspace():
        return " "
    if character.isascii():
        return character if character.isprintable() else "?"
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(_TEX.get(letter, letter) for letter in base) or "?"


def latex(table: Table, name: str = "table") -> str:
    """A booktabs table; needs the packages booktabs and graphicx (it shrinks to the text width)."""
    spec = "l" * len(table.labels) + "r" * len(table.columns)
    lines = [
        r"% Written by `python -m reports.build`; needs \usepackage{booktabs,graphicx}.",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape_tex(table.caption)}}}",
        rf"\label{{tab:{name.replace('_', '-')}}}",
        r"\small",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        *_tex_header(table),
        r"\midrule",
        *_tex_rows(table),
        r"\bottomrule",
        r"\end{tabular}}",
        *_tex_notes(table),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex_header(table: Table) -> list[str]:
    lines = []
    if any(column.group for column in table.columns):
        cells, rules, position = [""] * len(table.labels), [], len(table.labels) + 1
        for group, width in _groups(table.columns):
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape_tex(group)}}}" if group else "")
            cells += [""] * (width - 1) if not group else []
            if group:
                rules.append(rf"\cmidrule(lr){{{position}-{position + width - 1}}}")
            position += width
        lines = [" & ".join(cells) + r" \\", " ".join(rules)]
    heads = [*table.labels, *(column.heading for column in table.columns)]
    return [*lines, " & ".join(map(escape_tex, heads)) + r" \\"]


def _tex_rows(table: Table) -> list[str]:
    marks, winners = footnotes(table), best(table)
    lines = []
    for i, row in enumerate(table.rows):
        cells = [escape_tex(shown(cell, marks)) for cell in row.cells]
        for j in range(len(cells)):
            cells[j] = rf"\textbf{{{cells[j]}}}" if (i, j) in winners else cells[j]
        lines.append(" & ".join([*map(escape_tex, row.labels), *cells]) + r" \\")
    return lines


def _tex_notes(table: Table) -> list[str]:
    lines = [escape_tex(note) for note in notes(table)]
    lines += [f"{{[}}{mark}] {escape_tex(reason)}" for reason, mark in footnotes(table).items()]
    if not lines:
        return []
    return [r"\par\smallskip\raggedright\footnotesize", *(rf"{line}\par" for line in lines)]


# --- HTML --------------------------------------------------------------------------------------


def html(table: Table, name: str = "") -> str:
    """A <figure> with the table; a cell's title (hover) says which runs are behind it.

    A fragment to embed: `index.html` has the style sheet.
    """
    escape = html_module.escape
    items = [f"<li>{escape(note)}</li>" for note in notes(table)]
    items += [
        f"<li><sup>[{mark}]</sup> {escape(reason)}</li>"
        for reason, mark in footnotes(table).items()
    ]
    parts = [
        f'<figure class="table{" wide" if len(table.columns) > 14 else ""}">',
        f"<figcaption>{escape(table.caption)}</figcaption>",
        '<div class="scroll"><table>',
        *_html_header(table),
        "<tbody>",
        *_html_rows(table),
        "</tbody>",
        "</table></div>",
        *(['<ul class="notes">', *items, "</ul>"] if items else []),
        "</figure>",
    ]
    return "\n".join(parts) + "\n"


def _html_header(table: Table) -> list[str]:
    escape = html_module.escape
    lines = ["<thead>"]
    if any(column.group for column in table.columns):
        cells = [f'<td colspan="{len(table.labels)}"></td>']
        for group, width in _groups(table.columns):
            if group:
                cells.append(f'<th scope="colgroup" colspan="{width}">{escape(group)}</th>')
            else:
                cells.append(f'<td colspan="{width}"></td>')
        lines.append('<tr class="groups">' + "".join(cells) + "</tr>")
    heads = [f'<th scope="col" class="label">{escape(label)}</th>' for label in table.labels]
    heads += [f'<th scope="col">{escape(column.heading)}</th>' for column in table.columns]
    return [*lines, "<tr>" + "".join(heads) + "</tr>", "</thead>"]


def _html_rows(table: Table) -> list[str]:
    escape = html_module.escape
    marks, winners = footnotes(table), best(table)
    lines, previous = [], ""
    for i, row in enumerate(table.rows):
        # A rule between the blocks of the first label, where there are several labels.
        new_block = len(row.labels) > 1 and previous not in ("", row.labels[0])
        previous = row.labels[0] if row.labels else ""
        cells = [f'<th scope="row">{escape(label)}</th>' for label in row.labels]
        for j, cell in enumerate(row.cells):
            weight = " best" if (i, j) in winners else ""
            mark = f" <sup>[{marks[cell.reason]}]</sup>" if cell.reason else ""
            title = escape(tooltip(cell))
            cells.append(
                f'<td class="{cell.status}{weight}" title="{title}">{escape(cell.text)}{mark}</td>'
            )
        opening = '<tr class="block">' if new_block else "<tr>"
        lines.append(opening + "".join(cells) + "</tr>")
    return lines


def tooltip(cell: Cell) -> str:
    """What is behind a cell, in words."""
    if cell.status == "text":
        return ""
    if cell.status == "published":
        return f"published: {cell.published}" if cell.value is not None else ""
    lines = [f"{cell.n_seeds} of {cell.n_expected} seeds"]
    lines += [f"seed {seed}: {percent(value)}" for seed, value in cell.seeds]
    if cell.samples is not None:
        lines.append(f"{cell.samples} samples each")
    if cell.signatures:
        lines.append("runs " + ", ".join(cell.signatures))
    if cell.reason:
        lines.append(cell.reason)
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Table, str], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": csv,
    "json": json,
    "html": html,
}
