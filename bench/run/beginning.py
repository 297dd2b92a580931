"""What a start of a cell writes down before it trains: env.json, and its line in starts.jsonl."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

from bench.config.resources import Resources
from bench.process.environment import RankEnvironment
from bench.run.ending import place
from bench.store.failure import NoProgress
from bench.store.files import write_json
from bench.store.rundir import RunDir
from bench.train import environment, labels
from bench.train.loop import Trainer

log = logging.getLogger("bench")

NO_PROGRESS_STARTS = 3
"""So many starts of one job from the same step are enough; the next one gives up."""


def describe(trainer: Trainer, resources: Resources) -> dict[str, Any]:
    """What the run is computed with; rank 0 writes it to env.json."""
    run, world = trainer.run, trainer.world
    env = environment.describe(
        trainer.device, threads=resources.threads, compiled=resources.compile, world=world.size
    )
    me = {"rank": world.rank, "pid": os.getpid(), "host": os.uname().nodename}
    env["ranks"] = world.gathered(me)
    env["data_digest"] = trainer.batches.samples.digest
    env["labels"] = labels.places(trainer.config, trainer.device)
    env["weights"] = trainer.started_from
    if world.first:
        write_json(run.env, env)
        name, commit = env["device"]["name"], env["code"]["commit"][:12]
        count = f"{world.size} x " if world.size > 1 else ""
        log.info("start %s on %s%s, commit %s", run.signature, count, name, commit)
        for objective, where in env["labels"].items():
            log.info("labels of %s: computed on the %s", objective, where)
    return env


def note_start(run: RunDir, told: RankEnvironment, step: int) -> None:
    """Add a line to starts.jsonl. Raises NoProgress."""
    # Long evaluations go on from what they keep in `scratch`.
    kept = [path.stat().st_mtime for path in run.scratch.rglob("*") if path.is_file()]
    here = {
        "claimed": told.claim,
        "step": step,
        "scratch": max(kept, default=None),
        "measured": len(run.measured()),
    }
    before = [s for s in run.read_starts() if s.get("claimed") == told.claim]
    alike = [all(s.get(k) == v for k, v in here.items()) for s in before[-NO_PROGRESS_STARTS:]]
    if told.slurm and len(alike) == NO_PROGRESS_STARTS and all(alike):
        raise NoProgress(
            f"{NO_PROGRESS_STARTS} starts went on from step {step} and got no further; a longer "
            "resources.slurm.time, a larger resources.slurm.signal_delay_s (a step and a "
            "checkpoint must fit into it) or a smaller resources.checkpoint_minutes would help"
        )
    facts = {"time": time.time(), "pid": os.getpid(), **place(told)}
    with run.starts.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({**facts, **here}) + "\n")
