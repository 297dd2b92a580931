"""Files that are not what was written: those that were found when results were read, and those that a table or
figure found when it was built. Listed on the page; nothing else stops for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from bench.store.files import DamagedFile

Damaged = dict[tuple[str, str], None]
"""(path, what is wrong with it), each once, in the order in which they were found."""

_found: ContextVar[Damaged | None] = ContextVar("damaged", default=None)


def note(error: DamagedFile) -> None:
    """Add a file to the list, if somebody keeps one."""
    if (found := _found.get()) is not None:
        found[str(error.path), error.why] = None


@contextmanager
def noting(known: Iterable[tuple[str, str]] = ()) -> Iterator[Damaged]:
    """The list of the known ones, to which those are added that are found meanwhile."""
    found = dict.fromkeys(known)
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)
