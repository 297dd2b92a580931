"""The command line of a search: try values of config keys, one cell per trial, and keep the best.

    python -m bench.tune sweeps/tune.yaml [--scale mini] [--trials 30] [--workers 4] [--status | --cancel]

search.py reads the sweep, study.py keeps the trials, bench/launch/local.py runs their cells.
A search is a desired state like a sweep: the same command again goes on until all trials have
ended. Workers are processes of this program that share nothing but files; any of them may be
killed, and more may be started, here or on other machines. Those that a client has started die with
it; their cells go on under their supervisors, and the next client waits for these.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import components
from bench.config.mistakes import Mistakes
from bench.grid.plan import Cell, plan
from bench.launch import item
from bench.process import interrupt
from bench.process.parent import die_with
from bench.shown.streams import complain, log_to
from bench.store import places
from bench.store.files import DamagedFile
from bench.store.rundir import RunDir, State
from bench.sweep import cancel
from bench.sweep.arguments import add_cells
from bench.sweep.live import make_console
from bench.sweep.status import read_statuses
from bench.tune import search as searches
from bench.tune.search import Search

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from bench.tune.study import Study
    from bench.tune.trial import Launch

WORKER = (sys.executable, "-m", "bench.tune")
RESTARTS = 100
"""Workers that were killed and are started again, before something must be wrong."""
IDLE_S = 0.5

SLURM_WORKERS = 8


_EPILOG = """examples:
  python -m bench.tune sweeps/tune.yaml                  on the built-in data, on this machine
  python -m bench.tune sweeps/tune.yaml --status         its trials so far, from another shell
  python -m bench.tune sweeps/tune.yaml --cancel         stop it; the plain command goes on from the checkpoints
  python -m bench.tune sweeps/tune.yaml --trials 60      go on to 60 trials
  python -m bench.tune sweeps/tune.yaml --worker         one more worker, here or on another machine
                                                         that sees the same --runs (in an sbatch script)
  python -m bench.sweep runs/tune/<study>/winner.yaml    the winner against the default, over seeds

exit status: 0 all trials ended, 1 some cannot be finished, 2 bad input, 75 stopped; --status and --cancel: 0"""


def main(arguments: list[str] | None = None) -> int:
    arguments = components.take(arguments)
    options = _parser().parse_args(arguments)
    if options.client:
        die_with(options.client)
    log_to(sys.stdout)
    console = make_console()
    console.soft_wrap = True  # a line per trial, however long
    try:
        search = searches.read(options.sweep, options.scale, options.set, trials=options.trials)
    except Mistakes as error:
        complain(f"{len(error.mistakes)} mistake(s), nothing was started:\n{error}")
        return 2
    if options.study and options.study != search.name:
        complain(f"{options.sweep} was changed: study {options.study} is not its search")
        return 2
    if (
        problem := places.no_folder(options.runs)
        if options.status
        else places.unwritable(options.runs)
    ):
        complain(f"--runs: {problem}")
        return 2
    from bench.tune.study import Study  # imports Optuna: not needed to list mistakes

    if (options.status or options.cancel) and not (options.runs / "tune" / search.name).is_dir():
        console.print(f"{search.name}: not started; {search.trials} trials")
        return 0
    # Before the study is opened: what works on it may have to end first.
    clients = cancel.stop_clients(options.runs, search.name) if options.cancel else []
    try:
        study = Study(search, options.runs, storage=options.storage, lease_s=options.lease)
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    try:
        return _do(study, clients, arguments, options, console)
    except DamagedFile as error:  # meanwhile
        complain(f"{error}; the same command mends it")
        return 1


def _do(
    study: Study,
    clients: list[cancel.Client],
    arguments: list[str],
    options: Any,
    console: Console,
) -> int:
    """What was asked for, with the study open."""
    search = study.search
    if options.status:
        _show(console, study)
        return 0
    if options.cancel:
        return _cancel(study, clients, options.runs, console)
    if options.worker:
        return _work(study, options, console)
    if text := _missing(search):
        complain(text)
        return 2
    with cancel.known_client(options.runs, search.name, options.launcher):
        return _lead(study, arguments, options, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=components.program("bench.tune"),
        parents=[components.option()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Search the values of config keys that a sweep names under `search:`.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "sweep",
        type=Path,
        metavar="SWEEP",
        help="with a `search:`; a file of your own, or the name "
        "of one in sweeps/ of the suite or of --components DIR, e.g. tune",
    )
    add_cells(parser)
    add(
        "--launcher", choices=("local", "slurm"), default="local",
        help="local: cells run on this machine; slurm: each is a SLURM job (resources.slurm.*), and "
        "the workers stay here and wait for theirs",
    )  # fmt: skip
    add("--trials", type=int, help="how many trials; takes the place of search.trials")
    add("--workers", type=int, help="trials at once (default: as many as cores or GPUs allow)")
    add(
        "--storage", metavar="URL",
        help="a database for the study, as SQLAlchemy names it (sqlite:///tune.db, "
        "postgresql://..., mysql://...); default: a file in runs/tune/<study>/",
    )  # fmt: skip
    add(
        "--lease", type=float, default=120.0, metavar="SECONDS",
        help="a worker without a sign of life for so long is dead, and its trial is given to another "
        "(default: %(default)g)",
    )  # fmt: skip
    add("--retry", action="store_true", help="give out again the trials that FAILED")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="show the trials and stop")
    what.add_argument(
        "--cancel", action="store_true",
        help="stop the clients, workers and cells of this search; checkpoints are kept",
    )  # fmt: skip
    what.add_argument(
        "--worker", action="store_true", help="be one worker, until all trials have ended"
    )
    add("--study", help=argparse.SUPPRESS)  # what the worker was started for
    add("--client", type=int, help=argparse.SUPPRESS)  # pid of what started it, and ends it
    add(
        "--command", type=shlex.split, default=(), help=argparse.SUPPRESS
    )  # see bench.launch.supervisor
    return parser


def _missing(search: Search) -> str:
    """What this machine lacks and the suite cannot make."""
    from bench.sweep.needs import missing_files

    missing = missing_files([*search.base.parents(), search.base])
    return "\n".join(f"{name}: {text}" for name, text in missing.items())


# -- the client ---


def _lead(study: Study, arguments: list[str], options: Any, console: Console) -> int:
    """Start the workers, replace those that are killed, and wait until all trials have ended."""
    search = study.search
    if options.retry:
        console.print(f"{study.retry_failed()} trials that FAILED are given out again")
    count = options.workers or _workers(search, options.launcher)
    command = [*WORKER, *arguments, "--worker", "--study", search.name]
    command += ["--client", str(os.getpid())]
    _announce(study, console)
    with interrupt.listening():
        workers = [subprocess.Popen(command) for _ in range(0 if study.over else count)]
        restarts = 0
        while any(worker.poll() is None for worker in workers):
            if interrupt.requested():
                return _stop(workers, console)
            time.sleep(0.1)
            killed = [w for w in workers if w.poll() is not None and w.returncode < 0]
            for worker in killed:
                workers.remove(worker)
                if restarts < RESTARTS and not study.over:
                    restarts += 1
                    workers.append(subprocess.Popen(command))
    study.refresh()
    if study.best() is not None:
        _give_to_the_report(study, options)
    return _conclude(study, console)


def _give_to_the_report(study: Study, options: Any) -> None:
    """The cells of the winner's sweep, mostly not run yet: the report shows the search beside them."""
    from bench.sweep.manifest import write_manifest

    settings = [text for text in study.search.settings if not text.startswith("seeds=")]
    grid = plan(study.folder / "winner.yaml", options.scale, settings)
    write_manifest(grid, options.runs, read_statuses(options.runs, grid.cells))


