"""`python -m reports.build`: every table and figure of the paper from `runs/`, and one HTML page.

The end of the flow: `bench.results.load` -> settings (scale + overrides) -> the tables of
`reports/tables/` and the figures of `reports/figures/` -> files. `bench.find` finds both; a new file
in these folders is a new table or figure. Everything is built in memory before the first file is
written, and the same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench import components, find, results
from bench.shown.console import InertConsole
from bench.shown.streams import complain
from bench.store import places
from bench.store.files import DamagedFile, write_bytes
from reports import figure_data, formats, page, stats, style, table, terminal
from reports.asked import noting
from reports.commands import FIRST_SWEEP
from reports.contracts import FigureModule, TableModule

FIGURE_FORMATS = ("pdf", "png")

DESCRIPTION = """\
Build every table and figure from the results of the sweeps, with the published numbers beside the
measured ones, and one self-contained page to read them all.
"""

EPILOG = """\
writes:
  OUT/index.html                       everything on one page; open this first
  OUT/<setting>/<table>.{md,tex,csv,json,html}
                                       one table in five formats with equal cells; .tex needs
                                       booktabs and graphicx, .json names the runs behind each cell
  OUT/<setting>/<figure>.{pdf,png}     ready for the paper
  OUT/<setting>/<figure>.data.{csv,json}
                                       the numbers that it draws, with those of every seed
  A setting is a scale plus the --set changes of a sweep; settings are never mixed in one table.
  A model that bench.evaluate measured joins the settings of its data set, or makes one of its own.

reading a table:
  61.0 ± 0.5           mean ± sample standard deviation over seeds, percent
  61.0 ± 0.5 (2/3)     2 of 3 seeds have finished; never bold
  — [a]                no number; footnote a says why
  '+ TIME              in .csv: the text "+ TIME", which a spreadsheet would take for a formula

examples:
  python -m bench.sweep sweeps/ablation.yaml && python -m reports.build
  python -m reports.build --runs /scratch/me/runs --out paper/results
  python -m reports.build --runs runs --runs /shared/theirs    what several people have measured
  python -m reports.build --runs rows.jsonl.gz     from a file of bench.results --rows: what shows
                                       pictures says that there are none
  python -m reports.build --strict     in CI: fail while a number is missing

exit status:
  0  built          1  built, --strict and there are holes: numbers that are missing or do not have
                       all their seeds (cells that a sweep skips on purpose are not counted)
  2  bad input; nothing written
