"""Where what was measured goes to. A sink is a file here; its path is its name.

All of them write local files and nothing else: what is uploaded, and when, is the user's to say. Their
libraries are no dependencies of the suite, and are imported by `write`.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.export.record import Record


class SinkModule(Protocol):
    """What makes files for another tool: `bench/export/sinks/<name>.py`, `bench.export <name> RUN`."""

    HELP: str
    """One line for the list of sinks."""

    @abstractmethod
    def check(self, records: Sequence[Record], folder: Path) -> list[str]:
        """Why these cannot be written to the folder, each with the remedy; empty when they can, which
        includes that its library is here. Writes nothing.
        """

    @abstractmethod
    def write(self, record: Record, folder: Path) -> str:
        """Write a record to the folder, in place of what an earlier call wrote of it. Returns a line:
        where it is, and the command that shows it. `record.points()` may take as long as the run does.
        """


def absent(library: str, install: str) -> list[str]:
    """That a library is not here and the command that installs it; nothing where it is."""
    found = importlib.util.find_spec(library)
    if found is not None and found.origin is not None:  # else a folder that is called like it
        return []
    return [f"{library} is not installed here: run `pip install {install}`"]
