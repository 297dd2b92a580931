"""Progress of long work and the time it still takes: a rich bar on a terminal, now and then a log
line without one. Used wherever data are prepared.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import sys
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.shown.console import InertConsole

log = logging.getLogger(__name__)
QUIET_S = 2.0  # at least, between two lines
TELL_S = 60.0  # at most, while something happens


@contextlib.contextmanager
def report(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function (done, total) that shows how far `title` is."""
    if not sys.stderr.isatty():
        log.info("%s ...", title)
        yield _log_lines(title)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=InertConsole(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        first = True

        def update(done: int, total: int) -> None:
            nonlocal first
            if first:  # what an earlier run did says nothing about the speed of this one
                bar.reset(task, total=total, completed=done)
                first = False
            bar.update(task, completed=done, total=total)

        yield update


def _log_lines(title: str) -> Callable[[int, int], None]:
    tenth, told = 0, time.monotonic()
    begun: tuple[float, int] | None = None

    def update(done: int, total: int) -> None:
        nonlocal tenth, told, begun
        now, reached = time.monotonic(), 10 * done // max(total, 1)
        begun = begun or (now, done)
        quiet = now - told
        if (reached > tenth and quiet > QUIET_S) or quiet > TELL_S:
            tenth, told = reached, now
            left = time_left(now - begun[0], done - begun[1], total - done)
            log.info("%s: %s of %s%s", title, f"{done:,}", f"{total:,}", left)

    return update


def time_left(seconds: float, done: int, to_do: int) -> str:
    """', about 1:02:03 left' at the speed so far; nothing before there is a speed."""
    if done <= 0 or to_do <= 0:
        return ""
    left = datetime.timedelta(seconds=round(seconds / done * to_do))
    return f", about {left} left"
