"""How commands write: what files say cannot control the terminal. Tables and bars: `bench.shown.console`."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any, TextIO

from bench.shown.inert import printable


def say(text: object) -> None:
    """A line on stdout."""
    sys.stdout.write(f"{printable(text)}\n")


def complain(text: object) -> None:
    """A line on stderr."""
    sys.stderr.write(f"{printable(text)}\n")


class PrintableFormatter(logging.Formatter):
    """Of every handler, with the traceback if a record has one."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def guard_warnings() -> None:
    """Those of Python, and of loggers where nothing else shows them (`log_to`): on stderr."""
    warnings.formatwarning = _format_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter("%(message)s"))


_as_before = warnings.formatwarning


def _format_warning(*what: Any, **more: Any) -> str:
    return printable(_as_before(*what, **more))


def log_to(stream: TextIO) -> None:
    """Where a command shows what is logged."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
