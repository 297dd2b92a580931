"""How a start of a cell ended, when not in a result: it was told to stop, or it failed."""

from __future__ import annotations

import logging
import os
import time
import traceback
from pathlib import Path
from typing import Any

import bench
from bench.process import interrupt
from bench.process.environment import RankEnvironment
from bench.store import failure
from bench.store.failure import NoProgress
from bench.store.files import write_text
from bench.store.rundir import RunDir, State
from bench.train import environment
from bench.train.loop import Trainer
from bench.train.world import World

log = logging.getLogger("bench")


class Ending:
    """Of this process's part of the cell. `trainer`: as soon as there is one."""

    def __init__(self, run: RunDir, world: World, told: RankEnvironment) -> None:
        self._run, self._world, self._told = run, world, told
        self.trainer: Trainer | None = None

    def stopped(self, stop: interrupt.Interrupted) -> State:
        """Rank 0 writes it down. Returns the state that the cell is in."""
        state = State.PRUNED if stop.pruned else State.PREEMPTED
        if self._world.first:
            by_slurm = self._told.slurm and stop.reason in {s.name for s in interrupt.SIGNALS}
            step = self.trainer.step if self.trainer else 0
            self._run.write_outcome(
                state,
                reason=stop.reason,
                goes_on=by_slurm and not stop.pruned,
                step=step,
                **place(self._told),
            )
            log.info("stopped at step %d (%s); goes on from there", step, stop.reason)
        return state

    def failed(self, error: Exception) -> None:
        """Write it down: for the supervisor, where there is one that chooses among the ranks."""
        now, kind = time.time(), failure.of_exception(error)
        text = f"{error}\n" if isinstance(error, NoProgress) else traceback.format_exc()
        log.error("failed: %s", error)
        if self._world.size > 1 and self._world.start is not None:
            head = f"time: {now}\nkind: {kind}\n"
            write_text(self._run.rank_error(self._world.rank), head + text)
            return
        if self._world.size > 1 and self._run.error.exists():
            return  # another rank was first
        self._run.write_outcome(
            State.FAILED,
            kind,
            reason=text.strip().splitlines()[-1],
            traceback=text,
            step=self.trainer.step if self.trainer else None,
            micro_batch=self.trainer.batches.micro_batch if self.trainer else None,
            rank=self._world.rank,
            code=_code(),
            **place(self._told),
        )


def place(told: RankEnvironment) -> dict[str, Any]:
    """Where this is, as the run's files say it."""
    return {"host": os.uname().nodename, "job": told.job or None}


def _code() -> str:
    """Which code this is: the name of its snapshot, as claims have it, or of a checkout its state."""
    root = Path(bench.__path__[0]).parent
    version = environment.code_version()
    return root.name if "tree" in version else "+".join(map(str, version.values()))
