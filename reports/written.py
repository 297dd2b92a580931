"""The files of a report, in the order in which they are written. After `reports.made`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from reports import formats, page, paper

ASIDE = ("csv",)
"""The formats of a table that is on no page."""


def files(
    reports: Sequence[page.Report],
    damaged: Iterable[tuple[str, str]] = (),
    mixed: Iterable[str] = (),
) -> Iterator[tuple[Path, bytes]]:
    """Everything that is written, the page last: it never links to a file that is not there yet."""
    for report in reports:
        yield from files_of(report)
    yield Path("index.html"), page.render(reports, tuple(damaged), tuple(mixed)).encode()


def files_of(report: page.Report) -> Iterator[tuple[Path, bytes]]:
    folder = Path(report.folder)
    for item in report.tables:
        for form, render in formats.FORMATS.items():
            if item.table.aside and form not in ASIDE:
                continue
            if form == "tex" and not item.table.rows:
                continue  # an empty table is no table of a paper
            yield folder / f"{item.name}.{form}", render(item.table, item.name).encode()
    for figure in report.figures:
        for form, content in figure.files.items():
            yield folder / f"{figure.name}.{form}", content
        if figure.files:
            yield folder / f"{figure.name}.caption.txt", f"{figure.caption}\n".encode()
    if report.filled or report.drawn:
        yield folder / "paper.tex", paper.paper(report).encode()
