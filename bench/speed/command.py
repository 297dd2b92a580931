"""How fast this machine runs the suite, beside what this machine could do at best.

    python -m bench.speed {step,challenge,evaluate,loader,report,sweep} [options] [--out FILE.json]

Each benchmark is a file in bench/speed/, found by its name, that keeps `bench.task.BenchmarkModule`.
docs/performance.md defines every column.
"""

from __future__ import annotations

import argparse
import signal

from bench import components, find
from bench.config.mistakes import Mistakes
from bench.shown.streams import complain
from bench.task import BenchmarkModule


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=components.program("bench.speed"),
        parents=[components.option()],
        description="How fast this machine runs the suite, beside what it could do at best.",
    )
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name in find.names("benchmark"):
        benchmark: BenchmarkModule = find.load("benchmark", name)
        command = commands.add_parser(
            name,
            help=benchmark.HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description=benchmark.DESCRIPTION,
            epilog=find.optional("benchmark", name, "EPILOG"),
        )
        benchmark.add_arguments(command)
        command.set_defaults(run=benchmark.run)
    return parser


def main(arguments: list[str] | None = None) -> int:
    try:
        options = _parser().parse_args(components.take(arguments))
        return options.run(options)
    except find.ComponentError as error:
        complain(error)
        return 2
    except Mistakes as error:
        complain(f"{len(error.mistakes)} mistake(s), nothing was measured:\n{error}")
        return 2


def entry(arguments: list[str] | None = None) -> int:
    """The command as a process of its own."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the measuring process too
    try:
        return main(arguments)
    except KeyboardInterrupt:
        complain("stopped; --out has the rows measured so far")
        return 130