def _workers(search: Search, where: str) -> int:
    if where == "slurm":
        return min(SLURM_WORKERS, search.base.resources.slurm.array_parallelism)
    from bench.launch import local as launcher

    return max(1, launcher.slots(search.base.resources))


def _stop(workers: list[subprocess.Popen[bytes]], console: Console) -> int:
    console.print("stopping: cells write their checkpoints; the same command goes on from there")
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.wait()
    return interrupt.EXIT_PREEMPTED


def _cancel(study: Study, clients: list[cancel.Client], runs: Path, console: Console) -> int:
    """--cancel, once the clients were told: what they, or killed ones before them, left running."""
    study.reap()  # while it is seen that no cell was lost
    lines = [str(client) for client in clients]
    try:
        lines += cancel.stop_cells(read_statuses(runs, study.open_cells()), clients)
    except RuntimeError as error:
        complain(f"{error}")
        return 1
    console.print("\n".join(map(escape, lines)) or "nothing is queued or running")
    if lines:
        console.print("--status shows how trials end; the plain command goes on with them")
    return 0


def _announce(study: Study, console: Console) -> None:
    search = study.search
    title = f"{search.recipe.title} - scale {search.recipe.scale}"
    how = f"{search.options.sampler}, pruner {search.pruner.name}"
    console.print(f"[bold]{escape(title)}[/]: study {search.name}, {how}")
    console.print(f"{search.options.direction} {escape(search.metric_name)} on {search.split}")
    console.print(_counts(study))


def _conclude(study: Study, console: Console) -> int:
    console.print(_counts(study))
    best = study.best()
    if best is not None:
        console.print(f"best: {escape(_line(study.search, best))}")
        console.print("compare it with the default over several seeds; the comment says how:")
        console.print(f"  {study.folder / 'winner.yaml'}")
        console.print("python -m reports.build shows the search's history and importances")
    if not study.over:
        console.print("[bold red]some trials have not ended[/]: the same command goes on")
        return 1
    failed = [t for t in study.failed() if t.user_attrs.get("error")]
    for trial in failed:
        console.print(f"[bold red]FAIL[/] trial {trial.number}: {escape(_note(trial))}")
    if failed:
        console.print("--retry runs them again")
    return 1 if failed or best is None else 0


