"""Live progress of a sweep: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.rundir import RunDir, State

STYLE = {
    State.DONE: "green",
    State.RUNNING: "cyan",
    State.FAILED: "bold red",
    State.STALE: "yellow",
    State.INTERRUPTED: "yellow",
    State.SKIPPED: "dim",
}
LINE_EVERY_S = 30.0


def progress_text(run: RunDir) -> str:
    """'train 320/1480, loss 2.31, 0:42 left'"""
    p = run.read_progress()
    if not p:
        return "starting"
    text = f"{p['phase']} {p['done']}/{p['total']}"
    if "loss" in p:
        text += f", loss {p['loss']:.3f}"
    elapsed = p["time"] - p["phase_started"]
    if p["done"] and elapsed > 2 and p["phase"] == "train":
        left = int(elapsed * (p["total"] - p["done"]) / max(p["done"], 1))
        text += f", {left // 60}:{left % 60:02d} left"
    return text


class Watcher:
    """Shows each running cell's phase, loss and time left, and one line when a cell ends."""

    def __init__(self, console: Console, names: dict[str, str]) -> None:
        self._console = console
        self._names = names
        self._running: dict[str, tuple[RunDir, TaskID]] = {}
        self._ended = 0
        self._started: dict[str, float] = {}
        self._last_line = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
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
        name = self._names[run.signature]
        if state == State.RUNNING:
            self._started.setdefault(run.signature, time.monotonic())
            if run.signature not in self._running:
                self._running[run.signature] = (
                    run,
                    self._bars.add_task(escape(name), total=None, note="starting"),
                )
            return
        if run.signature in self._running:
            self._bars.remove_task(self._running.pop(run.signature)[1])
        self._ended += 1
        took = time.monotonic() - self._started.get(run.signature, time.monotonic())
        colour = STYLE.get(state, "white")
        text = (
            f"[{colour}]{state}[/] {escape(name)}  {took:.0f} s  ({self._ended}/{len(self._names)})"
        )
        if state == State.FAILED:
            text += f"\n  {escape(run.error_line())}\n  log {run.log}"
        self._console.print(text)
        self._bars.update(
            self._all, completed=self._ended, note=f"{self._ended}/{len(self._names)}"
        )

    def tick(self) -> None:
        """Called a few times a second."""
        if self._console.is_terminal:
            for run, task in self._running.values():
                progress = run.read_progress()
                self._bars.update(
                    task,
                    completed=progress.get("done", 0),
                    total=progress.get("total"),
                    note=progress_text(run),
                )
        elif time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            for run, _ in self._running.values():
                self._console.print(f"{self._names[run.signature]}: {progress_text(run)}")
