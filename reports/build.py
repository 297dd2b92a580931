"""`python -m reports.build`: every table and figure of the paper from `runs/`, and one HTML page.

The end of the flow: `bench.results.load` -> settings (scale + overrides) -> the tables of
`reports/tables/` and the figures of `reports/figures/` -> files. `bench.find` finds both; a new file
in these folders is a new table or figure. Everything is built in memory before the first file is
written, and the same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench import components, results
from bench.shown.console import InertConsole
from bench.shown.streams import complain
from bench.store import places
from bench.store.files import write_bytes
from reports import made, settings, stats, terminal, written
from reports.commands import FIRST_SWEEP

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


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(components.take(arguments))
    try:
        frame = _load(options.runs or [Path("runs")])
        tables, figures = made.ordered("table"), made.ordered("figure")
    except (ValueError, OSError) as error:
        complain(f"{components.program('reports.build')}: {error}")
        return 2
    if problem := places.unwritable(options.out):
        complain(f"{components.program('reports.build')}: --out: {problem}")
        return 2
    reports = [made.report(part, tables, figures) for part in settings.settings(frame)]
    try:
        for path, content in written.files(reports):
            write_bytes(options.out / path, content)
    except OSError as error:
        complain(f"{components.program('reports.build')}: cannot write the report: {error}")
        return 2
    console = InertConsole()
    terminal.show(console, reports, options.out / "index.html")
    holes = sum(len(report.holes) for report in reports)
    return 1 if options.strict and holes else 0


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


if __name__ == "__main__":
    sys.exit(main())
