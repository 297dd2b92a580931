"""How fast this machine runs the suite, beside what this machine could do at best.

    python -m bench.speed {step,challenge,loader,sweep} [options] [--out FILE.json]

Each benchmark is a file in bench/benchmarks/ (those without a leading underscore), found by its name.
It has HELP, DESCRIPTION, EPILOG, `add_arguments(parser)` and `run(options)`, which returns the exit
status and raises Mistakes before it measures anything. docs/performance.md defines every column.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import signal
import sys

from bench import benchmarks
from bench.config.mistakes import Mistakes


def names() -> list[str]:
    """The benchmarks that there are."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.speed",
        description="How fast this machine runs the suite, beside what it could do at best.",
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name in names():
        benchmark = importlib.import_module(f"bench.benchmarks.{name}")
        command = commands.add_parser(
            name,
            help=benchmark.HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description=benchmark.DESCRIPTION,
            epilog=benchmark.EPILOG,
        )
        benchmark.add_arguments(command)
        command.set_defaults(run=benchmark.run)
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except Mistakes as error:
        print(f"{len(error.mistakes)} mistake(s), nothing was measured:\n{error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the measuring process too
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; --out has the rows measured so far", file=sys.stderr)
        sys.exit(130)