# -- a worker ---


def _launcher(options: Any) -> Launch:
    from bench.launch import local as launcher

    def ignore(_run: RunDir, _state: State) -> None:
        pass

    def local(cell: Cell, run: RunDir, tick: Callable[[], None]) -> None:
        items = [item.Item(run, cell.resources, run.signature)]
        launcher.run_local(
            items, runs=options.runs, on_change=ignore, tick=tick, command=options.command
        )

    def slurm(cell: Cell, run: RunDir, tick: Callable[[], None]) -> None:
        from bench.launch.slurm.client import run_slurm

        items = [item.Item(run, cell.resources, run.signature)]
        run_slurm(items, runs=options.runs, sweep="tune", wait=True, on_change=ignore, tick=tick)

    return slurm if options.launcher == "slurm" else local


def _work(study: Study, options: Any, console: Console) -> int:
    """Be a worker: by itself, where no client started it and --cancel must find it."""
    launch = _launcher(options)
    if options.client:
        return work(study, options.runs, console, launch=launch)
    with cancel.known_client(options.runs, study.search.name, options.launcher):
        return work(study, options.runs, console, launch=launch)


def work(study: Study, runs: Path, console: Console, *, launch: Launch) -> int:
    """Run trials until all have ended. When there is nothing to give out, a worker waits: another
    may be killed, and its trial is then this one's. Returns the exit status.
    """
    from bench.tune.study import STOPPED, LeaseLost
    from bench.tune.trial import run_trial

    with interrupt.listening():
        while not interrupt.requested():
            taken = study.take()
            if taken is None:
                if study.over:
                    return 0
                time.sleep(IDLE_S)
                continue
            trial, cell = taken
            try:
                with study.leased(trial.number):
                    outcome = run_trial(study.search, trial, cell, runs, launch)
                lost = STOPPED if outcome.lost and interrupt.requested() else outcome.lost
                study.finish(
                    trial.number, outcome.state, value=outcome.value, error=outcome.error, lost=lost
                )
            except LeaseLost as error:
                console.print(f"{error}; what came out of it here is dropped", markup=False)
                continue
            _report(study, trial.number, console)
    return interrupt.EXIT_PREEMPTED


# -- showing ---


def _report(study: Study, number: int, console: Console) -> None:
    """One line when a trial has ended."""
    trials = study.trials()
    best = study.best()
    so_far = "" if best is None else f"; best {best.value:.4g} (trial {best.number})"
    console.print(_line(study.search, trials[number]) + so_far, markup=False)


def _line(search: Search, trial: FrozenTrial) -> str:
    params = ", ".join(f"{_name(key)}={_short(trial.params.get(key))}" for key in search.space)
    value = "" if trial.value is None else f" {search.metric_name} {trial.value:.4g}"
    note = f": {_note(trial)}" if _note(trial) else ""
    return f"trial {trial.number} {trial.state.name}{note}{value}; {params}"


def _name(key: str) -> str:
    return key.removeprefix("objectives.")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _note(trial: FrozenTrial) -> str:
    notes = trial.user_attrs
    parts = [str(notes.get("error", "")).splitlines()[0]] if notes.get("error") else []
    if "retry_of" in notes:
        parts.append(f"again after trial {notes['retry_of']}")
    return "; ".join(parts)


def _counts(study: Study) -> str:
    states = [trial.state.name for trial in study.trials()]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(sorted(states))) or "none"
    return f"{study.search.trials} trials planned; so far {counts}"


def _show(console: Console, study: Study) -> None:
    from bench.tune.winner import seconds

    search, best = study.search, study.best()
    table = Table(title=escape(f"{search.recipe.title} - {search.name}"), title_justify="left")
    for column in ("trial", *map(_name, search.space), search.metric_name, "state", "s", "run"):
        whole = column in ("trial", "state", "s")
        table.add_column(
            escape(column), no_wrap=whole, overflow="fold", min_width=0 if whole else 7
        )
    table.add_column("note", overflow="fold")
    for trial in study.trials():
        winner = best is not None and trial.number == best.number
        values = [_short(trial.params.get(key, "-")) for key in search.space]
        took = seconds(trial)
        value = "" if trial.value is None else f"{trial.value:.4g}"
        signature = str(trial.user_attrs.get("signature", ""))
        duration = "" if took is None else f"{took:.0f}"
        cells = (str(trial.number), *values, value, trial.state.name, duration, signature)
        style = "bold green" if winner else ""
        table.add_row(*(escape(c) for c in (*cells, _note(trial))), style=style)
    console.print(table)
    console.print(_counts(study))
    if best is not None:
        console.print(f"best: {escape(_line(search, best))}")


def entry(arguments: list[str] | None = None) -> int:
    """The command as a process of its own."""
    try:
        return main(arguments)
    except KeyboardInterrupt:  # the second Ctrl-C: trials are given out again when leases run out
        return 130
