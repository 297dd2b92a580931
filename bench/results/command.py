"""`python -m bench.results`: whether results are what was written, and their rows as one file.

python -m bench.results --verify [RUNS]     a whole archive
python -m bench.results --check FILE...     results of bench.evaluate that somebody has sent
python -m bench.results --rows FILE [RUNS]  every number of folders of runs, without pictures and predictions
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import components
from bench.results import rows_file
from bench.results.gather import gather
from bench.results.verify import check, verify
from bench.shown.streams import complain, say
from bench.store import places
from bench.store.files import DamagedFile

EPILOG = """examples:
  python -m bench.results --verify                      every file of runs/ that a number rests on
  python -m bench.results --verify /archive/2026/runs   of another folder; it may be read-only
  python -m bench.results --check their/evaluated/*.json
                                                        digests, counts and versions of results of
                                                        bench.evaluate; then
  python -m reports.build --runs runs --runs their      shows them beside your own
  python -m bench.results --rows rows.jsonl.gz          every number of runs/ and how each run was made, in
                                                        one file: to commit, or to send
  python -m reports.build --runs rows.jsonl.gz          the report of it: all but what shows pictures

exit status: 0 all is as it was written, 1 something is not, 2 wrong use"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(components.take(arguments))
    if options.rows:
        return _write_rows(parser.prog, *options.rows)
    if options.check:
        found = check(options.check)
    else:
        runs = options.verify
        if runs.is_file():
            return _verify_rows(runs)
        if not runs.is_dir():
            complain(f"{parser.prog}: {runs} is no folder of runs")
            return 2
        found = verify(runs)
    say(found)
    return 1 if found.problems else 0


def _write_rows(program: str, path: Path, *folders: Path) -> int:
    runs = folders or (Path("runs"),)
    problems = [f"{folder} is no folder of runs" for folder in runs if not folder.is_dir()]
    problems += [problem] if (problem := places.unwritable(path.parent)) else []
    try:
        if problems:
            raise ValueError("; ".join(problems))
        rows_file.write(path, found := gather(runs))
    except (ValueError, OSError) as error:
        complain(f"{program}: --rows: {error}")
        return 2
    size = places.size(path.stat().st_size)
    say(f"{path}: {_counted(found)}, {size}; without {rows_file.LEFT_OUT}")
    return 0


def _verify_rows(path: Path) -> int:
    try:
        found = rows_file.read(path)
    except DamagedFile as error:
        say(f"{error}\n  write it again: --rows")
        return 1
    say(f"{path}: {_counted(found)}: as written")
    return 0


def _counted(found: rows_file.RowsFile) -> str:
    numbers = int(found.frame["value"].notna().sum())
    return f"{numbers} numbers of {found.frame['signature'].nunique()} runs"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=components.program("bench.results"),
        parents=[components.option()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Check that results are what was written, or write their rows into one file.",
        epilog=EPILOG,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--verify", type=Path, nargs="?", const=Path("runs"), metavar="RUNS",
        help="configs, results, what was kept beside them, checkpoints, sweeps and searches of a folder "
        "(default: runs); or a file of --rows",
    )  # fmt: skip
    what.add_argument(
        "--check", type=Path, nargs="+", metavar="FILE",
        help="results of bench.evaluate (runs/evaluated/*.json), also without what lay beside them",
    )  # fmt: skip
    what.add_argument(
        "--rows", type=Path, nargs="+", metavar=("FILE", "RUNS"),
        help="write every number of folders of runs (default: runs) into a file, with each run's config, "
        "code, device and date; compressed where its name ends in .gz. reports.build reads it",
    )  # fmt: skip
    return parser
