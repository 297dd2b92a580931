"""What a figure asks of the results while it is drawn: the numbers that are written beside it.

Between `stats.aggregate`, which notes each number that it is asked for, and build.py, which writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reports.stats import Aggregate, Measure

Asked = tuple[Mapping[str, str], "Measure", "Aggregate"]

_asked: ContextVar[list[Asked] | None] = ContextVar("asked", default=None)


def note(labels: Mapping[str, str], measure: Measure, found: Aggregate) -> None:
    """Add a number to the list, if somebody wants one."""
    if (asked := _asked.get()) is not None:
        asked.append((dict(labels), measure, found))


@contextmanager
def noting() -> Iterator[list[Asked]]:
    """The list to which everything is added that is asked for meanwhile."""
    asked: list[Asked] = []
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)
