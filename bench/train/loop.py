"""The training loop: from a validated config to a trained learner, resumable at any step.

Resuming is exact because nothing random has a history: order, crops, permutations and dropout masks
are pure functions of (seed, epoch, sample) or (seed, step), so a checkpoint holds weights,
optimiser state, the step and how long metrics.jsonl was; a resumed run ends with bitwise the same
weights, metrics and sample order (CPU, fp32).

Several ranks (bench.train.world) take each their part of every step's global batch and average their
gradients, so the number of devices changes the rounding and the dropout masks, nothing else. They all
take the same steps and the same decisions; only rank 0 writes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.config.resources import Resources
from bench.config.science import RunConfig
from bench.data import loader
from bench.data.access import open_split
from bench.data.order import Order, Part, Schedule, shuffling_quality, step_draws, steps_per_epoch
from bench.store.rundir import RunDir
from bench.task import DataSpec, Sharded
from bench.train import checkpoint, environment, labels
from bench.train.learner import Learner, build
from bench.train.requests import Requests
from bench.train.step import (
    Optimisation,
    be_deterministic,
    compiled,
    learning_rate,
)
from bench.train.validation import Validation
from bench.train.world import ALONE, World

log = logging.getLogger("bench")

Report = Callable[[dict[str, Any]], None]
"""Receives {phase, done, total, ...}; for progress displays only."""

WELL_SHUFFLED = 0.9
"""Of the classes that a batch has in a full permutation: with less an epoch's order is reported."""


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite. The message names the step, the objective and the samples."""


@dataclass
class _Window:
    """Steps whose losses still lie on the device, read together so that the loop does not wait for
    each one.
    """

    steps: list[int] = field(default_factory=list)
    values: list[dict[str, Tensor]] = field(default_factory=list)

    def read(self, world: World) -> list[dict[str, float]]:
        """The values of each step, over all ranks: one copy from the device, one exchange."""
        waiting = [value for values in self.values for value in values.values()]
        if not waiting:
            return []
        home = waiting[0].device
        read = world.total(torch.stack([value.to(home) for value in waiting])).tolist()
        numbers = iter(read)
        return [{name: next(numbers) for name in values} for values in self.values]


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
        self.spec: DataSpec = config.data_spec()
        self.samples = open_split(config, resources, self.spec.splits[0])
        self.part = part_of(config, len(self.samples), world)
        self.micro_batch = min(resources.micro_batch or self.part.size, self.part.size)
        self.learner = build(config, weights_dir=Path(resources.weights_dir)).to(self.device)
        self.clips = loader.Clips(
            self.samples,
            config.input,
            run_seed=config.seed,
            prepare=labels.on_loader(config, self.device),
            companions=labels.companions(config),
            skip_bad=config.train.on_bad_sample == "skip",
        )
        self.order = self._order()
        self.optimisation = Optimisation(self.learner, config, self.device, world, self.part)
        self.optimizer = self.optimisation.optimizer
        self.steps_per_epoch = steps_per_epoch(len(self.samples), config.train.batch)
        self.total_steps = config.train.epochs * self.steps_per_epoch
        self.validation = Validation(config, resources, world, self.device)
        self.requests = Requests(run, resources, world)
        self.step = 0
        self.best = -math.inf
        self._epoch_to_end = False  # the step was an epoch's last, and its validation is to come
        self._resumed = False
        self._window = _Window()
        # of this rank's samples: what could not be decoded, and how often another took its place
        self._bad: dict[str, str] = {}
        self._replaced = 0
        self._saved_step = 0

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step."""
        return -(-self.part.size // self.micro_batch)

    def _order(self) -> Order:
        """The order of the epochs. Warns when its batches are less mixed than they should be."""
        settings, length = self.config.train, len(self.samples)
        if settings.shuffle == "global":
            return Order(self.config.seed, length)
        if not isinstance(self.samples, Sharded):
            raise ValueError("train.shuffle: these data are not in shards; set it to global")
        self.samples.read_ahead()
        shards, buffer = self.samples.shards, settings.shuffle_buffer
        order = Order(self.config.seed, length, shards=shards, buffer=buffer)
        quality = shuffling_quality(order(0), self.samples.labels, settings.batch)
        say = log.info if quality >= WELL_SHUFFLED else log.warning
        say(
            "train.shuffle: a batch has %.0f %% of the classes that it has in a full permutation "
            "(train.shuffle_buffer is %d)",
            100 * quality,
            buffer,
        )
        return order

    # -- the loop ---

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
            for batches in self._steps():
                self._train_step(batches)
                self.step += 1
                if self.step % self.resources.log_every == 0:
                    self._flush()
                if self.step % self.steps_per_epoch == 0:
                    self._end_epoch()
                self._at_boundary()
        return self.learner

    def bad_samples(self) -> dict[str, Any]:
        """{replaced: how often another sample took the place of one that cannot be decoded, samples:
        {key: reason}}, over all ranks, which must all ask.
        """
        every = self.world.gathered((self._replaced, self._bad))
        samples = {key: reason for _, bad in every for key, reason in bad.items()}
        return {"replaced": sum(n for n, _ in every), "samples": dict(sorted(samples.items()))}

    def _steps(self) -> Iterator[list[loader.RawBatch]]:
        """This rank's micro-batches of each remaining step."""
        schedule = Schedule(
            order=self.order,
            batch=self.config.train.batch,
            micro=self.micro_batch,
            first_step=self.step,
            last_step=self.total_steps,
            part=self.part,
        )
        batches = loader.training_batches(
            self.clips,
            schedule,
            workers=self.resources.workers,
            pin=self.device.type == "cuda",
        )
        while chunk := list(islice(batches, self.accumulation)):
            yield chunk

    def _train_step(self, micro_batches: list[loader.RawBatch]) -> None:
        lr = learning_rate(self.config.train, self.step, self.steps_per_epoch)
        values = self.optimisation.step(micro_batches, number=self.step, lr=lr)
        for raw in micro_batches:
            for key, reason in raw.failed.items():
                if key not in self._bad:
                    log.warning("another sample takes its place: %s", reason)
                self._bad[key] = reason
            self._replaced += len(raw.failed)
        self._window.steps.append(self.step)
        self._window.values.append(values)

    # -- stopping ---

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

    # -- metrics ---

    def _flush(self) -> None:
        """Read the window's losses and write the last of them to metrics.jsonl."""
        last = self._check_finite()
        window, self._window = self._window, _Window()
        if not window.steps:
            return
        step = window.steps[-1]
        row = {"step": step + 1, "epoch": (step + 1) / self.steps_per_epoch}
        row["lr"] = learning_rate(self.config.train, step, self.steps_per_epoch)
        if self.clips.skip_bad:
            row["replaced_samples"] = int(self.world.total(torch.tensor(self._replaced)))
        self._append({**row, **last})
        self.report(
            {"phase": "train", "done": step + 1, "total": self.total_steps, "loss": last["loss"]}
        )

    def _append(self, row: dict[str, Any]) -> None:
        if self.world.first:
            with self.run.metrics.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(row) + "\n")

    def _end_epoch(self) -> None:
        self._flush()
        epoch = self.step // self.steps_per_epoch
        if epoch % self.config.train.validate_every == 0 or self.step == self.total_steps:
            self._epoch_to_end = True
            top1 = self.validate()
            self._epoch_to_end = False
            self._append({"step": self.step, "epoch": epoch, "val/top1": top1})
            if top1 > self.best:
                self.best = top1
                self._write(
                    self.run.best, {"learner": self.learner.state_dict(), "step": self.step}
                )
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

    # -- checkpoints ---

    def save(self) -> None:
        """Write the checkpoint. Losses are read first: a checkpoint never holds weights that a NaN
        has reached.
        """
        self._check_finite()
        metrics = self.run.metrics
        state = {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "epoch_to_end": self._epoch_to_end,
            "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
        }
        if self.clips.skip_bad:
            state["bad_samples"] = self.bad_samples()
        self._write(self.run.last, state)
        self.requests.saved()
        self._saved_step = self.step

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        if self.world.first:
            checkpoint.save(path, state)

    def _check_finite(self) -> dict[str, float]:
        """The values of the window's last step. Raises NonFiniteLoss for its first step that is not
        finite.
        """
        window, read = self._window, self._window.read(self.world)
        for step, values in zip(window.steps, read, strict=True):
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad:
                raise NonFiniteLoss(_describe_non_finite(step, self._keys(step), bad, values))
        return read[-1] if read else {}

    def _keys(self, step: int) -> tuple[str, ...]:
        """The samples of a step, of all ranks."""
        draws = step_draws(self.order, batch=self.config.train.batch, step=step)
        return tuple(self.samples.keys[draw.index] for draw in draws)

    def resume(self) -> None:
        """Load the last checkpoint and cut metrics.jsonl back to what it was then; once."""
        if self._resumed:
            return
        self._resumed = True
        state = checkpoint.load_alike(self.run.last, self.world)
        if state is None:
            if self.world.first:
                self.run.metrics.unlink(missing_ok=True)
            return
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        self._epoch_to_end = state.get("epoch_to_end", False)
        self._saved_step = self.step
        if self.world.first and (bad := state.get("bad_samples")):
            self._replaced, self._bad = bad["replaced"], dict(bad["samples"])
        if self.world.first and self.run.metrics.exists():
            with self.run.metrics.open("r+b") as handle:
                handle.truncate(state["metrics_bytes"])


def part_of(config: RunConfig, samples: int, world: World) -> Part:
    """What a rank takes of each step's batch. Raises ValueError when there is nothing for it."""
    batch = min(config.train.batch, samples)
    if batch < world.size:
        few = "" if batch == config.train.batch else f" (and there are {samples} samples)"
        raise ValueError(
            f"train.batch is {config.train.batch}{few}: too few for {world.size} devices, each takes "
            f"at least one sample of a step; set resources.nodes and resources.devices so that "
            f"their product is at most {batch}"
        )
    return Part.of(batch, rank=world.rank, world=world.size)


def _describe_non_finite(
    step: int, keys: tuple[str, ...], bad: list[str], values: dict[str, float]
) -> str:
    objectives = [name.removeprefix("loss/") for name in bad if name.startswith("loss/")]
    shown = ", ".join(f"{name} = {values[name]}" for name in bad)
    return (
        f"loss is not finite at step {step}: {shown}; objective: {', '.join(objectives) or 'total'}; "
        f"samples: {', '.join(keys[:16])}{' ...' if len(keys) > 16 else ''}. "
        "Lower train.lr, set train.clip_grad, or train in fp32."
    )
