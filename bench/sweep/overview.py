"""What a user sees of a sweep that is not being launched: the table of `--status` and `--plan`, and
what the remaining cells will cost.

Takes statuses (status.py) and reads progress, hosts and logs only of the rows it shows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.config import left_out
from bench.grid.plan import Plan
from bench.store.rundir import State, jobs_folder
from bench.sweep.live import STYLE, clock, progress_text, time_left
from bench.sweep.status import CellStatus, count_text

SHOWN_ROWS = 60
_MEASURED_FOLDERS = 20
_MEASURED_RUNS = (
    100  # with the labels of those to train, and with others: reading 10,000 takes 20 s
)
_FIRST = (
    State.FAILED, State.DAMAGED, State.EDITED, State.RUNNING, State.INTERRUPTED, State.PREEMPTED,
    State.PENDING, State.TRAINED, State.STALE,
)  # fmt: skip


def overview(grid: Plan, statuses: list[CellStatus], missing: dict[str, str]) -> Group:
    """The table, the counts, and the data that this machine lacks."""
    shown = statuses
    if len(statuses) > SHOWN_ROWS:
        shown = _most_urgent(statuses)
    lines: list[Table | Text] = [table(grid, shown)]
    if len(shown) < len(statuses):
        lines.append(Text(f"... and {len(statuses) - len(shown)} more cells"))
    lines.append(Text(f"{len(statuses)} cells: {count_text(statuses)}"))
    for name, text in missing.items():
        lines.append(Text.assemble(("missing on this machine", "yellow"), f" {name}: {text}"))
    return Group(*lines)


def _most_urgent(statuses: list[CellStatus]) -> list[CellStatus]:
    """Where not all are shown: failed and running ones first, neither at the expense of the
    other.
    """
    ranked = sorted(statuses, key=_urgency)
    heads = [
        s
        for state in (State.FAILED, State.RUNNING)
        for s in [s for s in ranked if s.state == state][: SHOWN_ROWS // 2]
    ]
    taken = {s.run.signature for s in heads}
    rest = [s for s in ranked if s.run.signature not in taken]
    return sorted([*heads, *rest[: SHOWN_ROWS - len(heads)]], key=_urgency)


def _urgency(s: CellStatus) -> int:
    return _FIRST.index(s.state) if s.state in _FIRST else len(_FIRST)


def table(grid: Plan, statuses: Iterable[CellStatus]) -> Table:
    """A row per cell: labels, seed, run, state, progress, time left, where, and what to look at;
    without the columns that would be empty.
    """
    rows = [_row(s) for s in statuses]
    names = [name for name in ("progress", "left", "where", "note") if any(r[name] for r in rows)]
    made = Table(title=escape(f"{grid.title} - scale {grid.scale}"), title_justify="left")
    for column in (*grid.axes, "seed", "run", "state", *names):
        made.add_column(escape(column), overflow="fold")
    for row in rows:
        s = row["of"]
        labels = [escape(s.cell.labels.get(axis, "-")) for axis in grid.axes]
        state = f"[{STYLE.get(s.state, 'white')}]{s.text}[/]"
        details = [escape(row[name]) for name in names]
        made.add_row(*labels, str(s.cell.seed), s.run.signature, state, *details)
    return made


def _row(s: CellStatus) -> dict[str, Any]:
    left = time_left(s.run) if s.state == State.RUNNING else None
    return {
        "of": s,
        "progress": _progress(s),
        "left": "" if left is None else clock(left),
        "where": s.node or _host(s),
        "note": _note(s),
    }


def _progress(s: CellStatus) -> str:
    if s.state in (State.RUNNING, State.FAILED, State.PREEMPTED, State.INTERRUPTED):
        text = progress_text(s.run)
        return "" if text == "starting" and s.state != State.RUNNING else text
    return ""


def _host(s: CellStatus) -> str:
    """Where the last start was."""
    if s.state in (State.NEW, State.SKIPPED, State.STALE, State.DONE, State.PENDING):
        return ""
    starts = s.run.read_starts()
    return str(starts[-1].get("host") or "") if starts else ""


def _note(s: CellStatus) -> str:
    """The last line of the error or why it waits, what the cell is without, then the files that say more."""
    lines = [s.note] if s.note else []
    lines += [left_out.without(s.cell.left_out)] if s.cell.left_out else []
    if s.state == State.FAILED and s.run.error.exists():
        lines.append(str(s.run.error))
    if s.state in (State.RUNNING, State.FAILED, State.INTERRUPTED, State.PREEMPTED):
        log = s.run.log if s.run.log.exists() else _job_log(s)
        lines += [str(log)] if log else []
    return "\n".join(lines)


def _job_log(s: CellStatus) -> Path | None:
    """The output of the job that was to run the cell, when the cell itself has written nothing."""
    claim = s.run.read_claim()
    if claim.get("launcher") != "slurm":
        return Path(claim["stdout"]) if claim.get("stdout") else None
    job = s.job or s.run.read_outcome().get("job")
    folder = jobs_folder(s.run.path.parent) / str(claim.get("batch"))
    return folder / f"{job}_0_log.out" if job else None


def watch(
    console: Console,
    read: Callable[[], tuple[Group, list[CellStatus]]],
    every_s: float,
    has_client: Callable[[], bool],
) -> None:
    """Show the overview again and again until no cell is queued or running and no client is left that would start
    the next one; on a terminal in place, with the counts on top because the end of a long table does not fit.
    """
    # Asked before each look, or a cell that a client has started since would be missed as it goes.
    living, (shown, statuses) = has_client(), read()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while living or any(s.busy for s in statuses):
            if console.is_terminal:
                live.update(Group(Text(count_text(statuses)), shown), refresh=True)
            else:
                console.print(shown)
            time.sleep(every_s)
            living, (shown, statuses) = has_client(), read()
    console.print(shown)


# -- cost ---


@dataclass(frozen=True)
class Cost:
    """Of the cells that are still to run; None where nothing has been measured."""

    train: int
    evaluate: int
    device_hours: float | None
    measured: int  # cells that this comes from
    gigabytes: float | None

    def __str__(self) -> str:
        if not self.train + self.evaluate:
            return "nothing is left to run: 0 to train, 0 to evaluate"
        counts = f"{self.train} to train, {self.evaluate} to evaluate"
        if self.device_hours is None:
            return f"{counts}; nothing like it is DONE yet, so no estimate of the time"
        disk = "" if self.gigabytes is None else f" and {_size(self.gigabytes)} of disk"
        return f"{counts}: about {_hours(self.device_hours)}{disk}, as measured on {self.measured} DONE"


def expected_cost(statuses: Iterable[CellStatus], remaining: list[CellStatus]) -> Cost:
    """What the remaining cells will take, from those of the same plan that were trained and measured:
    from other seeds of the same labels where there are any, else from all.
    """
    train = [s for s in remaining if not s.trained]
    evaluate = len(remaining) - len(train)
    if not remaining:
        return Cost(0, 0, None, 0, None)
    wanted = {_labels(s) for s in train}
    done = [s for s in statuses if s.state in (State.DONE, State.TRAINED)]
    alike = _spread([s for s in done if _labels(s) in wanted], _MEASURED_RUNS)
    done = [*alike, *_spread([s for s in done if _labels(s) not in wanted], _MEASURED_RUNS)]
    by_labels: dict[tuple[str, ...], list[float]] = {}
    known: dict[str, list[float]] = {}
    for s in done:
        measured = [found for _, found in s.run.read_measured() if "seconds" in found]
        for found in measured:
            known.setdefault(found["evaluation"], []).append(found["seconds"] / 3600)
        if (hours := _device_hours(s, measured)) is not None:
            by_labels.setdefault(_labels(s), []).append(hours)
    everything = [hours for found in by_labels.values() for hours in found]
    to_measure = [str(e["evaluation"]) for s in remaining if s.trained for e in s.missing.values()]
    if not everything or not set(to_measure) <= known.keys():
        return Cost(len(train), evaluate, None, 0, None)
    total = sum(_mean(by_labels.get(_labels(s), everything)) for s in train)
    total += sum(_mean(known[name]) for name in to_measure)
    sizes = [_bytes(s.run.path) for s in _spread(done, _MEASURED_FOLDERS)]
    gigabytes = _mean(sizes) * len(train) / 1e9 if train else None
    return Cost(len(train), evaluate, total, len(everything), gigabytes)


def _labels(s: CellStatus) -> tuple[str, ...]:
    return tuple(s.cell.labels.values())


def _spread(cells: list[CellStatus], most: int) -> list[CellStatus]:
    """At most so many of them, from first to last."""
    return cells[:: -(-len(cells) // most) or 1]


def _device_hours(s: CellStatus, measured: list[dict[str, Any]]) -> float | None:
    """Of its training, and of all that was measured of it."""
    seconds = (s.run.read_result() or {}).get("seconds") if s.trained else None
    if not isinstance(seconds, dict):
        return None
    evaluating = sum(found["seconds"] for found in measured)
    return (sum(map(float, seconds.values())) * s.cell.resources.world + evaluating) / 3600


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _bytes(folder: Path) -> float:
    return float(
        sum(
            os.lstat(Path(root, name)).st_size
            for root, _, names in os.walk(folder)
            for name in names
        )
    )


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return "less than a device-minute"
    return f"{hours:.1f} device-hours" if hours >= 1 else f"{hours * 60:.0f} device-minutes"


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{gigabytes * 1000:.0f} MB"
