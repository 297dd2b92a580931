"""One measurement of `bench.speed step`, in a process of its own: the training step of `bench.train.loop`
on random clips, its FLOPs, its waits for the GPU and its times.
"""

from __future__ import annotations

import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from bench import find
from bench.config.science import Component, Input, RunConfig, Train, parse_options
from bench.config.seeds import rng
from bench.data import loader
from bench.data.order import Draw
from bench.speed._measuring import Clock, SpeedRow, Tell, measure_ceiling, peak_memory, spread
from bench.task import Config, DataSpec
from bench.train import labels
from bench.train.learner import build
from bench.train.step import Optimisation, be_deterministic, compiled

SETS = {
    "plain": ("classify",),
    "TIME": ("classify", "video.order", "video.debias", "video.flow"),
}
MIN_STEPS = 3


@dataclass(frozen=True)
class StepMeasurement:
    """One row to measure; travels to its process as JSON."""

    backbone: str
    options: dict[str, Any]
    precision: str
    step: str  # a name of SETS, or the objectives themselves, joined by commas
    batch: int
    frames: int
    size: int  # pixels
    classes: int
    threads: int
    device: str
    compile: bool
    steps: int | None  # how many are timed; None: until `seconds` have passed
    seconds: float

    @property
    def objectives(self) -> tuple[str, ...]:
        return SETS.get(self.step) or tuple(self.step.split(","))

    def __str__(self) -> str:
        return f"{self.backbone} {self.precision} {self.step} batch {self.batch}"


@dataclass(frozen=True)
class _RandomClips(RunConfig):
    """A run's config on data that exist nowhere."""

    classes: int

    def data_spec(self) -> DataSpec:
        names = tuple(f"class {k}" for k in range(self.classes))
        return DataSpec("random clips", "video", names, {}, ("train",))


def config_of(m: StepMeasurement) -> RunConfig:
    """What `bench.train.loop` needs to know of a measurement. Raises Mistakes."""

    def component(kind: str, name: str, options: dict[str, Any]) -> Component:
        config = parse_options(kind, name, options)
        return Component(name, config, find.load(kind, name).VERSION)

    return _RandomClips(
        data=Component("random", Config(), 1),
        input=Input(frames=m.frames, size=m.size),
        model=component("backbone", m.backbone, m.options),
        objectives={name: component("objective", name, {}) for name in m.objectives},
        train=Train(batch=m.batch, precision=m.precision),  # type: ignore[arg-type]
        evaluations={},
        seed=0,
        classes=m.classes,
    )


# -- in the process of a measurement ---


def answer_ceiling(task: dict[str, Any], tell: Tell) -> SpeedRow:
    """The matmul rate of this machine; `task` as `measure_ceiling` takes it."""
    return measure_ceiling(**task)


def answer_step(task: dict[str, Any], tell: Tell) -> SpeedRow:
    """The row of a `StepMeasurement`, and the matmul rate right after it."""
    m = StepMeasurement(**task)
    return {**measure(m, tell), "ceiling_flops_per_s": _ceiling_beside(m)}


def measure(m: StepMeasurement, tell: Tell) -> SpeedRow:
    """Measure one row in this process, whose peak memory becomes the row's."""
    target = torch.device(m.device)
    config = config_of(m)
    be_deterministic(target)  # as Trainer.fit does
    learner = build(config, weights_dir=None).to(target)
    optimisation = Optimisation(learner, config, target)
    raw = random_batch(config, target)
    tell("counting FLOPs")
    counted = count_flops(optimisation, raw)
    with compiled(learner, enabled=m.compile):
        tell("compiling" if m.compile else "warming up")
        begun = time.perf_counter()
        optimisation.step([raw], number=1, lr=config.train.lr)
        syncs = count_syncs(optimisation, raw)
        warm_up_s = time.perf_counter() - begun
        if target.type == "cuda":
            torch.cuda.reset_peak_memory_stats(target)
        times = time_steps(optimisation, raw, steps=m.steps, seconds=m.seconds, tell=tell)
    median = statistics.median(times)
    return {
        "clips_per_s": m.batch / median,
        "step_s": spread(times),
        "warm_up_s": warm_up_s,
        "peak_bytes": peak_memory(target),
        "peak_of": "device allocations" if target.type == "cuda" else "process, resident",
        "forward_flops_per_clip": counted["forward"] / m.batch,
        "model_flops_per_step": 3 * counted["forward"],
        "executed_flops_per_step": counted["executed"],
        "uncounted_ops": counted["uncounted"],
        "host_syncs_per_step": None if syncs is None else len(syncs),
        "host_sync_places": syncs,
        "parameters": sum(p.numel() for p in learner.parameters()),
    }


