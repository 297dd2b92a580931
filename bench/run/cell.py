"""A cell from its run directory to its result: train, evaluate, write down how it ended."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import cv2
import torch

import bench
from bench.config.resources import Resources, parse_resources
from bench.config.science import RunConfig, parse
from bench.data.access import prepare_data
from bench.evaluate.context import context_for, provenance, run_all
from bench.evaluate.kept import write_pictures, write_predictions
from bench.process import interrupt
from bench.process.environment import RankEnvironment
from bench.run.progress import Progress, logging_to
from bench.store import failure
from bench.store.failure import NoProgress
from bench.store.files import Busy, write_json, write_text
from bench.store.rundir import RunDir, State
from bench.train import checkpoint, environment, labels
from bench.train.loop import Trainer
from bench.train.world import World

log = logging.getLogger("bench")

NO_PROGRESS_STARTS = 3
"""So many starts of one job from the same step are enough; the next one gives up."""


def run_cell(path: str | Path) -> str:
    """Run one cell to its end and return its state; on another rank than 0: how its part ended.

    Exceptions end in the run directory, not in the caller.
    """
    run, world = RunDir(Path(path)), World.from_environment()
    if run.result.exists():
        return str(State.DONE)
    with interrupt.listening():
        if not world.first:
            return str(_Start(run, world).run_to_end())
        try:
            with run.hold():
                return str(_Start(run, world).run_to_end())
        except Busy:
            print(f"{run.path} is being worked on by another process", file=sys.stderr)
            return str(State.RUNNING)


class _Start:
    """One start of a cell, in one of its processes."""

    def __init__(self, run: RunDir, world: World) -> None:
        self.run, self.world = run, world
        self.told = RankEnvironment.from_env()
        self.trainer: Trainer | None = None

    def run_to_end(self) -> State:
        if self.world.first:
            self.run.error.unlink(missing_ok=True)
            self.run.ended.unlink(missing_ok=True)
        with logging_to(self.run.log, self.world):
            try:
                self._train_and_evaluate()
            except interrupt.Interrupted as stop:
                return self._stopped(stop)
            except Exception as error:  # a cell must never take others down
                self._failed(error)
                interrupt.end_children()
                return State.FAILED
            except (KeyboardInterrupt, SystemExit):
                log.warning("interrupted; goes on from the last checkpoint when started again")
                raise
        return State.DONE

    # -- what it does ---

    def _train_and_evaluate(self) -> None:
        config = parse(self.run.read_config())
        resources = parse_resources(self.run.read_resources())
        progress = Progress(self.run, self.world)
        torch.set_num_threads(resources.threads)
        cv2.setNumThreads(0)
        device = self.world.device(resources)
        with interrupt.held_back():
            prepare_data(config, Path(resources.data_dir))
        started = time.monotonic()
        with self.world.joined(self.run, device):
            self.trainer = trainer = Trainer(self.run, config, resources, progress, self.world)
            env = self._describe(resources)
            trainer.resume()
            self._note_start(trainer.step)
            trainer.fit()
            bad_samples = trainer.batches.bad_samples()
        trained = time.monotonic()
        log.info("trained %d steps", trainer.total_steps)
        if not self.world.first:
            # Evaluating is a few per cent of the work: not worth another way to be wrong. The other
            # devices are free (for the next cell, where a launcher can use them) from here on.
            return
        result = {
            "signature": self.run.signature,
            **self._evaluate(config, resources, progress),
            "data_digest": env["data_digest"],
            "bad_samples": bad_samples,
            "seconds": {"train": trained - started, "evaluate": time.monotonic() - trained},
            "parameters": sum(p.numel() for p in trainer.learner.classifier.parameters()),
            "code": env["code"],
            "device": env["device"],
            "resources": {
                "world": self.world.size,
                "micro_batch": trainer.batches.micro_batch,
                "accumulation": trainer.batches.accumulation,
            },
        }
        write_json(self.run.result, result)
        self.run.progress.unlink(missing_ok=True)
        shutil.rmtree(self.run.scratch, ignore_errors=True)
        keep_checkpoints(self.run, resources.keep)
        log.info("done in %.0f s", time.monotonic() - started)

    def _describe(self, resources: Resources) -> dict[str, Any]:
        """Write env.json."""
        assert self.trainer is not None
        env = environment.describe(
            self.trainer.device,
            threads=resources.threads,
            compiled=resources.compile,
            world=self.world.size,
        )
        me = {"rank": self.world.rank, "pid": os.getpid(), "host": os.uname().nodename}
        env["ranks"] = self.world.gathered(me)
        env["data_digest"] = self.trainer.batches.samples.digest
        env["labels"] = labels.places(self.trainer.config, self.trainer.device)
        env["weights"] = getattr(self.trainer.learner.classifier.backbone, "loaded_weights", None)
        if self.world.first:
            write_json(self.run.env, env)
            name, commit = env["device"]["name"], env["code"]["commit"][:12]
            count = f"{self.world.size} x " if self.world.size > 1 else ""
            log.info("start %s on %s%s, commit %s", self.run.signature, count, name, commit)
            for objective, place in env["labels"].items():
                log.info("labels of %s: computed on the %s", objective, place)
        return env

    def _evaluate(
        self, config: RunConfig, resources: Resources, progress: Progress
    ) -> dict[str, Any]:
        """Rows and where they come from. Raises Interrupted when told to stop."""
        assert self.trainer is not None

        def report(update: dict[str, Any]) -> None:
            interrupt.check()
            progress(update)

        context = context_for(
            config, resources, self.trainer.learner.classifier, report, scratch=self.run.scratch
        )
        rows = run_all(config, context)
        write_predictions(self.run.predictions, context)
        write_pictures(self.run.pictures, context)
        return {
            "rows": rows,
            "failed": {split: failed for split, failed in context.failed.items() if failed},
            "data": config.data.name,
            "provenance": provenance(
                config.input, self.trainer.batches.samples, config.data_spec().media
            ),
        }

    def _note_start(self, step: int) -> None:
        """Add a line to starts.jsonl. Raises NoProgress."""
        if not self.world.first:
            return
        # Long evaluations go on from what they keep in `scratch`.
        kept = [path.stat().st_mtime for path in self.run.scratch.rglob("*") if path.is_file()]
        claimed = self.told.claim
        here = {"claimed": claimed, "step": step, "scratch": max(kept, default=None)}
        before = [s for s in self.run.read_starts() if s.get("claimed") == claimed]
        alike = [all(s.get(k) == v for k, v in here.items()) for s in before[-NO_PROGRESS_STARTS:]]
        if self.told.slurm and len(alike) == NO_PROGRESS_STARTS and all(alike):
            raise NoProgress(
                f"{NO_PROGRESS_STARTS} starts went on from step {step} and got no further; a longer "
                "resources.slurm.time, a larger resources.slurm.signal_delay_s (a step and a "
                "checkpoint must fit into it) or a smaller resources.checkpoint_minutes would help"
            )
        facts = {"time": time.time(), "pid": os.getpid(), **self._place()}
        with self.run.starts.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({**facts, **here}) + "\n")

    # -- how it ends, when not in a result ---

    def _stopped(self, stop: interrupt.Interrupted) -> State:
        state = State.PRUNED if stop.pruned else State.PREEMPTED
        if self.world.first:
            by_slurm = self.told.slurm and stop.reason in {s.name for s in interrupt.SIGNALS}
            step = self.trainer.step if self.trainer else 0
            self.run.settle(
                state,
                reason=stop.reason,
                goes_on=by_slurm and not stop.pruned,
                step=step,
                **self._place(),
            )
            log.info("stopped at step %d (%s); goes on from there", step, stop.reason)
        return state

    def _failed(self, error: Exception) -> None:
        """Write it down: for the supervisor, where there is one that chooses among the ranks."""
        now, kind = time.time(), failure.of_exception(error)
        text = f"{error}\n" if isinstance(error, NoProgress) else traceback.format_exc()
        log.error("failed: %s", error)
        if self.world.size > 1 and self.world.start is not None:
            head = f"time: {now}\nkind: {kind}\n"
            write_text(self.run.rank_error(self.world.rank), head + text)
            return
        if self.world.size > 1 and self.run.error.exists():
            return  # another rank was first
        self.run.settle(
            State.FAILED,
            kind,
            reason=text.strip().splitlines()[-1],
            traceback=text,
            step=self.trainer.step if self.trainer else None,
            micro_batch=self.trainer.batches.micro_batch if self.trainer else None,
            rank=self.world.rank,
            code=_code(),
            **self._place(),
        )

    def _place(self) -> dict[str, Any]:
        return {"host": os.uname().nodename, "job": self.told.job or None}


def _code() -> str:
    """Which code this is: the name of its snapshot, as claims have it, or of a checkout its state."""
    root = Path(bench.__path__[0]).parent
    version = environment.code_version()
    return root.name if "tree" in version else "+".join(map(str, version.values()))


def keep_checkpoints(run: RunDir, keep: str) -> None:
    """Delete what `resources.keep` does not name of a DONE run's checkpoints."""
    if keep == "none":
        shutil.rmtree(run.last.parent, ignore_errors=True)
    elif keep == "weights" and (state := checkpoint.load(run.last)):
        checkpoint.save(run.last, {name: state[name] for name in ("learner", "step")})
        run.best.unlink(missing_ok=True)
