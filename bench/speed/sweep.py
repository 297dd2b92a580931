"""`bench.speed sweep`: what the machinery around cells costs, beside the start of Python itself.

Cells that compute nothing go through the local launcher as real ones do (run directories, claims,
supervisors, processes that import bench.run and write a result); the ceiling is as many bare
processes that import bench.run.command, as many at once. And the two commands that a user waits for at a
large grid. docs/performance.md defines every column.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.config import signature
from bench.config.mistakes import Mistake, Mistakes
from bench.config.resources import Resources
from bench.grid.plan import plan
from bench.launch import local as launcher
from bench.launch.item import Item
from bench.run.directory import create
from bench.speed._measuring import Numbers, Show, SpeedColumn, SpeedRow, check_out, spread
from bench.store import snapshot
from bench.store.files import write_json
from bench.store.result_files import Kind, write_result
from bench.store.rundir import RunDir
from bench.train import environment

HELP = "the machinery around cells: seconds per cell that computes nothing, --plan and --status"
DESCRIPTION = (
    "Measure what launching costs per cell, and how long --plan and --status of a grid take."
)
ROUNDS = 5
SEEDS = 100  # of the large grid
BARE = "import bench.run.command"
NO_OP = """
import sys
from pathlib import Path
import bench.run.command
from bench.store.rundir import RunDir
from bench.store.result_files import Kind, write_result
run = RunDir(Path(sys.argv[1]))
with run.hold():
    write_result(run.result, Kind.TRAINING, {"data_digest": ""})
"""
SCALE = {
    "base": {
        "data": {"name": "mini_ssv2"},
        "model": {"patch": 8, "dim": 16, "depth": 2, "heads": 2},
    }
}


@dataclass(frozen=True)
class SweepPlan:
    """A valid command."""

    cells: int
    grid: int
    out: Path | None


# -- launching ---


def measure_launcher(cells: int, folder: Path, show: Show) -> SpeedRow:
    """Rounds of cells through the launcher, and of bare processes, in turns. Seconds are those for
    which a cell keeps its slot.
    """
    resources = Resources(device="cpu")
    at_once = launcher.slots(resources)
    per_round = [len(range(k, cells, ROUNDS)) for k in range(min(ROUNDS, cells))]
    command = (sys.executable, "-c", NO_OP)
    env = snapshot.environment(snapshot.take(folder))
    bare([sys.executable, "-c", BARE], env, at_once, at_once)  # writes the bytecode
    launched, alone = [], []
    for number, count in enumerate(per_round):
        show.doing(f"round {number + 1} of {len(per_round)}", minor=True)
        with _timed(count, at_once) as clock:
            bare([sys.executable, "-c", BARE], env, count, at_once)
        alone.append(clock)
        with _timed(count, at_once) as clock:
            launch(folder, [f"{number}-{k}" for k in range(count)], resources, command)
        launched.append(clock)
    pairs = list(zip(launched, alone, strict=True))
    return {
        "what": "local launcher",
        "cells": cells,
        "at_once": at_once,
        "cell_s": spread([cell.slot_s for cell in launched]),
        "bare_s": spread([process.slot_s for process in alone]),
        "overhead_s": spread([a.slot_s - b.slot_s for a, b in pairs]),
        "overhead_cpu_s": spread([a.cpu_s - b.cpu_s for a, b in pairs]),
    }


@dataclass
class CellClock:
    """Seconds per cell."""

    slot_s: float = 0.0  # for which it kept its slot
    cpu_s: float = 0.0  # of all processes together, ours too


@contextmanager
def _timed(count: int, at_once: int) -> Iterator[CellClock]:
    clock = CellClock()
    begun, cpu = time.perf_counter(), _cpu_s()
    yield clock
    clock.slot_s = (time.perf_counter() - begun) * at_once / count
    clock.cpu_s = (_cpu_s() - cpu) / count


def _cpu_s() -> float:
    """CPU time of this process and of all that it has waited for, and so on down."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def launch(runs: Path, names: Sequence[str], resources: Resources, command: Sequence[str]) -> None:
    """What bench.sweep does with cells, from the run directory to the state in the end."""
    items = []
    for name in names:
        run = RunDir(runs / name)
        run.create({"seed": 0}, resources.model_dump(mode="json"), name)
        items.append(Item(run, resources, name))
    launcher.run_local(
        items, runs=runs, on_change=lambda *_: None, tick=lambda: None, command=command
    )
    missing = [item for item in items if not item.run.result.exists()]
    if missing:
        raise RuntimeError(f"{len(missing)} cells failed: {missing[0].run.error_line()}")


