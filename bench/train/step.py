"""The optimiser step, and how it is computed: over several ranks, reproducibly, compiled, in mixed
precision; the optimiser and its learning rate.

Between bench.train.learner (what is differentiated) and bench.train.loop (the loop); `bench.speed` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.config.science import RunConfig, Train
from bench.config.seeds import seed
from bench.data import loader
from bench.data.order import Part
from bench.data.transforms import normalise, resize_on_device
from bench.task import Batch, DataSpec
from bench.train import labels
from bench.train.learner import Learner, LossReport, TrainingStep
from bench.train.world import ALONE, World


class Optimisation:
    """The optimiser step: copy, labels, forward, backward, update. `Trainer` trains with it and
    `bench.speed` measures it.

    `part`: what this rank has of each step's batch, if not all of it. Nothing here waits for the
    device.
    """

    def __init__(
        self,
        learner: Learner,
        config: RunConfig,
        target: torch.device,
        world: World = ALONE,
        part: Part | None = None,
    ) -> None:
        self.learner, self.config, self.device = learner, config, target
        self.world, self.part = world, part
        self.spec: DataSpec = config.data_spec()
        self.labels = labels.on_device(config, target)
        self.parallel = _parallel(learner, world)
        self.optimizer = build_optimizer(learner, config.train)

    def step(
        self, micro_batches: list[loader.RawBatch], *, number: int, lr: float
    ) -> dict[str, Tensor]:
        """Update the weights once. Returns what to log, scalars still on the device; their sum over
        the ranks is that of the global batch.
        """
        part = self.part or Part.of(sum(len(raw.keys) for raw in micro_batches))
        torch.manual_seed(self._dropout_seed(number, part))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.learner.train()
        values: dict[str, Tensor] = {}
        for i, raw in enumerate(micro_batches, start=1):
            share = len(raw.keys) / part.whole
            with self._exchanging(gradients=i == len(micro_batches)):
                losses = self.losses(raw, number=number)
                # The gradients of the ranks are averaged; their sum is that of the global mean.
                (losses.total * (share * self.world.size)).backward()
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
        batch = to_device(raw, self.device, self.spec, self.labels)
        step = TrainingStep(
            self.learner.classifier, run_seed=self.config.seed, number=number, draws=raw.draws
        )
        with autocast(self.device, self.config.train.precision):
            return self.parallel(batch, step)

    def _dropout_seed(self, number: int, part: Part) -> int:
        """Of a step; another for each part of its batch, lest all ranks drop the same paths."""
        names = (part.start,) if part.start else ()
        return seed(self.config.seed, "dropout", number, *names) % 2**63

    def _exchanging(self, *, gradients: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged once a step, with those of the last micro-batch."""
        if gradients or not isinstance(self.parallel, DistributedDataParallel):
            return nullcontext()
        return self.parallel.no_sync()


def _parallel(learner: Learner, world: World) -> nn.Module:
    """The learner, its gradients averaged over the ranks where there are several."""
    if world.size == 1:
        return learner
    return DistributedDataParallel(
        learner,
        # Not all objectives use all parameters. And only so the gradients stay in the buckets they
        # were in at the first step: otherwise they are packed anew after it, sums over more than two
        # ranks are rounded in another order from then on, and a run that was interrupted ends
        # with other weights.
        find_unused_parameters=True,
    )


def to_device(
    raw: loader.RawBatch,
    target: torch.device,
    spec: DataSpec,
    made_there: Mapping[str, labels.PrepareBatch] | None = None,
) -> Batch:
    """Copy (asynchronously from pinned memory), resize where the loader left that to the device, and
    normalise; also those labels of objectives are made there that the loader did not make.
    """
    clip = raw.clip_BTHWC.to(target, non_blocking=True)
    clip = resize_on_device(clip, raw.size or clip.shape[-2])
    extras = {name: value.to(target, non_blocking=True) for name, value in raw.extras.items()}
    extras |= {name: make(clip) for name, make in (made_there or {}).items()}
    return Batch(
        clip_BTCHW=normalise(clip, spec.mean, spec.std),
        labels_B=raw.labels_B.to(target, non_blocking=True),
        keys=raw.keys,
        extras=extras,
        failed=raw.failed,
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
