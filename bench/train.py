"""The training loop: from a validated config to a trained learner, resumable at any step.

Resuming is exact because nothing random has a history: order, crops, permutations and dropout masks
are pure functions of (seed, epoch, sample) or (seed, step), so a checkpoint holds weights,
optimiser state, the step and how long metrics.jsonl was; a resumed run ends with bitwise the same
weights, metrics and sample order (CPU, fp32).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import checkpoint, environment, find
from bench.config import Resources, RunConfig, Train
from bench.data import loader
from bench.data.transforms import normalise
from bench.identity import seed
from bench.learner import Learner, LossReport, TrainingStep, build
from bench.rundir import RunDir
from bench.task import Batch, DataSpec, Picture, Samples

Report = Callable[[dict[str, Any]], None]
"""Receives {phase, done, total, ...}; for progress displays only."""


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite. The message names the step, the objective and the samples."""


@dataclass
class _Window:
    """Steps whose losses still lie on the device, read together so that the loop does not wait for
    each one.
    """

    steps: list[int] = field(default_factory=list)
    keys: list[tuple[str, ...]] = field(default_factory=list)
    values: list[dict[str, Tensor]] = field(default_factory=list)

    def read(self) -> list[dict[str, float]]:
        """The values of each step, in one copy from the device."""
        waiting = [value for values in self.values for value in values.values()]
        if not waiting:
            return []
        home = waiting[0].device
        numbers = iter(torch.stack([value.to(home) for value in waiting]).tolist())
        return [{name: next(numbers) for name in values} for values in self.values]


class Optimisation:
    """The optimiser step: copy, forward, backward, update. `Trainer` trains with it and
    `bench.speed` measures it.

    Nothing here waits for the device.
    """

    def __init__(self, learner: Learner, config: RunConfig, target: torch.device) -> None:
        self.learner, self.config, self.device = learner, config, target
        self.spec: DataSpec = config.data_spec()
        self.optimizer = build_optimizer(learner, config.train)

    def step(
        self, micro_batches: list[loader.RawBatch], *, number: int, lr: float
    ) -> dict[str, Tensor]:
        """Update the weights once. Returns what to log, scalars still on the device."""
        torch.manual_seed(seed(self.config.seed, "dropout", number) % 2**63)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.learner.train()
        total = sum(len(raw.keys) for raw in micro_batches)
        values: dict[str, Tensor] = {}
        for raw in micro_batches:
            share = len(raw.keys) / total
            losses = self.losses(raw, number=number)
            (losses.total * share).backward()
            parts = {"loss": losses.total.detach(), **losses.logs}
            parts |= {f"loss/{name}": value for name, value in losses.terms.items()}
            for name, value in parts.items():
                values[name] = values.get(name, 0.0) + share * value.float()
        if self.config.train.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.learner.parameters(), self.config.train.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return values

    def losses(self, raw: loader.RawBatch, *, number: int) -> LossReport:
        """The forward pass of one micro-batch of step `number`."""
        batch = to_device(raw, self.device, self.spec)
        step = TrainingStep(
            self.learner.classifier, run_seed=self.config.seed, number=number, draws=raw.draws
        )
        with autocast(self.device, self.config.train.precision):
            return self.learner(batch, step)


