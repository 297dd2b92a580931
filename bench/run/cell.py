"""A cell from its run directory to its result: train, evaluate, write down how it ended.

beginning.py and ending.py write what others read of a start; bench.train trains, bench.evaluate evaluates.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import torch

from bench.config.resources import Resources, parse_resources
from bench.config.science import parse
from bench.data.access import prepare_data
from bench.evaluate.context import context_for, provenance, run_all
from bench.evaluate.kept import write_pictures, write_predictions
from bench.process import interrupt
from bench.process.environment import RankEnvironment
from bench.run.beginning import describe, note_start
from bench.run.ending import Ending
from bench.run.progress import Progress, logging_to
from bench.store.files import Busy, write_json
from bench.store.rundir import RunDir, State
from bench.train import checkpoint
from bench.train.loop import Trainer
from bench.train.world import World

log = logging.getLogger("bench")


def run_cell(path: str | Path) -> str:
    """Run one cell to its end and return its state; on another rank than 0: how its part ended.

    Exceptions end in the run directory, not in the caller.
    """
    run, world = RunDir(Path(path)), World.from_environment()
    if run.result.exists():
        return str(State.DONE)
    with interrupt.listening():
        if not world.first:
            return str(_run_to_end(run, world))
        try:
            with run.hold():
                return str(_run_to_end(run, world))
        except Busy:
            print(f"{run.path} is being worked on by another process", file=sys.stderr)
            return str(State.RUNNING)


def _run_to_end(run: RunDir, world: World) -> State:
    """One start of the cell, in one of its processes."""
    told = RankEnvironment.from_env()
    ending = Ending(run, world, told)
    if world.first:
        run.error.unlink(missing_ok=True)
        run.outcome.unlink(missing_ok=True)
    with logging_to(run.log, world):
        try:
            _train_and_evaluate(run, world, told, ending)
        except interrupt.Interrupted as stop:
            return ending.stopped(stop)
        except Exception as error:  # a cell must never take others down
            ending.failed(error)
            interrupt.end_children()
            return State.FAILED
        except (KeyboardInterrupt, SystemExit):
            log.warning("interrupted; goes on from the last checkpoint when started again")
            raise
    return State.DONE


def _train_and_evaluate(run: RunDir, world: World, told: RankEnvironment, ending: Ending) -> None:
    config = parse(run.read_config())
    resources = parse_resources(run.read_resources())
    progress = Progress(run, world)
    torch.set_num_threads(resources.threads)
    cv2.setNumThreads(0)
    device = world.device(resources)
    with interrupt.held_back():
        prepare_data(config, Path(resources.data_dir))
    started = time.monotonic()
    with world.joined(run, device):
        ending.trainer = trainer = Trainer(run, config, resources, progress, world)
        env = describe(trainer, resources)
        trainer.resume()
        if world.first:
            note_start(run, told, trainer.step)
        trainer.fit()
        bad_samples = trainer.batches.bad_samples()
    trained = time.monotonic()
    log.info("trained %d steps", trainer.total_steps)
    if not world.first:
        # Evaluating is a few per cent of the work: not worth another way to be wrong. The other
        # devices are free (for the next cell, where a launcher can use them) from here on.
        return
    evaluated = evaluate(trainer, resources, progress)
    seconds = {"train": trained - started, "evaluate": time.monotonic() - trained}
    of_training = {"data_digest": env["data_digest"], "bad_samples": bad_samples}
    facts = {**of_training, "seconds": seconds, **_facts(trainer, env)}
    write_json(run.result, {"signature": run.signature, **evaluated, **facts})
    run.progress.unlink(missing_ok=True)
    shutil.rmtree(run.scratch, ignore_errors=True)
    keep_checkpoints(run, resources.keep)
    log.info("done in %.0f s", time.monotonic() - started)


def evaluate(trainer: Trainer, resources: Resources, progress: Progress) -> dict[str, Any]:
    """Rows and where they come from. Raises Interrupted when told to stop."""

    def report(update: dict[str, Any]) -> None:
        interrupt.check()
        progress(update)

    run, config = trainer.run, trainer.config
    context = context_for(
        config, resources, trainer.learner.classifier, report, scratch=run.scratch
    )
    rows = run_all(config, context)
    write_predictions(run.predictions, context)
    write_pictures(run.pictures, context)
    samples, media = trainer.batches.samples, config.data_spec().media
    return {
        "rows": rows,
        "failed": {split: failed for split, failed in context.failed.items() if failed},
        "data": config.data.name,
        "provenance": provenance(config.input, samples, media),
    }


def _facts(trainer: Trainer, env: dict[str, Any]) -> dict[str, Any]:
    """What computed the numbers."""
    return {
        "parameters": sum(p.numel() for p in trainer.learner.classifier.parameters()),
        "code": env["code"],
        "device": env["device"],
        "resources": {
            "world": trainer.world.size,
            "micro_batch": trainer.batches.micro_batch,
            "accumulation": trainer.batches.accumulation,
        },
    }


def keep_checkpoints(run: RunDir, keep: str) -> None:
    """Delete what `resources.keep` does not name of a DONE run's checkpoints."""
    if keep == "none":
        shutil.rmtree(run.last.parent, ignore_errors=True)
    elif keep == "weights" and (state := checkpoint.load(run.last)):
        checkpoint.save(run.last, {name: state[name] for name in ("learner", "step")})
        run.best.unlink(missing_ok=True)
