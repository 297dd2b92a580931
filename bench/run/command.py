"""One cell, as the launcher runs it: train, evaluate, write the result.

    python -m bench.run runs/<signature>

Starting it again goes on from the last checkpoint; a DONE run is left as it is. The result is
written last, so its existence means DONE. Told to stop (SIGUSR2, SIGTERM, Ctrl-C) it writes the
checkpoint and leaves. Of a cell on several devices each process runs this, as bench.launch.supervisor or torchrun
starts it; rank 0 writes the files.

Exit status: 0 done, 1 failed (see error.txt), 2 the directory is not a run, or not
what its name says, 75 stopped and can go on,
76 stopped by a search.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys
from pathlib import Path

from bench import components
from bench.config.mistakes import Mistakes
from bench.process import interrupt
from bench.run.cell import run_cell
from bench.run.directory import read_config
from bench.run.progress import stack_kept
from bench.shown.streams import PrintableFormatter, complain
from bench.store.files import DamagedFile
from bench.store.rundir import RunDir, State
from bench.train.world import World

log = logging.getLogger("bench")
_EXIT = {
    State.DONE: 0,
    State.PREEMPTED: interrupt.EXIT_PREEMPTED,
    State.PRUNED: interrupt.EXIT_PRUNED,
}


def main(arguments: list[str] | None = None) -> int:
    arguments = components.take(arguments)
    parser = argparse.ArgumentParser(
        prog=components.program("bench.run"),
        parents=[components.option()],
        description="Run one cell of a sweep. Goes on from its last checkpoint; does nothing when it is DONE.",
    )
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN_DIR", help="runs/<signature>, made by bench.sweep"
    )
    options = parser.parse_args(arguments)
    run, world = RunDir(options.run_dir), World.from_environment()
    if not run.config.exists():
        complain(
            f"{run.path}: not a run directory (no config.yaml); `python -m bench.sweep` makes them"
        )
        return 2
    try:
        read_config(run)
    except (DamagedFile, Mistakes) as error:
        complain(error)
        return 2
    faulthandler.enable()
    console = logging.StreamHandler()
    console.setFormatter(PrintableFormatter("%(message)s"))
    log.addHandler(console)
    try:
        with stack_kept(run.rank_stack(world.rank)):
            state = run_cell(run.path)
    except KeyboardInterrupt:
        return 130
    if state == State.FAILED and world.size > 1:
        # Everything is written. The usual way out takes leave of the other ranks, which wait for this
        # one: seconds.
        sys.stderr.flush()
        os._exit(1)
    if state == State.FAILED and run.error.exists():
        complain(f"{run.signature} failed: {run.error_line()}\nTraceback: {run.error}")
    return _EXIT.get(State(state), 1)
