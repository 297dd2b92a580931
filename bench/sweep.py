"""The command line of a sweep: plan it, launch what is not DONE, watch it, report how each cell
ended.

    python -m bench.sweep sweeps/ablation.yaml [--scale mini] [--set train.lr=1e-3] [--plan | --status]

A sweep is a desired state: running the same command again submits exactly the cells that are not
DONE.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import find, identity
from bench.config import Mistakes
from bench.grid import Cell, Plan, plan
from bench.rundir import RunDir, State, manifest_path, write_json
from bench.watch import STYLE, Watcher, progress_text

SHOWN_ROWS = 60


@dataclass(frozen=True)
class Standing:
    """A cell and what the files say of it."""

    cell: Cell
    run: RunDir
    state: State
    note: str


def standing(runs: Path, cell: Cell) -> Standing:
    run = RunDir(runs / cell.signature)
    if cell.skip:
        return Standing(cell, run, State.SKIPPED, cell.skip)
    state = run.state()
    if state == State.NEW:
        return Standing(cell, run, state, "")
    if run.config_digest() != identity.digest(cell.config.dump()):
        changes = identity.drift(run.read_config(), cell.config)
        if changes:
            return Standing(cell, run, State.STALE, f"{'; '.join(changes)}; --force runs it afresh")
    return Standing(cell, run, state, run.error_line() if state == State.FAILED else "")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        grid = plan(options.sweep, options.scale, options.set)
    except Mistakes as error:
        print(f"{len(error.mistakes)} mistake(s), nothing was started:\n{error}", file=sys.stderr)
        return 2
    standings = [standing(options.runs, cell) for cell in grid.cells]
    missing = missing_files(grid)
    if options.plan or options.status:
        _show(console, grid, standings, missing)
        return 0
    if missing:
        print("\n".join(f"{name}: {text}" for name, text in missing.items()), file=sys.stderr)
        return 2
    live = [s for s in standings if s.state in (State.RUNNING, State.PENDING)]
    if options.force and live:
        names = "\n".join(f"  {label(s.cell)}: {s.run.path}" for s in live)
        print(f"--force would pull these from under their processes:\n{names}", file=sys.stderr)
        print("stop them first, or wait for them", file=sys.stderr)
        return 2
    return launch(grid, standings, options, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run every cell of a sweep that is not DONE yet.",
        epilog="""examples:
  python -m bench.sweep sweeps/ablation.yaml --plan              what would run, without touching the disk
  python -m bench.sweep sweeps/ablation.yaml                     run it on the built-in data, on this machine
  python -m bench.sweep sweeps/ablation.yaml --status            where it stands, from another shell
  python -m bench.sweep sweeps/ablation.yaml --set seeds=[0,1,2] two more seeds; finished cells are kept
  python -m bench.sweep sweeps/ablation.yaml --set objectives.video.order.weight=0.5
                                                                 another experiment, beside the first

