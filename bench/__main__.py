"""`time-matters COMMAND ...`, the same as `python -m bench.COMMAND ...`; alone, a list of the commands.

Imports no more than the command that is asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import NamedTuple

from bench import components, find


class Command(NamedTuple):
    does: str
    function: str  # module:function, which takes the arguments and returns the exit status


COMMANDS = {
    "sweep": Command("run every cell of a sweep that is not DONE yet", "bench.sweep.command:entry"),
    "report": Command("tables and figures of what has run, on one page", "reports.build:main"),
    "evaluate": Command("measure any model on any data set", "bench.evaluate.command:main"),
    "export": Command("what was measured, as files of other tools", "bench.export.command:entry"),
    "prepare": Command("convert a data set to shards, or verify shards", "bench.prepare:main"),
    "tune": Command("search the values of config keys", "bench.tune.command:entry"),
    "results": Command(
        "check that results are what was written; their rows as one file",
        "bench.results.command:main",
    ),
    "speed": Command("measure how fast this machine is", "bench.speed.command:entry"),
    "run": Command("run one cell, as a launcher does", "bench.run.command:main"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked, *others = given or ["--help"]
    if asked in ("-h", "--help"):
        sys.stdout.write(overview())
        return 0
    if asked == "--version":
        sys.stdout.write(f"time-matters {version()}\n")
        return 0
    if asked not in COMMANDS:
        hint = find.nearest(asked, list(COMMANDS))
        sys.stderr.write(f"time-matters: unknown command {asked!r}{hint}\n")
        return 2
    module, _, function = COMMANDS[asked].function.partition(":")
    name = components.CALLED_AS.set(f"time-matters {asked}")
    try:
        return int(getattr(importlib.import_module(module), function)(others))
    finally:
        components.CALLED_AS.reset(name)


def overview() -> str:
    listed = "".join(f"  {name:<10}{command.does}\n" for name, command in COMMANDS.items())
    return f"""usage: time-matters COMMAND ...

Does a vision transformer use the temporal structure of its input, or only its static appearance?

{listed}
examples:
  time-matters sweep ablation --plan     what would run, with the built-in data
  time-matters sweep my.yaml             a sweep of your own
  time-matters report                    its tables and figures
  time-matters COMMAND --help            everything about one of them; --version names this version
"""


def version() -> str:
    """Of the installed suite, which a checkout that was never installed has not."""
    try:
        return importlib.metadata.version("time-matters-bench")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