"""


@dataclass(frozen=True)
class Setting:
    """The results that may stand in one table: one scale, one set of overrides."""

    scale: str
    overrides: str
    frame: pd.DataFrame

    @property
    def changes(self) -> str:
        """The overrides as they are typed: `--set` key=value pairs, or as stored if not JSON."""
        try:
            pairs = json.loads(self.overrides or "{}").items()
        except (ValueError, AttributeError):
            return self.overrides
        return ", ".join(
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in pairs
        )

    @property
    def has_sweeps(self) -> bool:
        """Whether any of it was planned; else it is models that were evaluated without a run."""
        return bool((self.frame["sweep"] != results.EVALUATED).any())

    @property
    def title(self) -> str:
        size = f"scale {self.scale}" if self.has_sweeps else "evaluated models"
        return size + (f", {self.changes}" if self.changes else "")

    @property
    def folder(self) -> str:
        """A folder name that is safe everywhere and different for different settings."""
        full = self.scale + (f"__{self.changes}".replace(", ", "__") if self.changes else "")
        safe = re.sub(r"[^A-Za-z0-9._=+-]+", "_", full).strip("._")[:80]
        if safe == full:
            return safe
        return f"{safe}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(components.take(arguments))
    try:
        frame = _load(options.runs or [Path("runs")])
        tables, figures = ordered("table"), ordered("figure")
    except (ValueError, OSError) as error:
        complain(f"{components.program('reports.build')}: {error}")
        return 2
    if problem := places.unwritable(options.out):
        complain(f"{components.program('reports.build')}: --out: {problem}")
        return 2
    reports = [_report(setting, tables, figures) for setting in settings(frame)]
    try:
        for path, content in _files(reports):
            write_bytes(options.out / path, content)
    except OSError as error:
        complain(f"{components.program('reports.build')}: cannot write the report: {error}")
        return 2
    console = InertConsole()
    terminal.show(console, reports, options.out / "index.html")
    holes = sum(len(report.holes) for report in reports)
    return 1 if options.strict and holes else 0


def settings(frame: pd.DataFrame) -> list[Setting]:
    """The frame cut by scale and overrides, sorted; a scale without overrides comes first.

    Models without a run join every setting that measured their data set. Those of a data set that
    no sweep has measured are a setting of their own, after the others.
    """
    models = frame[frame["sweep"] == results.EVALUATED]
    sweeps = frame[frame["sweep"] != results.EVALUATED]
    found: list[Setting] = []
    joined: set[str] = set()
    for names, part in sweeps.groupby(["scale", "overrides"], sort=True):
        scale, overrides = map(str, names)
        here = models[models["data"].isin(stats.data_sets(part))]
        joined |= set(here["data"])
        here = here.assign(scale=scale, overrides=overrides)
        found.append(Setting(scale, overrides, pd.concat([part, here]) if len(here) else part))
    for data, part in models[~models["data"].isin(joined)].groupby("data", sort=True):
        found.append(Setting(results.EVALUATED, json.dumps({"data": data}), part))
    return found


def ordered(kind: str) -> list[str]:
    """Every component of a kind ("table", "figure"), by its ORDER and then its name.

    A broken file is never skipped. Raises InvalidComponent.
    """
    return sorted(find.names(kind), key=lambda name: (find.optional(kind, name, "ORDER"), name))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=components.program("reports.build"),
        parents=[components.option()],
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--runs",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of the runs (default: runs), or a file of bench.results --rows; may be repeated: results "
        "of several places in one report",
    )
    add(
        "--out",
        type=Path,
        default=Path("reports/out"),
        help="folder to write (default: reports/out)",
    )
    add("--strict", action="store_true", help="exit with 1 if a number is missing or incomplete")
    return parser


def _load(folders: Sequence[Path]) -> pd.DataFrame:
    """The checked results. ValueError says what to do when there are none."""
    for runs in folders:
        if results.is_rows_file(runs):
            continue
        if problem := places.no_folder(runs):
            raise ValueError(f"--runs: {problem}")
        if not runs.is_dir():
            raise ValueError(f"no runs: {runs} does not exist; make some with `{FIRST_SWEEP}`")
    frame = results.merged(folders)
    if frame.empty:
        where = ", ".join(map(str, folders))
        raise ValueError(f"no runs in {where}; make some with `{FIRST_SWEEP}`")
    return stats.checked(frame)


def _report(setting: Setting, tables: Sequence[str], figures: Sequence[str]) -> page.Report:
    built = [_table(name, setting) for name in tables]
    drawn = [_figure(name, setting) for name in figures]
    if not setting.has_sweeps:  # a gap in what nobody planned is no news
        built = [item for item in built if item.table.has_measured]
        drawn = [item for item in drawn if item.files]
    return page.Report(
        folder=setting.folder,
        title=setting.title,
        frame=setting.frame,
        tables=tuple(built),
        figures=tuple(drawn),
        headline=tuple(tile for name in tables for tile in _headline(name, setting)),
    )


def _table(name: str, setting: Setting) -> page.BuiltTable:
    module: TableModule = find.load("table", name)
    try:
        built = module.build(setting.frame)
        if not isinstance(built, table.Table):
            raise ValueError(f"build must return a Table, not {built!r}")
    except Exception as error:
        error.add_note(f"while building the table {name!r} for {setting.folder}")
        raise
    return page.BuiltTable(name, built, find.optional("table", name, "SUMMARY"))


def _headline(name: str, setting: Setting) -> tuple[tuple[str, str, str], ...]:
    headline = find.optional("table", name, "headline")
    return tuple(headline(setting.frame)) if headline else ()


def _figure(name: str, setting: Setting) -> page.BuiltFigure:
    module: FigureModule = find.load("figure", name)
    title = find.optional("figure", name, "TITLE") or name.replace("_", " ").capitalize()
    with style.applied():
        figure = Figure()
        try:
            with noting() as asked:
                caption = module.draw(setting.frame, figure)
        except (DamagedFile, results.OnlyNumbers) as error:
            # what it shows of one run; the numbers of the others stand
            figure, caption = Figure(), f"Not drawn: {error}"
        except Exception as error:
            error.add_note(f"while drawing the figure {name!r} for {setting.folder}")
            raise
        drawn, inches = bool(figure.axes), float(figure.get_size_inches()[0])
        files = {form: style.render(figure, form) for form in FIGURE_FORMATS} if drawn else {}
    if drawn:
        data = find.optional("figure", name, "data")
        numbers = data(setting.frame) if data else figure_data.of_aggregates(asked)
        files |= figure_data.files(numbers)
    return page.BuiltFigure(name, title, caption or "", files, inches)


def _files(reports: Sequence[page.Report]) -> Iterator[tuple[Path, bytes]]:
    """Everything that is written, the page last: it never links to a file that is not there yet."""
    for report in reports:
        yield from _files_of(report)
    yield Path("index.html"), page.render(reports).encode()


def _files_of(report: page.Report) -> Iterator[tuple[Path, bytes]]:
    folder = Path(report.folder)
    for item in report.tables:
        for form, render in formats.FORMATS.items():
            yield folder / f"{item.name}.{form}", render(item.table, item.name).encode()
    for figure in report.figures:
        for form, content in figure.files.items():
            yield folder / f"{figure.name}.{form}", content


if __name__ == "__main__":
    sys.exit(main())
