"""`python -m bench.results`: whether results are what was written.

python -m bench.results --verify [RUNS]     a whole archive
python -m bench.results --check FILE...     results of bench.evaluate that somebody has sent
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import components, find
from bench.results.verify import Problem, Verified, verify, verify_file
from bench.shown.streams import complain, say
from bench.store.files import DamagedFile
from bench.store.result_files import Kind, read_result

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
        found = _check(options.check)
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


def _check(files: Sequence[Path]) -> Verified:
    """Of all files together, with the versions of their evaluations."""
    whole = Verified()
    for path in files:
        found = verify_file(path)
        whole.counts += found.counts
        whole.unsealed += found.unsealed
        whole.problems += found.problems
        if not found.problems and (problem := _other_version(path)):
            whole.problems.append(problem)
    return whole


def _other_version(path: Path) -> Problem | None:
    try:
        result: dict[str, Any] = read_result(path, Kind.MODEL) or {}
    except DamagedFile as error:
        return Problem(path, error.why, "")
    name, version = result.get("evaluation", ""), result.get("version", 1)
    try:
        here = find.load("evaluation", name).VERSION
    except find.UnknownComponent as error:
        return Problem(
            path, f"is of an evaluation that is not known here: {error}", "--components names it"
        )
    if version == here:
        return None
    why = f"is of version {version} of {name}, here is version {here}: never compare their numbers"
    return Problem(path, why, "evaluate the model again, or compare within one version")
