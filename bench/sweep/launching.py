"""Computing what a sweep is missing, with one of the launchers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from bench.grid.plan import Plan
from bench.launch.item import Item, OnChange
from bench.shown.streams import complain
from bench.store import places, snapshot
from bench.store.files import DamagedFile
from bench.store.learned import nothing_learned
from bench.store.rundir import State
from bench.sweep import cancel, choose
from bench.sweep.choose import Choice
from bench.sweep.live import LiveProgress
from bench.sweep.manifest import write_manifest
from bench.sweep.needs import prepare_data
from bench.sweep.parents import read_plan, waits_for
from bench.sweep.status import CellStatus, count_text, label


def launch(grid: Plan, statuses: list[CellStatus], options: Any, console: Console) -> int:
    """Prepare the data, submit the chosen cells, watch them to their end. Returns the exit status."""
    from bench.launch import local as launcher  # imports more than --plan and --status need

    os.environ.update(
        {name: str(grid.resources.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    )
    choice = choose_cells(statuses, options)
    if options.launcher == "local":
        try:
            launcher.check(items_of(choice))
        except ValueError as error:
            complain(f"{error}; nothing was started")
            return 2
    stale = [s for s in statuses if s.state == State.STALE and not options.force]
    _announce(choice, stale, console)
    try:
        if choice.start:
            _refuse_unwritable(options.runs)
            prepare_data(choice.start)
        _record(grid, options.runs, _after(statuses, choice), console)
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    busy = [] if options.retry else [s for s in statuses if s.busy]
    waits = f"; {len(busy)} are queued or running already" if busy else ""
    console.print(
        f"{escape(grid.title)}: {count_text(statuses)}; launching {len(choice.start)} cells"
        f"{measuring(choice.start)}{waits}"
    )
    # The launcher waits for what other clients have started, but only its own kind can tell.
    busy = [s for s in busy if _is_slurms(s) == (options.launcher == "slurm")]
    if choice.start or busy:
        try:
            _make_directories(choice.start)
            with cancel.known_client(options.runs, grid.name, options.launcher):
                _run(grid, items_of(choice, busy), options, console)
        except ValueError as error:  # this machine or SLURM cannot give what was asked for
            complain(error)
            return 2
        except OSError as error:
            complain(_stopped(error, options.runs))
            return 1
        except KeyboardInterrupt:
            if options.launcher != "slurm":
                raise
            complain("what was submitted goes on: --status, --cancel")
            return 130
    if options.launcher == "slurm" and not options.wait:
        if choice.start:
            console.print("SLURM has them; --status shows how they do, --cancel stops them")
        return 1 if choice.refused or stale else 0
    return _conclude(read_plan(options.runs, grid), console)


def measuring(start: list[CellStatus]) -> str:
    """ ": 3 to train, 2 to evaluate" where some of them are trained already."""
    trained = sum(s.trained for s in start)
    return f": {len(start) - trained} to train, {trained} to evaluate" if trained else ""


def _after(statuses: list[CellStatus], choice: Choice) -> list[CellStatus]:
    """The statuses, with the new directories of those that are started afresh."""
    afresh = {s.replaces.path: s for s in choice.start if s.replaces is not None}
    return [
        replace(s, run=afresh[s.run.path].run, state=State.NEW) if s.run.path in afresh else s
        for s in statuses
    ]


def _announce(choice: Choice, stale: list[CellStatus], console: Console) -> None:
    """What is started otherwise than asked, and what is not started at all."""
    for s in stale:
        console.print(f"[yellow]STALE[/] {escape(label(s.cell))}: {escape(s.note)}")
    for s in choice.start:
        if note := choose.memory_note(s):
            console.print(f"{escape(label(s.cell))}: {escape(note)}")
    show_refused(choice, console)


def _refuse_unwritable(runs: Path) -> None:
    """Raises ValueError."""
    if problem := places.unwritable(runs):
        raise ValueError(f"--runs: {problem}; nothing was started")


def _record(grid: Plan, runs: Path, statuses: list[CellStatus], console: Console) -> None:
    """For the report. An archive that may only be read keeps the record that it has."""
    try:
        write_manifest(grid, runs, statuses)
    except OSError:
        problem = places.unwritable(runs)
        if problem is None:
            raise
        console.print(f"the report reads which runs are whose as it was: {escape(problem)}")


def _stopped(error: OSError, runs: Path) -> str:
    free = places.size(places.free(runs))
    return f"stopped: {error} ({free} free in {runs}); what runs goes on, and the same command with the rest"


def _make_directories(cells: list[CellStatus]) -> None:
    for same in by_run(cells):
        choose.prepare(same)


def by_run(cells: Iterable[CellStatus]) -> list[list[CellStatus]]:
    """The cells of each run: several where they differ only in what is measured."""
    found: dict[Path, list[CellStatus]] = {}
    for s in cells:
        found.setdefault(s.run.path, []).append(s)
    return list(found.values())


def _is_slurms(s: CellStatus) -> bool:
    return bool(s.run.read_claim().get("launcher") == "slurm")


def choose_cells(statuses: list[CellStatus], options: Any) -> Choice:
    return choose.choose(
        statuses,
        retry=options.retry,
        force=options.force,
        retrain=options.retrain,
        code=snapshot.name,
    )


def show_refused(choice: Choice, console: Console) -> None:
    for s, reason in choice.refused:
        console.print(f"not again: [bold red]{s.text}[/] {escape(label(s.cell))}: {escape(reason)}")


def items_of(choice: Choice, live: Iterable[CellStatus] = ()) -> list[Item]:
    from bench.launch.item import Item

    cells = [same[0] for same in by_run((*choice.start, *live))]
    return [Item(s.run, s.resources, label(s.cell), waits_for(s)) for s in cells]


def _run(grid: Plan, items: list[Item], options: Any, console: Console) -> None:
    from bench.launch import local as launcher

    with LiveProgress(console, {item.run.signature: item.name for item in items}) as progress:
        changed, tick = progress.changed, progress.tick
        if options.launcher == "inline":
            run_inline(items, changed, tick)
        elif options.launcher == "local":
            launcher.run_local(items, runs=options.runs, on_change=changed, tick=tick)
        else:
            from bench.launch.slurm import client as slurm

            slurm.run_slurm(
                items,
                runs=options.runs,
                sweep=grid.name,
                wait=options.wait,
                on_change=changed,
                tick=tick,
            )


def _conclude(statuses: list[CellStatus], console: Console) -> int:
    failed = [s for s in statuses if s.state == State.FAILED]
    console.print(count_text(statuses))
    for s in failed:
        console.print(f"[bold red]{s.text}[/] {escape(label(s.cell))}: {escape(s.note)}")
        console.print(f"  traceback {s.run.error}\n  log       {s.run.log}", markup=False)
    for same in by_run(s for s in statuses if s.state == State.DONE):
        for line in _nothing_learned(same[0]):
            console.print(f"[yellow]warning[/] {escape(label(same[0].cell))}: {escape(line)}")
    if failed:
        console.print(
            "the same command runs failed cells again; --retry only those that it can help"
        )
    if waiting := [s for s in statuses if s.state == State.NEW and s.cell.config.parent]:
        console.print(f"{len(waiting)} not started, because what they start from is not trained")
    final = (State.DONE, State.SKIPPED)
    return 0 if all(s.state in final for s in statuses) else 1


def _nothing_learned(s: CellStatus) -> tuple[str, ...]:
    with suppress(DamagedFile):
        return nothing_learned(s.run.read_result() or {})
    return ()


def run_inline(items: Sequence[Item], on_change: OnChange, tick: Callable[[], None]) -> None:
    """One cell after the other in this process; for debugging (`breakpoint()` works)."""
    from bench.run.cell import run_cell  # imports torch

    for item in items:
        if not item.is_ready():
            continue
        on_change(item.run, State.RUNNING)
        state = run_cell(item.run.path)
        on_change(item.run, item.run.state())
        tick()
        if state == State.PREEMPTED:  # Ctrl-C was meant for all of them
            raise KeyboardInterrupt
