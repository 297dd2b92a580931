"""Progress of long work: a rich bar on a terminal, now and then a log line without one. Used
wherever data are prepared.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
QUIET_S = 2.0  # between two lines


@contextlib.contextmanager
def report(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function (done, total) that shows how far `title` is."""
    if not sys.stderr.isatty():
        log.info("%s ...", title)
        yield _log_lines(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _log_lines(title: str) -> Callable[[int, int], None]:
    tenth, told = 0, time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal tenth, told
        reached = 10 * done // max(total, 1)
        if reached > tenth and time.monotonic() - told > QUIET_S:
            tenth, told = reached, time.monotonic()
            log.info("%s: %d of %d", title, done, total)

    return update
