"""The training loop: from a validated config to a trained learner, resumable at any step.

Resuming is exact because nothing random has a history: order, crops, permutations and dropout masks
are pure functions of (seed, epoch, sample) or (seed, step), so a checkpoint holds weights,
optimiser state, the step and what metrics.jsonl was; a resumed run ends with bitwise the same
weights, metrics and sample order (CPU, fp32).

Several ranks (bench.train.world) take each their part of every step's global batch and average their
gradients, so the number of devices changes the rounding and the dropout masks, nothing else. They all
take the same steps and the same decisions; only rank 0 writes.

    batches.py  ->  step.py  ->  metrics_log.py        each step
    validation.py, checkpoint.py, requests.py          at the end of an epoch, between two steps
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from bench.config.resources import Resources
from bench.config.science import RunConfig
from bench.config.signature import signature
from bench.data import loader
from bench.store.rundir import RunDir
from bench.train import checkpoint, environment
from bench.train.batches import TrainingBatches
from bench.train.learned import Learned
from bench.train.learner import Learner, build
from bench.train.metrics_log import MetricsLog
from bench.train.requests import Requests
from bench.train.start import start_from
from bench.train.step import Optimisation, be_deterministic, compiled, learning_rate
from bench.train.validation import Validation
from bench.train.world import ALONE, World

Report = Callable[[dict[str, Any]], None]
"""Receives {phase, done, total, ...}; for progress displays only."""


class Trainer:
    """One run's training. `fit()` goes on from the last checkpoint, if there is one."""

    def __init__(
        self,
        run: RunDir,
        config: RunConfig,
        resources: Resources,
        report: Report,
        world: World = ALONE,
    ) -> None:
        self.run, self.config, self.resources, self.report = run, config, resources, report
        self.world = world
        self.device = world.device(resources)
        if resources.compile and (problem := environment.compile_problem(self.device)):
            raise ValueError(f"resources.compile: {problem}")
        self.batches = TrainingBatches(config, resources, world, self.device)
        self.learner = build(config, weights_dir=Path(resources.weights_dir)).to(self.device)
        self.optimisation = Optimisation(
            self.learner, config, self.device, world, self.batches.part
        )
        self.validation = Validation(config, resources, world, self.device)
        self.requests = Requests(run, resources, world)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = config.train.epochs * self.steps_per_epoch
        self.learned = Learned(since=self.total_steps - self.steps_per_epoch)
        self.metrics = MetricsLog(run.metrics, world, self.batches.keys, self.learned)
        self.step = 0
        self.best = -math.inf
        self._epoch_to_end = False  # the step was an epoch's last, and its validation is to come
        self._resumed = False
        self._saved_step = 0
        # the weights that it began with, where they are another's: see bench.train.start and weights.py
        self.started_from: dict[str, str] | None = None

    def fit(self) -> Learner:
        """Train to the last epoch. Raises NonFiniteLoss, and Interrupted when told to stop: the
        checkpoint is written then.
        """
        self.resume()
        be_deterministic(self.device)
        with compiled(self.learner, enabled=self.resources.compile):
            if self._epoch_to_end:
                self._end_epoch()
            self._at_boundary()
            for micro_batches in self.batches.steps(self.step, self.total_steps):
                self._train_step(micro_batches)
                self.step += 1
                if self.step % self.resources.log_every == 0:
                    self._log_losses()
                if self.step % self.steps_per_epoch == 0:
                    self._end_epoch()
                self._at_boundary()
        return self.learner

    def _train_step(self, micro_batches: list[loader.RawBatch]) -> None:
        lr = learning_rate(self.config.train, self.step, self.steps_per_epoch)
        losses = self.optimisation.step(micro_batches, number=self.step, lr=lr)
        self.batches.count_bad(micro_batches)
        self.metrics.add(self.step, losses)

    def _log_losses(self) -> None:
        """Write those of the last step to metrics.jsonl. Raises NonFiniteLoss."""
        taken = self.metrics.take()
        if taken is None:
            return
        step, losses = taken
        row = {"step": step + 1, "epoch": (step + 1) / self.steps_per_epoch}
        row["lr"] = learning_rate(self.config.train, step, self.steps_per_epoch)
        if self.batches.skips_bad:
            row["replaced_samples"] = self.batches.replaced()
        self.metrics.append({**row, **losses})
        self.report(
            {"phase": "train", "done": step + 1, "total": self.total_steps, "loss": losses["loss"]}
        )

    def _end_epoch(self) -> None:
        self._log_losses()
        epoch = self.step // self.steps_per_epoch
        if epoch % self.config.train.validate_every == 0 or self.step == self.total_steps:
            self._epoch_to_end = True
            top1 = self.validate()
            self._epoch_to_end = False
            self.metrics.append({"step": self.step, "epoch": epoch, "val/top1": top1})
            if top1 > self.best:
                self.best = top1
                state = {"learner": self.learner.state_dict(), "step": self.step}
                if self.world.first:
                    checkpoint.save(self.run.best, state)
        self.save()

    def validate(self) -> float:
        """Top-1 on the first evaluation split. Raises Interrupted when told to stop: the checkpoint
        says that the validation is still to come.
        """
        return self.validation.top1(self.learner, before_batch=self._before_validation_batch)

    def _before_validation_batch(self) -> None:
        asked = self.requests.read()
        if asked.stop:
            self.save()
            asked.interrupt()

    def _at_boundary(self) -> None:
        """Between two steps: write the checkpoint when it is due, and stop when told to. All ranks
        do the same.
        """
        asked = self.requests.read(validated=self.step % self.steps_per_epoch == 0)
        every = self.resources.checkpoint_steps
        due = asked.save or (every is not None and self.step % every == 0)
        if (due or asked.stop) and self._saved_step != self.step:
            self.save()
        asked.interrupt()

    # -- checkpoints ---

    def save(self) -> None:
        """Write the checkpoint. Losses are read first: a checkpoint never holds weights that a NaN
        has reached.
        """
        self.metrics.check()
        state = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimisation.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "epoch_to_end": self._epoch_to_end,
            "signature": signature(self.config),
            "metrics": self.metrics.flush(),
            "learned": self.learned.state(),
        }
        if self.started_from:
            state["started_from"] = self.started_from
        if self.batches.skips_bad:
            state["bad_samples"] = self.batches.bad_samples()
        if self.world.first:
            checkpoint.save(self.run.last, state, keep_previous=True)
        self.requests.saved()
        self._saved_step = self.step

    def _start(self) -> None:
        """With the weights of image models, as `build` loaded them, or of another run."""
        backbone = self.learner.classifier.backbone
        assert isinstance(backbone, nn.Module)
        if self.config.parent is None:
            self.started_from = getattr(backbone, "loaded_weights", None)
        else:
            parent = RunDir(self.run.path.parent / self.config.parent)
            self.started_from = start_from(parent, self.config, backbone)

    def resume(self) -> None:
        """Load the last checkpoint that is whole and cut metrics.jsonl back to what it was then; once."""
        if self._resumed:
            return
        self._resumed = True
        mine = checkpoint.of_run(self.run, self.config, "learner", "optimizer", "step", "best")
        state = checkpoint.load_alike(self.run.last, self.world, mine)
        if state is None:
            self.metrics.restart()
            self._start()
            return
        backbone = self.learner.classifier.backbone
        self.started_from = state.get("started_from") or getattr(backbone, "loaded_weights", None)
        self.learner.load_state_dict(state["learner"])
        self.optimisation.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        self._epoch_to_end = state.get("epoch_to_end", False)
        self._saved_step = self.step
        self.learned.resume(state.get("learned"))
        if bad := state.get("bad_samples"):
            self.batches.resume_bad_samples(bad)
        # Older checkpoints only know how long it was.
        self.metrics.resume(**(state.get("metrics") or {"size": state["metrics_bytes"]}))