def bare(command: Sequence[str], env: Mapping[str, str], count: int, at_once: int) -> None:
    """Run so many processes, so many at once."""
    waiting, running = count, set[subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < at_once:
            waiting -= 1
            running.add(subprocess.Popen(command, env=env))
        time.sleep(0.005)
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            if process.returncode:
                raise RuntimeError(f"{command} ended with status {process.returncode}")


# -- a large grid ---


def measure_grid(cells: int, folder: Path, show: Show) -> list[SpeedRow]:
    """How long the user waits for --plan and for --status."""
    sweep = folder / "sweep.yaml"
    (folder / "scales").mkdir(parents=True)
    (folder / "scales/tiny.yaml").write_text(json.dumps(SCALE))
    rates = {f"lr {k}": {"train.lr": 1e-6 * (k + 1)} for k in range(-(-cells // SEEDS))}
    document = {
        "base": {"model.name": "timesformer", "objectives": {"classify": {}}},
        "axes": {"lr": rates},
        "seeds": list(range(min(SEEDS, cells))),
    }
    sweep.write_text(json.dumps(document))
    show.doing(f"making {cells} run directories")
    made = make_runs(sweep, folder / "runs")
    command = [sys.executable, "-m", "bench.sweep", str(sweep), "--scale", "tiny"]
    rows = []
    for what in ("--plan", "--status"):
        times = []
        for number in range(3):
            show.doing(f"{what} of {made} cells, {number + 1} of 3", minor=True)
            begun = time.perf_counter()
            subprocess.run(
                [*command, what, "--runs", str(folder / "runs")],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            times.append(time.perf_counter() - begun)
        rows.append({"what": f"bench.sweep {what}", "cells": made, "command_s": spread(times)})
    return rows


def make_runs(sweep: Path, runs: Path) -> int:
    """A directory for each cell of the grid: half are DONE, half are to go on; returns how many."""
    resources = Resources(device="cpu")
    cells = plan(sweep, "tiny").cells
    template: tuple[str, str] | None = None
    for number, cell in enumerate(cells):
        run, digest = RunDir(runs / cell.signature), signature.digest(cell.config.dump_training())
        if template is None:
            create(run, cell.config, resources)
            template = digest, run.config.read_text()
        else:  # only the digest is looked at, and writing YAML is slow
            run.path.mkdir(parents=True)
            run.config.write_text(template[1].replace(template[0], digest))
        if number % 2:
            write_result(run.result, Kind.TRAINING, {"data_digest": ""})
        else:
            run.env.write_text("{}")
    return len(cells)


# -- showing ---


def _seconds(key: str) -> Any:
    def text(row: SpeedRow) -> str:
        if key not in row:
            return "-"
        s = row[key]
        return f"{s['median']:.3f} ({s['min']:.3f} to {s['max']:.3f})"

    return text


COLUMNS = (
    SpeedColumn("what", 20, lambda row: row["what"]),
    SpeedColumn("cells", 6, lambda row: str(row["cells"])),
    SpeedColumn("at once", 7, lambda row: str(row.get("at_once", "-"))),
    SpeedColumn("s/cell", 22, _seconds("cell_s")),
    SpeedColumn("s/bare process", 22, _seconds("bare_s")),
    SpeedColumn("overhead s/cell", 22, _seconds("overhead_s")),
    SpeedColumn("of it CPU", 22, _seconds("overhead_cpu_s")),
    SpeedColumn("s/command", 22, _seconds("command_s")),
)


# -- the command line ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--cells", default="100", metavar="N",
        help="cells that compute nothing, through the launcher (default: %(default)s)")  # fmt: skip
    add("--grid", default="10000", metavar="N",
        help="cells of the grid for --plan and --status, 0: leave it out (default: %(default)s)")  # fmt: skip
    add("--out", type=Path, metavar="FILE.json", help="write all rows and what they were made with")


EPILOG = f"""what the columns say (docs/performance.md has the full definitions):
  at once          cells that run side by side: one per core
  s/cell           how long a cell keeps its slot, from one start to the next: median (minimum to maximum)
                   of {ROUNDS} rounds
  s/bare process   the same for processes that do nothing but import bench.run, as many at once
  overhead s/cell  the difference, round by round
  of it CPU        the same in CPU seconds of all processes: steady also where others use the machine
  s/command        the whole command, as a user waits for it

examples:
  python -m bench.speed sweep
  python -m bench.speed sweep --cells 20 --grid 0

exit status: 0 measured, 2 bad input (nothing measured)"""


def read(options: argparse.Namespace) -> SweepPlan:
    """Validate the command line. Raises Mistakes with all that is wrong with it."""
    mistakes: list[Mistake] = []
    number = Numbers(mistakes)
    cells = number.whole("--cells", options.cells)
    grid = 0 if options.grid == "0" else number.whole("--grid", options.grid)
    check_out(options.out, mistakes)
    if mistakes:
        raise Mistakes(mistakes)
    return SweepPlan(cells, grid, options.out)


def run(options: argparse.Namespace) -> int:
    """Exit status; raises Mistakes, before anything is measured, with all that is wrong."""
    asked = read(options)
    rows: list[SpeedRow] = []
    with Show(COLUMNS) as show, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        show.head()
        for measure in (
            lambda: [measure_launcher(asked.cells, folder / "cells", show)],
            lambda: measure_grid(asked.grid, folder / "grid", show) if asked.grid else [],
        ):
            for row in measure():
                rows.append({"status": "ok", **row})
                show.row(rows[-1])
            if asked.out:
                about = environment.describe(torch.device("cpu"), threads=1)
                write_json(asked.out, {"environment": about, "rows": rows})
    return 0
