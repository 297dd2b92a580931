"""The command line of a sweep: plan it, launch what is not DONE, watch it, report how each cell
ended.

    python -m bench.sweep sweeps/ablation.yaml [--scale mini] [--set train.lr=1e-3] [--plan | --status]

A sweep is a desired state: running the same command again submits exactly the cells that are not
DONE and that nobody works on.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, Group
from rich.markup import escape

from bench import components
from bench.config.mistakes import Mistakes
from bench.grid.plan import Plan, plan
from bench.shown.streams import complain, log_to, say
from bench.store import places
from bench.sweep import cancel, overview, space
from bench.sweep.arguments import add_cells
from bench.sweep.launching import choose_cells, items_of, launch, show_refused
from bench.sweep.live import make_console
from bench.sweep.needs import missing_files
from bench.sweep.parents import read_plan
from bench.sweep.status import CellStatus, label

_EPILOG = """examples:
  python -m bench.sweep sweeps/ablation.yaml --plan              what would run, without touching the disk
  python -m bench.sweep sweeps/ablation.yaml                     run it on the built-in data, on this machine
  python -m bench.sweep sweeps/ablation.yaml --status            where it stands, from another shell
  python -m bench.sweep sweeps/ablation.yaml --status --watch    the same, again and again until nothing runs
  python -m bench.sweep sweeps/ablation.yaml --cancel            stop it; the plain command goes on from the checkpoints
  python -m bench.sweep sweeps/ablation.yaml --set seeds=[0,1,2] two more seeds; finished cells are kept
  python -m bench.sweep sweeps/ablation.yaml --set input.eval_crops=3
                                                                 measure it with three crops; trains nothing again
  python -m bench.sweep sweeps/ablation.yaml --set objectives.video.order.weight=0.5
                                                                 another experiment, beside the first

on a cluster (S stands for sweeps/ablation.yaml --scale paper --launcher slurm):
  python -m bench.sweep S --set resources.slurm.partition=gpu --set resources.slurm.account=me --plan
                                                                 the sbatch scripts and the GPU-hours; submits nothing
  python -m bench.sweep S --set resources.slurm.partition=gpu    submit and return; --status and --cancel as above
  python -m bench.sweep S --wait                                 submit and stay until all have ended
  python -m bench.sweep S --retry                                start failed cells again, where that can help
  python -m bench.sweep S --set resources.devices=4              4 GPUs for each cell, the same batch split over them

exit status: 0 all done (with slurm and without --wait: all submitted), 1 some cells failed (the others finished),
2 bad input (nothing written); --plan, --status and --cancel: 0"""


def main(arguments: list[str] | None = None) -> int:
    arguments = components.take(arguments)
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    console = make_console()
    log_to(sys.stdout)
    try:
        grid = plan(options.sweep, options.scale, options.set)
    except Mistakes as error:
        complain(f"{len(error.mistakes)} mistake(s), nothing was started:\n{error}")
        return 2
    if problem := places.no_folder(options.runs):
        complain(f"--runs: {problem}")
        return 2
    if options.cancel:
        return stop(grid, options, console)
    if options.watch is not None:
        return watch(grid, options, console)
    statuses = read_plan(options.runs, grid)
    missing = missing_files(grid.all_cells)
    if options.plan or options.status:
        console.print(overview.overview(grid, statuses, missing))
        if options.plan:
            show_cost(grid, statuses, options, console)
        return 0
    problem = _problem(statuses, missing, options)
    if problem:
        complain(problem)
        return 2
    return launch(grid, statuses, options, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=components.program("bench.sweep"),
        parents=[components.option()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run every cell of a sweep that is not DONE yet.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "sweep",
        type=Path,
        metavar="SWEEP",
        help="what is compared: a file of your own, or the name of "
        "one in sweeps/ of the suite or of --components DIR, e.g. ablation",
    )
    add_cells(parser)
    _add_launching(parser)
    _add_questions(parser)
    return parser


def _add_launching(parser: argparse.ArgumentParser) -> None:
    """Where cells are started, and which."""
    parser.add_argument(
        "--launcher", choices=("local", "inline", "slurm"), default="local",
        help="local: processes on this machine, as many at once as cores or GPUs allow; inline: this process, "
        "for debugging; slurm: job arrays",
    )  # fmt: skip
    parser.add_argument(
        "--wait", action="store_true", help="with slurm: stay until every cell has ended"
    )
    parser.add_argument(
        "--retry", action="store_true",
        help="start only cells that ended badly, from their last checkpoint, and only where it can help: lost nodes "
        "always, time limits after progress, out of memory with half the micro_batch, bugs after a change",
    )  # fmt: skip
    parser.add_argument(
        "--retrain", action="store_true",
        help="also train cells again that kept no weights (resources.keep: none) and lack an evaluation",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true",
        help="run all cells afresh, DONE and STALE ones too; old directories move to runs/replaced/",
    )  # fmt: skip


def _add_questions(parser: argparse.ArgumentParser) -> None:
    """What is done instead of starting cells."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--plan", action="store_true",
        help="list the cells, what they will cost and the sbatch scripts, and stop; touches nothing",
    )  # fmt: skip
    what.add_argument("--status", action="store_true", help="show the state of each cell and stop")
    what.add_argument(
        "--cancel", action="store_true",
        help="stop what is queued or running of this sweep; checkpoints are kept",
    )  # fmt: skip
    parser.add_argument(
        "--watch", type=float, nargs="?", const=5.0, metavar="SECONDS",
        help="with --status: show it every so often until nothing is queued, running or about to be "
        "(default: %(const)s)",
    )  # fmt: skip


