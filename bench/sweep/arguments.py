"""Arguments that every command over the cells of a sweep has: bench.sweep and bench.tune."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_cells(parser: argparse.ArgumentParser) -> None:
    """How big the cells are, what is changed in all of them, and where their runs are."""
    parser.add_argument(
        "--scale", default="mini", help="how big: a file of sweeps/scales/ (default: %(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="change a config value of every cell, `seeds`, or `resources.*`; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where runs are kept (default: %(default)s)"
    )
