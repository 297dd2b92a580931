"""`python -m bench.results`: whether results are what was written.

python -m bench.results --verify [RUNS]     a whole archive
python -m bench.results --check FILE...     results of bench.evaluate that somebody has sent
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import components
from bench.results.verify import check, verify
from bench.shown.streams import complain, say

EPILOG = """examples:
  python -m bench.results --verify                      every file of runs/ that a number rests on
  python -m bench.results --verify /archive/2026/runs   of another folder; it may be read-only
  python -m bench.results --check their/evaluated/*.json
                                                        digests, counts and versions of results of
                                                        bench.evaluate; then
  python -m reports.build --runs runs --runs their      shows them beside your own

exit status: 0 all is as it was written, 1 something is not, 2 wrong use"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(components.take(arguments))
    if options.check:
        found = check(options.check)
    else:
        runs = options.verify
        if not runs.is_dir():
            complain(f"{parser.prog}: {runs} is no folder of runs")
            return 2
        found = verify(runs)
    say(found)
    return 1 if found.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=components.program("bench.results"),
        parents=[components.option()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Check that results are what was written. Reads only.",
        epilog=EPILOG,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--verify", type=Path, nargs="?", const=Path("runs"), metavar="RUNS",
        help="configs, results, what was kept beside them, checkpoints, sweeps and searches of a folder "
        "(default: runs)",
    )  # fmt: skip
    what.add_argument(
        "--check", type=Path, nargs="+", metavar="FILE",
        help="results of bench.evaluate (runs/evaluated/*.json), also without what lay beside them",
    )  # fmt: skip
    return parser
