"""A cell from its run directory to its results: train, measure, write down how it ended.

beginning.py and ending.py write what others read of a start; bench.train trains, measuring.py makes the
evaluations. A cell that is trained already is only measured.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import nn

from bench.config.resources import Resources, parse_resources
from bench.config.science import RunConfig
from bench.data.access import prepare_data
from bench.models.weights import digest_of
from bench.process import interrupt
from bench.process.environment import RankEnvironment
from bench.run.beginning import describe, note_start
from bench.run.directory import read_config
from bench.run.ending import Ending
from bench.run.measuring import measure
from bench.run.progress import Progress, logging_to
from bench.shown.streams import complain
from bench.store.files import Busy, DamagedFile, set_aside
from bench.store.learned import nothing_learned
from bench.store.result_files import Kind, write_result
from bench.store.rundir import RunDir, State
from bench.train import checkpoint
from bench.train.learner import build
from bench.train.loop import Trainer
from bench.train.world import World

log = logging.getLogger("bench")


def run_cell(path: str | Path) -> str:
    """Run one cell to its end and return its state; on another rank than 0: how its part ended.

    Exceptions end in the run directory, not in the caller; where that cannot be written, on stderr.
    """
    run, world = RunDir(Path(path)), World.from_environment()
    try:
        if run.is_done():
            return str(State.DONE)
        with interrupt.listening():
            if not world.first:
                return str(_run_to_end(run, world))
            run.clear_the_way()
            with run.hold():
                return str(_run_to_end(run, world))
    except Busy:
        complain(f"{run.path} is being worked on by another process")
        return str(State.RUNNING)
    except OSError as error:
        complain(f"{run.path}: how it stands cannot be written down: {error}")
        return str(State.FAILED)


def _run_to_end(run: RunDir, world: World) -> State:
    """One start of the cell, in one of its processes."""
    told = RankEnvironment.from_env()
    ending = Ending(run, world, told)
    if world.first:
        run.error.unlink(missing_ok=True)
        run.outcome.unlink(missing_ok=True)
    with logging_to(run.log, world):
        if world.first:
            run.mend()
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
    config = read_config(run)
    resources = parse_resources(run.read_resources())
    progress = Progress(run, world)
    torch.set_num_threads(resources.threads)
    cv2.setNumThreads(0)
    with interrupt.held_back():
        prepare_data(config, Path(resources.data_dir))
    started = time.monotonic()
    if run.from_results().trained:
        model = _trained(run, config, told) if world.first else None
    else:
        model = _train(run, config, resources, world, told, ending, progress)
    if model is None:
        # Evaluating is a few per cent of the work: not worth another way to be wrong. The other
        # devices are free (for the next cell, where a launcher can use them) from here on.
        return
    measure(run, config, resources, model, progress)
    run.progress.unlink(missing_ok=True)
    shutil.rmtree(run.scratch, ignore_errors=True)
    keep_checkpoints(run, resources.keep)
    log.info("done in %.0f s", time.monotonic() - started)


def _train(
    run: RunDir,
    config: RunConfig,
    resources: Resources,
    world: World,
    told: RankEnvironment,
    ending: Ending,
    progress: Progress,
) -> nn.Module | None:
    """To the end, from the last checkpoint. The trained model, on rank 0."""
    started = time.monotonic()
    with world.joined(run, world.device(resources)):
        ending.trainer = trainer = Trainer(run, config, resources, progress, world)
        trainer.resume()
        env = describe(trainer, resources)
        if world.first:
            note_start(run, told, trainer.step)
        trainer.fit()
        bad_samples = trainer.batches.bad_samples()
    log.info("trained %d steps", trainer.total_steps)
    if not world.first:
        return None
    facts = {
        "signature": run.signature,
        "data": config.data.name,
        "data_digest": env["data_digest"],
        "bad_samples": bad_samples,
        "seconds": {"train": time.monotonic() - started},
        **_facts(trainer, env),
        "weights": digest_of(trainer.learner.classifier),
        "objectives": trainer.learned.facts(),
        "metrics": trainer.metrics.flush(),
    }
    write_result(run.result, Kind.TRAINING, facts)
    for line in nothing_learned(facts):
        log.warning("%s", line)
    return trainer.learner.classifier


def _trained(run: RunDir, config: RunConfig, told: RankEnvironment) -> nn.Module:
    """The model of a run that was trained before, from its last checkpoint. ValueError without one
    that is whole.
    """
    try:
        state = checkpoint.read(run.last, checkpoint.of_run(run, config, "learner", "step"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{run.last} is gone (resources.keep): what is to be measured needs the weights; "
            "`bench.sweep --retrain` trains the run again"
        ) from error
    except checkpoint.DamagedCheckpoint as error:
        aside = set_aside(run.last).name
        raise ValueError(
            f"{run.last} cannot be read: {error.problem}. It is kept as {aside}: put a copy of it back, or "
            "train the run again (`bench.sweep --retrain`)"
        ) from error
    note_start(run, told, state["step"])
    learner = build(config, weights_dir=None)
    learner.load_state_dict(state["learner"])
    known = (run.read_result() or {}).get("weights")
    if known is not None and known != digest_of(learner.classifier):
        raise DamagedFile(
            run.last,
            "does not hold the weights that were trained here; `bench.sweep --force` trains again",
        )
    log.info("trained before; measuring what is missing")
    return learner.classifier


def _facts(trainer: Trainer, env: dict[str, Any]) -> dict[str, Any]:
    """What computed the numbers."""
    started = {"started_from": trainer.started_from} if trainer.started_from else {}
    return {
        **started,
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
    """Delete what `resources.keep` does not name of a DONE run's checkpoints. The one before the last
    is of no more use.
    """
    if keep == "none":
        shutil.rmtree(run.last.parent, ignore_errors=True)
        return
    checkpoint.previous(run.last).unlink(missing_ok=True)
    if keep == "weights":
        _keep_weights(run)


def _keep_weights(run: RunDir) -> None:
    try:
        state = checkpoint.read(run.last)
    except FileNotFoundError:
        return
    except checkpoint.DamagedCheckpoint as error:
        log.warning("%s", error)
        return
    stays = {"learner", "step", "signature"}
    kept = {name: value for name, value in state.items() if name in stays}
    if state.keys() != kept.keys():
        checkpoint.save(run.last, kept)
    run.best.unlink(missing_ok=True)