def _check(parser: argparse.ArgumentParser, options: Any) -> None:
    if options.watch is not None and not options.status:
        parser.error("--watch belongs to --status")
    if options.watch is not None and options.watch <= 0:
        parser.error("--watch: must be more than 0 seconds")
    if options.wait and options.launcher != "slurm":
        parser.error("--wait belongs to --launcher slurm; the others always wait")
    if options.retry and options.force:
        parser.error("--retry and --force exclude each other")


def _problem(statuses: list[CellStatus], missing: dict[str, str], options: Any) -> str | None:
    """Why nothing can be launched, or None."""
    if options.launcher == "slurm":
        from bench.launch.slurm import client as slurm

        if problem := slurm.problem():
            return f"--launcher slurm: {problem}"
    if missing:
        return "\n".join(f"{name}: {text}" for name, text in missing.items())
    live = [s for s in statuses if s.busy]
    if options.force and live:
        names = "\n".join(f"  {label(s.cell)}: {s.run.path}" for s in live)
        return (
            f"--force would pull these from under their processes:\n{names}\n"
            "stop them first (--cancel), or wait for them"
        )
    return None


# -- showing and stopping ---


def watch(grid: Plan, options: Any, console: Console) -> int:
    missing = missing_files(grid.all_cells)

    def read() -> tuple[Group, list[CellStatus]]:
        statuses = read_plan(options.runs, grid)
        return overview.overview(grid, statuses, missing), statuses

    overview.watch(console, read, options.watch, lambda: cancel.has_client(options.runs, grid.name))
    return 0


def show_cost(grid: Plan, statuses: list[CellStatus], options: Any, console: Console) -> None:
    """What the cells that would be started will take, and with slurm the scripts, to be copied."""
    choice = choose_cells(statuses, options)
    cost = overview.expected_cost(statuses, choice.start)
    console.print(str(cost))
    for line in space.lines(choice.start, cost.gigabytes, options.runs):
        console.print(line)
    show_refused(choice, console)
    if options.launcher != "slurm" or not choice.start:
        return
    from bench.launch.slurm import client as slurm

    try:
        scripts = slurm.scripts(items_of(choice), runs=options.runs, sweep=grid.name)
    except ValueError as error:
        console.print(f"[red]cannot be submitted[/]: {escape(str(error))}")
        return
    sums = {
        "GPU-hours": sum(script.gpu_hours for script in scripts),
        "core-hours (without GPUs)": sum(script.core_hours for script in scripts),
    }
    limits = " and ".join(f"{hours:.1f} {unit}" for unit, hours in sums.items() if hours)
    console.print(f"{len(scripts)} job array(s); by their time limits at most {limits}")
    for script in scripts:  # not through rich, which would wrap what is to be copied
        say(f"\n# -- an array of {script.count} jobs --")
        say(script.text)


def stop(grid: Plan, options: Any, console: Console) -> int:
    """--cancel: the clients first, then what they have started."""
    clients = cancel.stop_clients(options.runs, grid.name)
    lines = [str(client) for client in clients]
    statuses = read_plan(options.runs, grid)
    try:
        lines += cancel.stop_cells(statuses, clients)
    except RuntimeError as error:
        complain(error)
        return 1
    console.print("\n".join(map(escape, lines)) or "nothing is queued or running")
    if lines:
        console.print("--status shows how cells end; the plain command goes on with them")
    return 0


def entry(arguments: list[str] | None = None) -> int:
    """The command as a process of its own."""
    signal.signal(signal.SIGTERM, _stop)  # --cancel from another shell: as Ctrl-C
    try:
        return main(arguments)
    except KeyboardInterrupt:
        complain("stopped; the same command goes on from the last checkpoints")
        return 130


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
