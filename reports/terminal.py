"""What `reports.build` prints at its end: the summary tables, the holes and where the page is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from reports import table
from reports.manifest import Written
from reports.page import Report

HOLES_SHOWN = 5


def show(console: Console, reports: Sequence[Report]) -> None:
    for report in reports:
        for item in report.tables:
            if item.summary and item.table.rows:
                console.print()
                shown, left_out = _fitting(item.table, report.title, console.width)
                console.print(shown)
                if left_out:
                    text = f"not shown, for want of room: {', '.join(left_out)}"
                    console.print(Text(text, style="dim"))
        states = ", ".join(f"{count} {state}" for state, count in report.tally)
        console.print(Text(f"{report.title}: {states}", style="dim"))
        _holes(console, report)


def about_files(done: Written) -> list[str]:
    """What became of the files of an earlier build."""
    lines = [f"removed: {done.removed} files that are no longer made"] if done.removed else []
    if done.edited:
        names = ", ".join(done.edited)
        lines.append(f"no longer made, but edited since and therefore kept: {names}")
    return lines


def where(console: Console, index: Path) -> None:
    console.print()
    # Not wrapped: a path that is broken over two lines cannot be clicked or copied.
    console.print(Text(f"Report: {index}"), soft_wrap=True)


def _holes(console: Console, report: Report) -> None:
    holes = report.holes
    if not holes:
        return
    reasons: dict[str, int] = {}
    for _, _, _, reason in holes:
        reasons[reason] = reasons.get(reason, 0) + 1
    console.print(Text(f"{len(holes)} numbers are missing or incomplete:", style="yellow"))
    for reason, count in list(reasons.items())[:HOLES_SHOWN]:
        console.print(Text(f"  {count} x {reason}", style="dim"), soft_wrap=True)
    if len(reasons) > HOLES_SHOWN:
        more = len(reasons) - HOLES_SHOWN
        console.print(Text(f"  and {more} more reasons, listed on the page", style="dim"))


def _fitting(full: table.Table, setting: str, width: int) -> tuple[RichTable, list[str]]:
    """The measured columns, as many as the terminal has room for, and the names of the others."""
    winners = table.best(full)
    single = len({row.labels[0] for row in full.rows}) == 1 and len(full.labels) > 1
    first = 1 if single else 0
    title = f"{full.title}, {setting}" + (f", {full.rows[0].labels[0]}" if single else "")
    heads = [_short(column) for column in full.columns]
    rich_table = RichTable(title=Text(title, style="bold"), title_justify="left", box=None)
    rich_table.pad_edge = False
    used = -2
    for i, label in enumerate(full.labels[first:], start=first):
        rich_table.add_column(Text(label), no_wrap=True)
        used += 2 + max([len(label), *(len(row.labels[i]) for row in full.rows)])
    chosen: list[int] = []
    left_out: list[str] = []
    for j, (head, column) in enumerate(zip(heads, full.columns, strict=True)):
        if all(row.cells[j].status in ("published", "text") for row in full.rows):
            continue
        lines = head.split("\n")
        texts = [row.cells[j].text for row in full.rows]
        needed = 2 + max(map(len, [*lines, *texts]))
        if left_out or used + needed > width:
            left_out.append(f"{column.group}: {column.heading}" if column.group else column.heading)
            continue
        used += needed
        chosen.append(j)
        rich_table.add_column(Text(head), justify="right", no_wrap=True)
    for i, row in enumerate(full.rows):
        cells = [Text(row.cells[j].text, style="bold" if (i, j) in winners else "") for j in chosen]
        rich_table.add_row(*map(Text, row.labels[first:]), *cells)
    return rich_table, left_out


def _short(column: table.Column) -> str:
    heading = column.heading.replace("-", "-\n", 1)
    return f"{column.group}\n{heading}" if column.group else heading