def random_batch(config: RunConfig, target: torch.device) -> loader.RawBatch:
    """Clips of noise on the host, with the labels that the objectives' own `prepare` makes of them
    (of the first few: a label's value does not matter here). What the device labels is not among
    them: that is part of the step.
    """
    size, frames, batch = config.input.size, config.input.frames, config.train.batch
    generator = torch.Generator().manual_seed(0)
    clips = torch.empty((batch, frames, size, size, 3), dtype=torch.uint8)
    clips.random_(0, 256, generator=generator)
    extras = {}
    for name, make in labels.on_loader(config, target).items():
        made = [make(clip.numpy(), rng("speed", name)) for clip in clips[:4]]
        extras[name] = torch.stack([torch.from_numpy(made[i % 4]) for i in range(batch)])
    raw = loader.RawBatch(
        clip_BTHWC=clips,
        labels_B=torch.randint(config.data_spec().num_classes, (batch,), generator=generator),
        keys=tuple(f"random {i}" for i in range(batch)),
        draws=tuple(Draw(i, 0) for i in range(batch)),
        extras=extras,
    )
    return raw.pin_memory() if target.type == "cuda" else raw


class _Uncounted(TorchDispatchMode):
    """Collects operations that look like products and have no FLOP formula."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = str(func).split(".")[1]
        words = ("mm", "matmul", "attention", "conv", "linear", "mv", "dot", "linalg", "einsum")
        if func.overloadpacket not in flop_registry and any(
            part.startswith(words) or part.endswith("mm") for part in name.split("_")
        ):
            self.names.add(name)
        return func(*args, **(kwargs or {}))


def count_flops(optimisation: Optimisation, raw: loader.RawBatch) -> dict[str, Any]:
    """FLOPs (2 per multiply-add) of the forward pass, and of one whole step as it is executed:
    recomputed activations and what fused attention computes twice are in the latter only.
    """
    optimisation.learner.train()
    with _Uncounted() as seen, FlopCounterMode(display=False) as forward:
        optimisation.losses(raw, number=0)
    with seen, FlopCounterMode(display=False) as executed:
        optimisation.step([raw], number=0, lr=optimisation.config.train.lr)
    return {
        "forward": forward.get_total_flops(),
        "executed": executed.get_total_flops(),
        "uncounted": sorted(seen.names),
    }


def count_syncs(optimisation: Optimisation, raw: loader.RawBatch) -> list[str] | None:
    """Where one step makes the host wait for the GPU; None on a CPU."""
    lr = optimisation.config.train.lr
    if optimisation.device.type != "cuda":
        optimisation.step([raw], number=2, lr=lr)
        return None
    torch.cuda.synchronize(optimisation.device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            optimisation.step([raw], number=2, lr=lr)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchronizing" in str(w.message)]
    return [f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}" for w in waits]


def time_steps(
    optimisation: Optimisation,
    raw: loader.RawBatch,
    *,
    steps: int | None,
    seconds: float,
    tell: Tell,
) -> list[float]:
    """Seconds of each step. On a GPU between events on its own clock, so that the host runs ahead
    as it does in training.
    """
    clock = Clock(optimisation.device)
    begun = time.perf_counter()
    done = 0
    while done < (steps or MIN_STEPS) or (not steps and time.perf_counter() - begun < seconds):
        optimisation.step([raw], number=3 + done, lr=optimisation.config.train.lr)
        clock.tick()
        done += 1
        tell(f"step {done}{f'/{steps}' if steps else ''}")
    return clock.intervals()


def _ceiling_beside(m: StepMeasurement) -> float:
    """The matmul rate right after a measurement: on a shared machine it changes with the load."""
    if m.device.startswith("cuda"):
        torch.cuda.empty_cache()
    found = measure_ceiling(m.precision, m.device, m.threads, seconds=min(m.seconds, 2.0))
    return found["flops_per_s"]