exit status: 0 all done, 1 some cells failed (the others finished), 2 bad input (nothing written)""",
    )
    parser.add_argument(
        "sweep", type=Path, metavar="SWEEP.yaml", help="what is compared, e.g. sweeps/ablation.yaml"
    )
    parser.add_argument(
        "--scale", default="mini", help="how big: a file of sweeps/scales/ (default: %(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="change a config value of every cell, `seeds`, or `resources.*`; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where runs are kept (default: %(default)s)"
    )
    parser.add_argument(
        "--launcher", choices=("local", "inline"), default="local",
        help="local: processes on this machine, as many at once as cores allow; inline: this process, for debugging",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--plan", action="store_true", help="list the cells and stop; touches nothing"
    )
    what.add_argument("--status", action="store_true", help="show the state of each cell and stop")
    parser.add_argument(
        "--retry", action="store_true", help="run only FAILED cells, from their last checkpoint"
    )
    parser.add_argument(
        "--force", action="store_true",
        help="run all cells afresh, DONE and STALE ones too; old directories move to runs/replaced/",
    )  # fmt: skip
    return parser


def missing_files(grid: Plan) -> dict[str, str]:
    """Data and weights that this machine lacks and the suite cannot make: {what: what to do}."""
    data_dir, weights_dir = Path(grid.resources.data_dir), Path(grid.resources.weights_dir)
    found: dict[str, str | None] = {}
    for cell in grid.cells:
        data, model = cell.config.data, cell.config.model
        if data.name not in found:
            found[data.name] = find.load("source", data.name).missing(data.config, data_dir)
        key = f"{model.name} {model.config.init}"
        if key not in found:
            found[key] = find.load("backbone", model.name).missing(model.config, weights_dir)
    # Several backbones can lack the same file: said once.
    by_text: dict[str, str] = {}
    for name, text in found.items():
        if text:
            by_text.setdefault(text, name)
    return {name: text for text, name in by_text.items()}


# -- showing ---


def _show(console: Console, grid: Plan, standings: list[Standing], missing: dict[str, str]) -> None:
    shown = standings if len(standings) <= SHOWN_ROWS else standings[: SHOWN_ROWS // 2]
    console.print(cell_table(grid, shown))
    if len(shown) < len(standings):
        console.print(f"... and {len(standings) - len(shown)} more cells")
    console.print(f"{len(standings)} cells: {count_text(s.state for s in standings)}")
    for name, text in missing.items():
        console.print(f"[yellow]missing on this machine[/] {name}: {escape(text)}")


def cell_table(grid: Plan, standings: Iterable[Standing]) -> Table:
    table = Table(title=escape(f"{grid.title} - scale {grid.scale}"), title_justify="left")
    for axis in grid.axes:
        table.add_column(axis)
    for column in ("seed", "run", "state", "progress / note"):
        table.add_column(column, overflow="fold")
    for s in standings:
        colour = STYLE.get(s.state, "white")
        note = s.note or (progress_text(s.run) if s.state == State.RUNNING else "")
        if s.state == State.FAILED:
            note = f"{note}\n{s.run.error}"
        labels = [escape(s.cell.labels.get(axis, "-")) for axis in grid.axes]
        table.add_row(
            *labels, str(s.cell.seed), s.cell.signature, f"[{colour}]{s.state}[/]", escape(note)
        )
    return table


def count_text(states: Iterable[State]) -> str:
    counts = Counter(states)
    return ", ".join(f"{counts[s]} {s}" for s in State if counts[s]) or "none"


# -- launching ---


def launch(grid: Plan, standings: list[Standing], options: Any, console: Console) -> int:
    """Prepare the data, submit the chosen cells, watch them to their end. Returns the exit status."""
    from bench import launcher  # imports OpenCV, submitit ...: not needed for --plan

    os.environ.update(
        {name: str(grid.resources.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    )
    chosen = choose(standings, retry=options.retry, force=options.force)
    stale = [s for s in standings if s.state == State.STALE and s not in chosen]
    for s in stale:
        console.print(f"[yellow]STALE[/] {escape(label(s.cell))}: {escape(s.note)}")
    write_manifest(grid, options.runs, {s.run.signature: s.note for s in stale})
    counts = count_text(s.state for s in standings)
    console.print(f"{escape(grid.title)}: {counts}; launching {len(chosen)} cells")
    if chosen:
        prepare_data(grid, chosen)
        for s in chosen:
            if options.force:
                s.run.set_aside()
            dump = s.cell.config.dump()
            s.run.create(dump, grid.resources.model_dump(mode="json"), identity.digest(dump))
        names = {s.run.signature: label(s.cell) for s in chosen}
        with Watcher(console, names) as watcher:
            runs = [s.run for s in chosen]
            if options.launcher == "inline":
                launcher.run_inline(runs, watcher.changed, watcher.tick)
            else:
                launcher.run_local(
                    runs,
                    grid.resources,
                    folder=options.runs,
                    on_change=watcher.changed,
                    tick=watcher.tick,
                )
    return _conclude([standing(options.runs, s.cell) for s in standings], console)


def choose(standings: list[Standing], *, retry: bool, force: bool) -> list[Standing]:
    """The cells to submit, longest first as far as their objectives tell, so that the last slots
    end together.
    """
    if force:
        chosen = [s for s in standings if s.state != State.SKIPPED]
    elif retry:
        chosen = [s for s in standings if s.state == State.FAILED]
    else:
        settled = (State.DONE, State.STALE, State.SKIPPED)
        chosen = [s for s in standings if s.state not in settled]
    return sorted(chosen, key=lambda s: -len(s.cell.config.objectives))


def prepare_data(grid: Plan, chosen: list[Standing]) -> None:
    """Make built-in data once, before cells would wait for one another to make it."""
    from bench import run

    configs = {repr(s.cell.config.data): s.cell.config for s in chosen}
    for config in configs.values():
        run.prepare_data(config, Path(grid.resources.data_dir))


def label(cell: Cell) -> str:
    return " / ".join([*cell.labels.values(), f"seed {cell.seed}"])


def write_manifest(grid: Plan, runs: Path, stale: dict[str, str]) -> None:
    """Which labels belong to which signatures, and which runs are stale; for bench.results."""
    cells = [
        {
            "labels": c.labels,
            "seed": c.seed,
            "signature": c.signature,
            "skip": c.skip,
            "stale": stale.get(c.signature),
            "data": c.config.data.name,
        }
        for c in grid.cells
    ]
    manifest = {
        "sweep": grid.sweep,
        "scale": grid.scale,
        "title": grid.title,
        "axes": list(grid.axes),
        "overrides": grid.overrides,
        "cells": cells,
    }
    path = manifest_path(runs, grid.name)
    write_json(path, manifest)


def _conclude(standings: list[Standing], console: Console) -> int:
    failed = [s for s in standings if s.state == State.FAILED]
    console.print(f"{count_text(s.state for s in standings)}")
    for s in failed:
        console.print(f"[bold red]FAILED[/] {escape(label(s.cell))}: {escape(s.note)}")
        console.print(f"  traceback {s.run.error}\n  log       {s.run.log}")
    if failed:
        console.print("the same command runs failed cells again; --retry runs only those")
    settled = (State.DONE, State.SKIPPED)
    return 0 if all(s.state in settled for s in standings) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoints", file=sys.stderr)
        sys.exit(130)
