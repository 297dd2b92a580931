"""What every command of the suite shares: its name as it was called, and `--components DIR`, folders
with components of the user's own.

A folder has rooms of the suite's names: tasks/, sources/, decoders/, backbones/, adapters/, sinks/, tables/,
figures/ and sweeps/, each optional. BENCH_COMPONENTS lists the same folders for child processes; there
bench/__init__.py lets Python import from them, and bench.find looks into them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path

from bench import COMPONENTS, ROOMS, find, own_folders
from bench.shown.streams import complain, guard_warnings

CALLED_AS: ContextVar[str] = ContextVar("CALLED_AS")
"""`time-matters COMMAND`, while bench/__main__.py runs a command; child processes have their own name."""


def program(module: str) -> str:
    """What a user typed to start this command, for `prog` and before messages."""
    return CALLED_AS.get(f"python -m {module}")


def option() -> argparse.ArgumentParser:
    """`--components`, for `parents` of the parser of each command that loads components."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--components", action="append", default=[], type=Path, metavar="DIR",
        help="a folder with components of your own in tasks/, sources/, decoders/, backbones/, adapters/, sinks/, "
        f"tables/, figures/ or sweeps/; may be repeated (also: the environment variable {COMPONENTS})",
    )  # fmt: skip
    return parser


def take(arguments: Sequence[str] | None) -> list[str]:
    """Look into the folders that `--components` names from now on. Returns the other arguments of
    the command line: to be called first, since parsers list components. Exits with status 2 when
    something is wrong with the folders.
    """
    guard_warnings()
    given = sys.argv[1:] if arguments is None else arguments
    options, others = option().parse_known_args(given)
    try:
        look_into(options.components)
    except ValueError as error:
        complain(f"--components (or {COMPONENTS}): {error}")
        sys.exit(2)
    return others


def look_into(folders: Iterable[Path]) -> None:
    """Find components in these folders too, in this process and in those that it starts. ValueError
    for a folder that has none, and for a name that exists twice.
    """
    new = [folder.absolute() for folder in folders]
    own = list(dict.fromkeys([*own_folders(), *new]))
    if not own:
        return
    for folder in own:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    for folder in new:
        _check_folder(folder)
    os.environ[COMPONENTS] = os.pathsep.join(map(str, own))
    find.names.cache_clear()
    find.load.cache_clear()
    for kind in find.PACKAGES:
        find.names(kind)


def _check_folder(folder: Path) -> None:
    rooms = [*ROOMS.values(), "sweeps"]
    if os.pathsep in str(folder):
        raise ValueError(
            f"{folder}: {os.pathsep!r} in its path, which separates folders; rename it"
        )
    if not any((folder / room).is_dir() for room in rooms):
        raise ValueError(f"{folder} has no folder of components ({', '.join(rooms)})")
