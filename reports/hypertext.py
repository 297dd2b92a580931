"""A table as HTML: a fragment to embed, for `index.html` has the style sheet. One of `reports.formats`."""

from __future__ import annotations

import html as html_module
import json

from bench.shown import inert
from reports.table import Table, TableCell, best, footnotes, notes


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
        f'<figure class="table{" wide" if len(table.columns) > 9 else ""}">',
        f"<figcaption>{escape(table.caption)}{escape(_samples(table))}</figcaption>",
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
        for group, width in table.groups:
            if group:
                cells.append(f'<th scope="colgroup" colspan="{width}">{escape(group)}</th>')
            else:
                cells.append(f'<td colspan="{width}"></td>')
        lines.append('<tr class="groups">' + "".join(cells) + "</tr>")
    heads = [f'<th scope="col" class="label">{escape(label)}</th>' for label in table.labels]
    heads += [
        f'<th scope="col" data-column="{escape(column.full_heading)}">{escape(column.heading)}</th>'
        for column in table.columns
    ]
    return [*lines, "<tr>" + "".join(heads) + "</tr>", "</thead>"]


def _html_rows(table: Table) -> list[str]:
    marks, winners = footnotes(table), best(table)
    lines, previous = [], ""
    for i, row in enumerate(table.rows):
        # A rule between the blocks of the first label, where there are several labels.
        new_block = len(row.labels) > 1 and previous not in ("", row.labels[0])
        previous = row.labels[0] if row.labels else ""
        cells = [f'<th scope="row">{escape(label)}</th>' for label in row.labels]
        of_row = next((cell.signatures for cell in row.cells if cell.number is not None), ())
        for j, cell in enumerate(row.cells):
            weight = " best" if (i, j) in winners else ""
            mark = f" <sup>[{marks[cell.reason]}]</sup>" if cell.reason else ""
            text, more = escape(cell.text), f' title="{escape(tooltip(cell))}"'
            if cell.value is not None:
                more += f' data-value="{cell.value:.6g}"'
            if cell.number is not None:  # to be asked what is behind it
                if cell.signatures != of_row:
                    more += f' data-runs="{escape(" ".join(cell.signatures))}"'
                text = f'<button type="button" class="number">{text}</button>'
            cells.append(f'<td class="{cell.status}{weight}"{more}>{text}{mark}</td>')
        of = dict(zip(table.labels, row.labels, strict=True))
        about = f'data-labels="{escape(json.dumps(of))}" data-runs="{escape(" ".join(of_row))}"'
        opening = f"<tr{' class=block' if new_block else ''} {about}>"
        lines.append(opening + "".join(cells) + "</tr>")
    return lines


def _samples(table: Table) -> str:
    """How many samples each number is of, where that is one size."""
    sizes = {cell.samples for row in table.rows for cell in row.cells if cell.samples}
    return f" n = {sizes.pop():,} samples for each run." if len(sizes) == 1 else ""


def tooltip(cell: TableCell) -> str:
    """What is behind a cell, in words."""
    if cell.status == "text":
        return ""
    if cell.status == "published":
        return f"published: {cell.published}" if cell.value is not None else ""
    lines = [f"{cell.n_seeds} of {cell.n_expected} seeds"]
    lines += [f"seed {seed}: {cell.unit.written(value)}" for seed, value in cell.seeds]
    if cell.interval is not None and cell.estimate is not None:
        low, high = (cell.unit.written(end) for end in cell.interval)
        lines.append(f"95 % interval {low} to {high}, over {cell.estimate.of}")
    if cell.samples is not None:
        lines.append(f"{cell.samples} samples each")
    if cell.reason:
        lines.append(cell.reason)
    return "\n".join(lines)
