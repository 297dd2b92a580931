"""A table in every format: Markdown, LaTeX, CSV, JSON with the provenance of each cell, HTML.

Called by `build` and `page`. All formats show the same strings, made in `reports.table`.
"""

from __future__ import annotations

import csv as csv_module
import html as html_module
import io
import json as json_module
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from bench.shown import inert
from reports.stats import MADE_FROM
from reports.table import MINUS, PERCENT, Column, Table, TableCell, best, footnotes, notes, shown


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


def _unit(column: Column) -> dict[str, str]:
    """Where it is not the table's."""
    return {} if column.unit == PERCENT else {"unit": column.unit.name}


def _json_cell(cell: TableCell, string: str, weight: str) -> dict[str, Any]:
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
    items = [f"<li>{escape(note)}</li>" for note in notes(table)]
    items += [
        f"<li><sup>[{mark}]</sup> {escape(reason)}</li>"
        for reason, mark in footnotes(table).items()
    ]
    grid = [
        '<div class="scroll"><table>',
        *_html_header(table),
        "<tbody>",
        *_html_rows(table),
        "</tbody>",
        "</table></div>",
    ]
    parts = [
        f'<figure class="table{" wide" if len(table.columns) > 14 else ""}">',
        f"<figcaption>{escape(table.caption)}</figcaption>",
        *(grid if table.rows else []),  # a header without rows says less than the notes
        *(['<ul class="notes">', *items, "</ul>"] if items else []),
        "</figure>",
    ]
    return "\n".join(parts) + "\n"


def escape(string: str) -> str:
    """Any text as HTML, as it is on a terminal."""
    return html_module.escape(inert.printable(string))


def _html_header(table: Table) -> list[str]:
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


def tooltip(cell: TableCell) -> str:
    """What is behind a cell, in words."""
    if cell.status == "text":
        return ""
    if cell.status == "published":
        return f"published: {cell.published}" if cell.value is not None else ""
    lines = [f"{cell.n_seeds} of {cell.n_expected} seeds"]
    lines += [f"seed {seed}: {cell.unit.written(value)}" for seed, value in cell.seeds]
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
