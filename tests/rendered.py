"""What a built report says, read back from each of its formats."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path

from reports import latex, manifest, table


def by_label(built: table.Table, *labels: str) -> dict[str, table.TableCell]:
    (row,) = (row for row in built.rows if row.labels == labels)
    heads = [column.full_heading for column in built.columns]
    return {f"{j} {head}": c for j, (head, c) in enumerate(zip(heads, row.cells, strict=True))}


def from_markdown(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    plain = [[re.sub(r"^\*\*(.*)\*\*$", r"\1", item.strip()) for item in row] for row in rows]
    return [[re.sub(r"\\([\\`*_|<>\[\]&~])", r"\1", item) for item in row] for row in plain]


def from_csv(text: str) -> list[list[str]]:
    """Without the apostrophe that keeps a text from being a formula."""
    rows = list(csv.reader(text.splitlines()))[1:]
    return [[re.sub(r"^'(?=[=+@-])", "", item) for item in row] for row in rows]


def from_html(text: str) -> list[list[str]]:
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    rows = re.findall(r"<tr.*?>(.*?)</tr>", body, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [
        [html.unescape(re.sub(r"</?(sup|button)[^>]*>", "", item)) for item in row] for row in cells
    ]


def from_tex(text: str) -> list[list[str]]:
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    rows = [re.split(r" (?<!\\)& ", line.removesuffix(r" \\")) for line in body]
    plain = [[re.sub(r"^\\textbf\{(.*)\}$", r"\1", item) for item in row] for row in rows]
    back = sorted(((tex, char) for char, tex in latex._TEX.items()), key=lambda pair: -len(pair[0]))
    pattern = re.compile("|".join(re.escape(tex) for tex, _ in back))
    lookup = dict(reversed(back))
    return [[pattern.sub(lambda hit: lookup[hit.group()], item) for item in row] for row in plain]


def from_json(text: str) -> list[list[str]]:
    rows = json.loads(text)["rows"]
    return [[*row["labels"], *(cell["text"] for cell in row["cells"])] for row in rows]


# --- the whole build ---------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Without what a build remembers of its own files and of its input."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != manifest.NAME
    }
