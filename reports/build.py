"""`python -m reports.build`: every table and figure of the paper from `runs/`, and one HTML page.

The end of the flow: `bench.results.load` -> settings (scale + overrides) -> the tables of
`reports/tables/` and the figures of `reports/figures/` -> files. `bench.find` finds both; a new file
in these folders is a new table or figure. Everything is built in memory before the first file is
written, and the same input gives the same bytes; where nothing has changed (`reports.manifest`), nothing is
built, and not even pandas is imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench import components
from bench.shown.console import InertConsole
from bench.shown.streams import complain, say
from bench.store import places
from reports import manifest

if TYPE_CHECKING:
    import pandas as pd

# What is needed to build is imported where it is: see above.

DESCRIPTION = """\
Build every table and figure from the results of the sweeps, with the published numbers beside the
measured ones, and one self-contained page to read them all.
"""

EPILOG = """\
writes:
  OUT/index.html                       everything on one page; open this first
  OUT/<setting>/<table>.{md,tex,csv,json,html}
                                       one table in five formats with equal cells; .tex needs
                                       booktabs, graphicx and rotating, .json names the runs behind each cell
  OUT/<setting>/<figure>.{pdf,png}     ready for the paper, its caption in .caption.txt
  OUT/<setting>/paper.tex              all of them in two columns: pdflatex paper.tex
  OUT/<setting>/<figure>.data.{csv,json}
                                       the numbers that it draws, with those of every seed
  OUT/.report.json                     what was written, and of what: a second build with nothing changed
                                       builds nothing; files that are no longer made are removed, unless
                                       they were edited since
  A setting is a scale plus the --set changes of a sweep; settings are never mixed in one table.
  A model that bench.evaluate measured joins the settings of its data set, or makes one of its own.

reading a table:
  61.0 ± 0.5           mean ± sample standard deviation over seeds, percent
  61.0 [60.4, 61.6]    with --intervals: mean and its 95 % interval, over seeds and samples
  61.0 ± 0.5 (2/3)     2 of 3 seeds have finished; never bold
  — [a]                no number; footnote a says why
  '+ TIME              in .csv: the text "+ TIME", which a spreadsheet would take for a formula

examples:
  python -m bench.sweep sweeps/ablation.yaml && python -m reports.build
  python -m reports.build --runs /scratch/me/runs --out paper/results
  python -m reports.build --runs runs --runs /shared/theirs    what several people have measured
  python -m reports.build --runs rows.jsonl.gz     from a file of bench.results --rows: what shows
                                       pictures says that there are none
  python -m reports.build --strict     in CI: fail while a number is missing, or numbers of different code or
                                       devices stand in one table
  python -m reports.build --pool code  runs of several commits together; each table that does so says it

exit status:
  0  built          1  built, --strict and there are holes: numbers that are missing or do not have
                       all their seeds (cells that a sweep skips on purpose are not counted); or
                       mixes: runs of different code or devices in one table, not pooled
  2  bad input; nothing written
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(components.take(arguments))
    options.runs = options.runs or [Path("runs")]
    asked = {name: value for name, value in vars(options).items() if name not in ("out", "strict")}
    earlier = manifest.read(options.out)
    key = manifest.key(options.runs, asked, options.out)
    if earlier is not None and manifest.is_same(earlier, key, options.out):
        return _as_it_was(options, earlier)
    from reports import made

    try:
        frame = _load(options.runs)
        components_of = made.ordered("table"), made.ordered("figure")
        if problem := places.unwritable(options.out):
            raise ValueError(f"--out: {problem}")
    except (ValueError, OSError) as error:
        complain(f"{components.program('reports.build')}: {error}")
        return 2
    return _build(options, frame, components_of, key, earlier)


def _as_it_was(options: argparse.Namespace, earlier: manifest.Manifest) -> int:
    say(f"Nothing has changed: {len(earlier.files)} files are as they were built.")
    if earlier.holes:
        say(f"{earlier.holes} numbers are missing or incomplete; the page lists them")
    for text in (*_counted(earlier), f"Report: {options.out / 'index.html'}"):
        say(text)
    return 1 if options.strict and (earlier.holes or earlier.mixes) else 0


def _build(
    options: argparse.Namespace,
    frame: pd.DataFrame,
    names: tuple[Sequence[str], Sequence[str]],
    key: str,
    earlier: manifest.Manifest | None,
) -> int:
    from reports import damage, made, mixes, published, settings, table, terminal, written

    known = frame.attrs.pop("damaged", ())  # pandas would copy it with each part
    live = frame["state"].isin(["RUNNING", "PENDING"]).any()  # which no file says
    with (
        mixes.pooling(options.pool),
        published.choosing(options.published),
        table.in_intervals(options.intervals),
        damage.noting(known) as damaged,
    ):
        reports = [made.report(part, *names) for part in settings.settings(frame)]
        found = tuple(str(mix) for report in reports for mix in mixes.of(report.frame))
    holes = sum(len(report.holes) for report in reports)
    made_of = manifest.Manifest("" if live else key, {}, holes, found, len(damaged))
    try:
        files = written.files(reports, damaged, found)
        done = manifest.write(options.out, files, earlier, made_of)
    except OSError as error:
        complain(f"{components.program('reports.build')}: cannot write the report: {error}")
        return 2
    console = InertConsole()
    terminal.show(console, reports)
    for text in (*_counted(made_of), *terminal.about_files(done)):
        console.print(text, soft_wrap=True, markup=False, highlight=False)
    terminal.where(console, options.out / "index.html")
    return 1 if options.strict and (holes or found) else 0


def _counted(made: manifest.Manifest) -> list[str]:
    """What does not depend on whether anything was built."""
    lines = [f"mixed: {mix}" for mix in made.mixes]
    if made.damaged:
        lines.append(f"{made.damaged} damaged files were left out; the page lists them")
    return lines


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
    add(
        "--strict",
        action="store_true",
        help="exit with 1 if a number is missing or incomplete, or runs are mixed",
    )
    add(
        "--pool",
        action="append",
        default=[],
        choices=manifest.POOLABLE,
        help="take runs together that differ in this: average them, and take differences; may be repeated. "
        "code: the commit and changes to it; device: CPU or which GPU; provenance: how frames were decoded, "
        "chosen and cropped. Numbers of other data never go together",
    )
    add(
        "--published",
        choices=manifest.PUBLISHED,
        default=manifest.PUBLISHED[0],
        help="columns of published numbers: auto (default) leaves them out on built-in data, with which they do not "
        "compare",
    )
    add(
        "--intervals",
        action="store_true",
        help="cells show mean [95 %% interval] instead of mean ± deviation of the seeds",
    )
    return parser


def _load(folders: Sequence[Path]) -> pd.DataFrame:
    """The checked results. ValueError says what to do when there are none."""
    from bench import results
    from reports import stats
    from reports.commands import FIRST_SWEEP

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
        if damaged := frame.attrs.get("damaged"):
            raise ValueError(
                f"nothing in {where} can be read: {len(damaged)} files are damaged, listed above"
            )
        raise ValueError(f"no runs in {where}; make some with `{FIRST_SWEEP}`")
    return stats.checked(frame)


if __name__ == "__main__":
    sys.exit(main())
