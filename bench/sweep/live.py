"""Live progress of a sweep: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.shown.console import InertConsole
from bench.store.rundir import RunDir, State

STYLE = {
    State.DONE: "green",
    State.RUNNING: "cyan",
    State.PENDING: "blue",
    State.TRAINED: "blue",
    State.FAILED: "bold red",
    State.DAMAGED: "bold red",
    State.EDITED: "yellow",
    State.STALE: "yellow",
    State.INTERRUPTED: "yellow",
    State.PREEMPTED: "yellow",
    State.PRUNED: "magenta",
    State.SKIPPED: "dim",
}
LINE_EVERY_S = 30.0
_LOG_WIDTH = 200
SHOWN_BARS = 20


def progress_text(run: RunDir) -> str:
    """'train 320/1480, loss 2.31'"""
    p = run.read_progress()
    if not p:
        return "starting"
    loss = f", loss {p['loss']:.3f}" if "loss" in p else ""
    return f"{p['phase']} {p['done']}/{p['total']}{loss}"


def time_left(run: RunDir) -> float | None:
    """Seconds to the end of training at the pace of this start, or None where nothing is known."""
    p = run.read_progress()
    if p.get("phase") != "train":
        return None
    starts = run.read_starts()
    begun = int(starts[-1].get("step") or 0) if starts else 0
    elapsed, done = p["time"] - p["phase_started"], p["done"] - begun
    if elapsed <= 2 or done <= 0:
        return None
    return float(elapsed * (p["total"] - p["done"]) / done)


def clock(seconds: float) -> str:
    """'0:42', '12:05', '3:20:00'"""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def make_console() -> Console:
    """Where a command writes. A log or a pipe has no width: with rich's 80 columns tables would fold."""
    found = InertConsole(highlight=False)
    return found if found.is_terminal else InertConsole(width=_LOG_WIDTH, highlight=False)


class LiveProgress:
    """Shows each running cell's phase, loss and time left, and one line when a cell ends."""

    def __init__(self, console: Console, names: dict[str, str]) -> None:
        self._console = console
        self._names = names
        self._running: dict[str, tuple[RunDir, TaskID]] = {}
        self._ended: set[str] = set()
        self._started: dict[str, float] = {}
        self._last_line = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._all = self._bars.add_task("all cells", total=len(names), note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def changed(self, run: RunDir, state: State) -> None:
        """A cell has another state. One that was preempted may come back."""
        if state == State.RUNNING:
            self._begin(run)
        elif state == State.PENDING:
            self._remove(run)
            self._ended.discard(run.signature)
        else:
            self._end(run, state)
        ended = len(self._ended)
        self._bars.update(self._all, completed=ended, note=f"{ended}/{len(self._names)}")

    def _begin(self, run: RunDir) -> None:
        self._ended.discard(run.signature)
        self._started.setdefault(run.signature, time.monotonic())
        if run.signature not in self._running:
            name = self._names[run.signature]
            task = self._bars.add_task(name, total=None, note="starting", visible=False)
            self._running[run.signature] = run, task

    def _end(self, run: RunDir, state: State) -> None:
        self._remove(run)
        self._ended.add(run.signature)
        took = time.monotonic() - self._started.get(run.signature, time.monotonic())
        counts = f"{len(self._ended)}/{len(self._names)}"
        name = escape(self._names[run.signature])
        text = f"[{STYLE.get(state, 'white')}]{state}[/] {name}  {took:.0f} s  ({counts})"
        if state == State.FAILED:
            text += f"\n  {escape(run.error_line())}\n  log {escape(str(run.log))}"
        elif state == State.PREEMPTED:
            text += "\n  was told to stop; goes on from its checkpoint when it is started again"
        self._console.print(text)

    def _remove(self, run: RunDir) -> None:
        if run.signature in self._running:
            self._bars.remove_task(self._running.pop(run.signature)[1])

    def tick(self) -> None:
        """Called a few times a second."""
        if self._console.is_terminal:
            for i, (run, task) in enumerate(self._running.values()):
                if i < SHOWN_BARS:
                    self._bars.update(task, visible=True, **_bar(run))
        elif time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            for run, _ in self._running.values():
                self._console.print(f"{escape(self._names[run.signature])}: {escape(_line(run))}")


def _bar(run: RunDir) -> dict[str, Any]:
    progress = run.read_progress()
    return {
        "completed": progress.get("done", 0),
        "total": progress.get("total"),
        "note": _line(run),
    }


def _line(run: RunDir) -> str:
    left = time_left(run)
    return progress_text(run) + ("" if left is None else f", {clock(left)} left")