class Trainer:
    """One run's training. `fit()` goes on from the last checkpoint, if there is one."""

    def __init__(
        self, run: RunDir, config: RunConfig, resources: Resources, report: Report
    ) -> None:
        self.run, self.config, self.resources, self.report = run, config, resources, report
        self.device = device(resources)
        if resources.compile and (problem := environment.compile_problem(self.device)):
            raise ValueError(f"resources.compile: {problem}")
        self.spec: DataSpec = config.data_spec()
        self.learner = build(config, weights_dir=Path(resources.weights_dir)).to(self.device)
        self.samples = open_split(config, resources, self.spec.splits[0])
        self.clips = loader.Clips(
            self.samples,
            config.input,
            run_seed=config.seed,
            prepare=_prepare_functions(config),
            companions=_companion_functions(config),
        )
        self.optimisation = Optimisation(self.learner, config, self.device)
        self.optimizer = self.optimisation.optimizer
        self.steps_per_epoch = loader.steps_per_epoch(len(self.samples), config.train.batch)
        self.total_steps = config.train.epochs * self.steps_per_epoch
        held_out = open_split(config, resources, self.spec.splits[1])
        self.held_out = loader.Clips(held_out, config.input)
        self.step = 0
        self.best = -math.inf
        self._window = _Window()
        self._saved = time.monotonic()

    # -- the loop ---

    def fit(self) -> Learner:
        """Train to the last epoch. Raises NonFiniteLoss."""
        self.resume()
        be_deterministic(self.device)
        with compiled(self.learner, enabled=self.resources.compile):
            for batches in self._steps():
                self._train_step(batches)
                self.step += 1
                if self.step % self.resources.log_every == 0:
                    self._flush()
                if self.step % self.steps_per_epoch == 0:
                    self._end_epoch()
                elif self._due():
                    self.save()
        return self.learner

    def _steps(self) -> Iterator[list[loader.RawBatch]]:
        """The micro-batches of each remaining step."""
        size = min(self.config.train.batch, len(self.clips))
        micro = min(self.resources.micro_batch or size, size)
        batches = loader.training_batches(
            self.clips,
            batch=self.config.train.batch,
            micro=micro,
            first_step=self.step,
            last_step=self.total_steps,
            workers=self.resources.workers,
            pin=self.device.type == "cuda",
        )
        while chunk := list(islice(batches, -(-size // micro))):
            yield chunk

    def _train_step(self, micro_batches: list[loader.RawBatch]) -> None:
        lr = learning_rate(self.config.train, self.step, self.steps_per_epoch)
        values = self.optimisation.step(micro_batches, number=self.step, lr=lr)
        self._window.steps.append(self.step)
        self._window.keys.append(tuple(key for raw in micro_batches for key in raw.keys))
        self._window.values.append(values)

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
        self._append({**row, **last})
        self.report(
            {"phase": "train", "done": step + 1, "total": self.total_steps, "loss": last["loss"]}
        )

    def _append(self, row: dict[str, Any]) -> None:
        with self.run.metrics.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")

    def _end_epoch(self) -> None:
        self._flush()
        epoch = self.step // self.steps_per_epoch
        if epoch % self.config.train.validate_every == 0 or self.step == self.total_steps:
            top1 = self.validate()
            self._append({"step": self.step, "epoch": epoch, "val/top1": top1})
            if top1 > self.best:
                self.best = top1
                checkpoint.save(
                    self.run.best, {"learner": self.learner.state_dict(), "step": self.step}
                )
        self.save()

    @torch.no_grad()
    def validate(self) -> float:
        """Top-1 on the first evaluation split, ordered clips, centre crop."""
        self.learner.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        batches = loader.evaluation_batches(
            self.held_out, batch=self.config.train.batch, workers=0, pin=self.device.type == "cuda"
        )
        for raw in batches:
            batch = to_device(raw, self.device, self.spec)
            with autocast(self.device, self.config.train.precision), eager(self.learner):
                logits = self.learner.classifier(batch.clip_BTCHW)
            correct += (logits.argmax(-1) == batch.labels_B).sum()
        return int(correct) / len(self.held_out)

    # -- checkpoints ---

    def _due(self) -> bool:
        every = self.resources.checkpoint_steps
        if every is not None and self.step % every == 0:
            return True
        return time.monotonic() - self._saved > 60 * self.resources.checkpoint_minutes

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
            "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
        }
        checkpoint.save(self.run.last, state)
        self._saved = time.monotonic()

    def _check_finite(self) -> dict[str, float]:
        """The values of the window's last step. Raises NonFiniteLoss for its first step that is not
        finite.
        """
        window, read = self._window, self._window.read()
        for step, keys, values in zip(window.steps, window.keys, read, strict=True):
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad:
                raise NonFiniteLoss(_describe_non_finite(step, keys, bad, values))
        return read[-1] if read else {}

    def resume(self) -> None:
        """Load the last checkpoint and cut metrics.jsonl back to what it was then."""
        state = checkpoint.load(self.run.last)
        if state is None:
            self.run.metrics.unlink(missing_ok=True)
            return
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        if self.run.metrics.exists():
            with self.run.metrics.open("r+b") as handle:
                handle.truncate(state["metrics_bytes"])


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


def _prepare_functions(config: RunConfig) -> dict[str, loader.Prepare]:
    """Labels that objectives compute on the loader's workers, by objective name."""
    model_spec = config.model_spec()
    found: dict[str, loader.Prepare] = {}
    for name, part in config.objectives.items():
        module = find.load("objective", name)
        if hasattr(module, "prepare"):
            found[name] = _Prepare(name, part.config, model_spec)
    return found


def _companion_functions(config: RunConfig) -> dict[str, loader.Companion]:
    """Second images that objectives make on the loader's workers, by objective name."""
    return {
        name: _Companion(name, part.config)
        for name, part in config.objectives.items()
        if hasattr(find.load("objective", name), "companion")
    }


@dataclass(frozen=True)
class _Companion:
    """An objective's `companion`, in a form that pickles to a spawned worker."""

    name: str
    config: Any

    def __call__(self, picture: Picture, generator: np.random.Generator) -> np.ndarray:
        module = find.load("objective", self.name)
        return module.companion(self.config, picture, generator)


@dataclass(frozen=True)
class _Prepare:
    """An objective's `prepare`, in a form that pickles to a spawned worker."""

    name: str
    config: Any
    model_spec: Any

    def __call__(self, clip_THWC: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        module = find.load("objective", self.name)
        return module.prepare(self.config, self.model_spec, clip_THWC, generator)


def open_split(config: RunConfig, resources: Resources, split: str) -> Samples:
    source = find.load("source", config.data.name)
    return source.open(config.data.config, Path(resources.data_dir), split)


def device(resources: Resources) -> torch.device:
    if resources.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(resources.device)


def to_device(raw: loader.RawBatch, target: torch.device, spec: DataSpec) -> Batch:
    """Copy (asynchronously from pinned memory) and normalise on the device."""
    clip = raw.clip_BTHWC.to(target, non_blocking=True)
    return Batch(
        clip_BTCHW=normalise(clip, spec.mean, spec.std),
        labels_B=raw.labels_B.to(target, non_blocking=True),
        keys=raw.keys,
        extras={name: value.to(target, non_blocking=True) for name, value in raw.extras.items()},
    )


def be_deterministic(target: torch.device) -> None:
    """Bitwise repeatable kernels on a CPU. On a GPU they cost speed, and some do not exist.

    Without the mode's other half, which fills all new memory with NaN to uncover reads of it: that
    writes every activation twice.
    """
    torch.use_deterministic_algorithms(target.type == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def compiled(learner: Learner, *, enabled: bool) -> Iterator[None]:
    """Within the block the backbone is compiled: nearly all of the work, and one graph.

    In place, so the names in a state dict stay as they are; per shape, since a run has one or two.
    Random numbers are torch's own, so a compiled run drops the same paths as an eager one.
    Objectives stay eager (they draw from numpy), and so do evaluations: their odd last batches
    would be compiled one by one.
    """
    backbone: Any = learner.classifier.backbone
    if not enabled:
        yield
        return
    backbone.compile(dynamic=False, options={"fallback_random": True})
    try:
        yield
    finally:
        backbone._compiled_call_impl = None  # there is no public way back
        torch.compiler.reset()  # lest many runs in one process reach the limit of recompilations


def eager(learner: Learner) -> AbstractContextManager[Any]:
    """Within the block compiled code is not used, nor is anything compiled."""
    backbone: Any = learner.classifier.backbone
    if backbone._compiled_call_impl is None:
        return nullcontext()  # the other one imports the compiler: seconds
    return torch.compiler.set_stance("force_eager")


def autocast(target: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(target.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def build_optimizer(learner: Learner, config: Train) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases and other 1-D parameters, as in the TIME release."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, amsgrad=config.amsgrad, fused=True
    )


def learning_rate(config: Train, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, a pure function of it: linear warm-up, then steps or a cosine to
    zero.
    """
    epoch = step / steps_per_epoch
    if epoch < config.warmup_epochs:
        return config.lr * (step + 1) / (config.warmup_epochs * steps_per_epoch)
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(epoch >= m for m in config.milestones)
    done = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * done))
