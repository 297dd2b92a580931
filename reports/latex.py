"""A table as LaTeX: a booktabs table, with its notes below it. One of `reports.formats`."""

from __future__ import annotations

import unicodedata

from reports.table import MINUS, Table, best, footnotes, notes, shown

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


COLUMN, PAGE, HEIGHT = 234, 487, 650
"""Points of ICML's column, of both, and of a page on its side."""
SIZES = {"small": 9, "footnotesize": 8, "scriptsize": 7}
"""Points of letters; nothing is smaller in print."""
_LETTER = 0.45  # of a letter's size: its width, on average
_BETWEEN = 4  # points between columns


def text_tex(string: str) -> str:
    """A sentence as LaTeX: a hyphen between two spaces is a minus."""
    return escape_tex(string.replace(" - ", f" {MINUS} "))


def fit(table: Table) -> tuple[str, str]:
    """The environment and the size of letters with which a table is as wide as its place: of one column, of both, or
    on its side. What is wider even there shrinks.
    """
    columns = len(table.labels) + len(table.columns)
    marks = footnotes(table)
    cells = [[*row.labels, *(shown(cell, marks) for cell in row.cells)] for row in table.rows]
    heads = [*table.labels, *(column.heading for column in table.columns)]
    letters = sum(max(len(row[j]) for row in (heads, *cells)) for j in range(columns))
    for place, room in (("table", COLUMN), ("table*", PAGE), ("sidewaystable*", HEIGHT)):
        for size, points in SIZES.items():
            if letters * _LETTER * points + _BETWEEN * columns <= room:
                return place, size
    return "sidewaystable*", "scriptsize"


def latex(table: Table, name: str = "table") -> str:
    """A booktabs table, as large as its place lets it be; the first sentence of its caption is the caption, the others
    stand below with the notes.
    """
    spec = "l" * len(table.labels) + "r" * len(table.columns)
    place, size = fit(table)
    caption, _, further = table.caption.partition(". ")
    caption += "." if further else ""
    lines = [
        r"% Written by `python -m reports.build`; needs \usepackage{booktabs,graphicx,rotating}.",
        rf"\begin{{{place}}}" + ("" if place.startswith("sideways") else "[t]"),
        r"\centering",
        rf"\caption{{{text_tex(caption)}}}",
        rf"\label{{tab:{name.replace('_', '-')}}}",
        rf"\{size}\setlength{{\tabcolsep}}{{{_BETWEEN / 2:g}pt}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        *_tex_header(table),
        r"\midrule",
        *_tex_rows(table),
        r"\bottomrule",
        r"\end{tabular}}",
        *_tex_notes(table, further),
        rf"\end{{{place}}}",
    ]
    return "\n".join(lines) + "\n"


def _tex_header(table: Table) -> list[str]:
    lines = []
    if any(column.group for column in table.columns):
        cells, rules, position = [""] * len(table.labels), [], len(table.labels) + 1
        for group, width in table.groups:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{text_tex(group)}}}" if group else "")
            cells += [""] * (width - 1) if not group else []
            if group:
                rules.append(rf"\cmidrule(lr){{{position}-{position + width - 1}}}")
            position += width
        lines = [" & ".join(cells) + r" \\", " ".join(rules)]
    heads = [*table.labels, *(column.heading for column in table.columns)]
    return [*lines, " & ".join(map(text_tex, heads)) + r" \\"]


def _tex_rows(table: Table) -> list[str]:
    marks, winners = footnotes(table), best(table)
    lines = []
    for i, row in enumerate(table.rows):
        cells = [escape_tex(shown(cell, marks)) for cell in row.cells]
        for j in range(len(cells)):
            cells[j] = rf"\textbf{{{cells[j]}}}" if (i, j) in winners else cells[j]
        lines.append(" & ".join([*map(escape_tex, row.labels), *cells]) + r" \\")
    return lines


def _tex_notes(table: Table, further: str) -> list[str]:
    lines = [text_tex(note) for note in (further, *notes(table)) if note]
    lines += [f"{{[}}{mark}] {escape_tex(reason)}" for reason, mark in footnotes(table).items()]
    if not lines:
        return []
    return [r"\par\smallskip\raggedright\footnotesize", *(rf"{line}\par" for line in lines)]
