"""`bench.speed evaluate`: what probes of frozen features cost, beside plain forward passes.

In a process of its own, over clips that lie decoded in memory: the first of the evaluations alone;
then all of them in one call, which share features. Beside them, as the ceiling, plain forward passes
of the same model over a batch that is ready; measured before and after, and the higher rate counts.
Where the time goes is told apart: passes (loading, model, pooled features to the CPU) and the rest
(fitting and choosing the probes). docs/performance.md defines every column.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import find
from bench.config.mistakes import Mistake, Mistakes
from bench.config.science import RunConfig
from bench.evaluate.context import EvaluationContext, run_one
from bench.grid.patch import parse_settings
from bench.speed._measuring import (
    PRECISIONS,
    Numbers,
    Show,
    SpeedColumn,
    SpeedRow,
    Tell,
    check_out,
    in_fresh_process,
    ok,
    read_device,
)
from bench.speed._training_step import StepMeasurement, config_of
from bench.store.files import write_json
from bench.task import ProbeFeatures
from bench.train import environment
from bench.train.learner import build
from bench.train.step import autocast

HELP = "probes of frozen features: one, several in a call, beside plain forward passes"
DESCRIPTION = "Measure evaluations that share frozen features, over decoded clips in memory."
CLASSES = 4


@dataclass(frozen=True)
class ProbesMeasurement:
    """What is measured; travels to its process as JSON."""

    backbone: str
    options: dict[str, Any]
    evaluations: list[str]
    precision: str
    clips: int  # of the training split, and of the evaluated one
    batch: int
    frames: int
    size: int  # pixels
    threads: int
    device: str
    seconds: float

    @property
    def config(self) -> RunConfig:
        """Raises Mistakes."""
        step = StepMeasurement(
            self.backbone, self.options, self.precision, "plain", self.batch, self.frames, self.size,
            CLASSES, self.threads, self.device, compile=False, steps=None, seconds=self.seconds,
        )  # fmt: skip
        return config_of(step)


@dataclass(frozen=True)
class Decoded:
    """`task.Samples` of random pixels, in memory, as large as the model sees them."""

    split: str
    clips_MTHWC: np.ndarray
    classes: tuple[str, ...]
    digest: str = "random"
    provenance: str = "random"

    def __len__(self) -> int:
        return len(self.clips_MTHWC)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"{self.split}-{i}" for i in range(len(self)))

    @property
    def labels(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int64) % len(self.classes)

    @property
    def subsets(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    def num_frames(self, i: int) -> int:
        return self.clips_MTHWC.shape[1]

    def frames(self, i: int, indices: np.ndarray) -> np.ndarray:
        return self.clips_MTHWC[i, indices]

    def with_layer(self, name: str) -> np.ndarray:
        return np.zeros(0, np.int64)

    def layer(self, i: int, name: str) -> np.ndarray:
        raise ValueError(f"random clips have no {name}")


# -- in the process of the measurement ---


class _Timed(EvaluationContext):
    """Knows how long its features took."""

    passes_s = 0.0

    def features(
        self, split: str, views: Sequence[str] = ("original",), *, chosen: np.ndarray | None = None
    ) -> dict[str, ProbeFeatures]:
        begun = time.perf_counter()
        try:
            return super().features(split, views, chosen=chosen)
        finally:
            self.passes_s += time.perf_counter() - begun


def answer(task: dict[str, Any], tell: Tell) -> SpeedRow:
    """The measurement of a `ProbesMeasurement`."""
    m = ProbesMeasurement(**task)
    target = torch.device(m.device)
    torch.manual_seed(0)
    model = build(m.config, weights_dir=None).classifier.to(target).eval()
    splits = {split: _decoded(m, split) for split in ("train", "val")}
    tell("plain forward passes")
    rates = [_plain_rate(m, model, target)]
    for name in m.evaluations:  # imports, and the first call of every kernel
        run_one(name, find.load("evaluation", name).Config(), _context(m, model, _few(splits, m)))
    calls: dict[str, SpeedRow] = {}
    for names in (m.evaluations[:1], m.evaluations):
        text = " + ".join(names)
        tell(text)
        calls[text] = _call(names, _context(m, model, splits))
        rates.append(_plain_rate(m, model, target))
    return {
        "calls": calls,
        "plain_per_s": max(rates),
        "plain_per_s_all": rates,
        "environment": environment.describe(target, threads=m.threads),
    }


def _decoded(m: ProbesMeasurement, split: str) -> Decoded:
    rng = np.random.default_rng(len(split))
    shape = (m.clips, m.frames, m.size, m.size, 3)
    names = tuple(f"class {k}" for k in range(CLASSES))
    return Decoded(split, rng.integers(0, 256, shape, dtype=np.uint8), names)


def _few(splits: Mapping[str, Decoded], m: ProbesMeasurement) -> dict[str, Decoded]:
    few = max(2 * CLASSES, min(m.batch, m.clips))
    return {
        name: Decoded(name, part.clips_MTHWC[:few], part.classes) for name, part in splits.items()
    }


def _context(m: ProbesMeasurement, model: Any, splits: Mapping[str, Decoded]) -> _Timed:
    config, target = m.config, torch.device(m.device)
    return _Timed(
        model=model,
        spec=config.data_spec(),
        model_spec=config.model_spec(),
        input=config.input.model_copy(update={"eval_scale": 1.0}),
        device=target,
        seed=0,
        precision=m.precision,
        batch=m.batch,
        workers=0,
        open_split=splits.__getitem__,
        splits=("val",),
        report=lambda _: None,
    )


def _call(names: list[str], context: _Timed) -> SpeedRow:
    begun = time.perf_counter()
    for name in names:
        run_one(name, find.load("evaluation", name).Config(), context)
    wall_s = time.perf_counter() - begun
    return {"wall_s": wall_s, "passes_s": context.passes_s, "passes": context.store.passes}


@torch.no_grad()
def _plain_rate(m: ProbesMeasurement, model: Any, target: torch.device) -> float:
    """Clips per second of the model's forward pass over a batch on the device; the best pass of `seconds`."""
    clip_BTCHW = torch.randn(m.batch, m.frames, 3, m.size, m.size, device=target)
    best, ends = 0.0, time.perf_counter() + m.seconds
    with autocast(target, m.precision):
        model(clip_BTCHW)
        while time.perf_counter() < ends or not best:
            begun = time.perf_counter()
            model(clip_BTCHW).cpu()  # waits for the device
            best = max(best, m.batch / (time.perf_counter() - begun))
    return best


# -- in the process of the command ---


def run(options: argparse.Namespace) -> int:
    """Exit status; raises Mistakes, before anything is measured, with all that is wrong."""
    m = read(options)
    with Show(COLUMNS) as show:
        show.doing(f"{m.backbone}, {m.clips} + {m.clips} clips")
        task = {"function": f"{__name__}:answer", **asdict(m)}
        row = in_fresh_process(task, lambda text: show.doing(text, minor=True))
        show.line(
            f"{m.backbone} {m.precision}, {m.frames} x {m.size} x {m.size}, batch {m.batch}, {m.device}, "
            f"{m.threads} threads, torch {torch.__version__}; {m.clips} clips to learn, {m.clips} to judge"
        )
        show.head()
        for line in _lines(row):
            show.row(line)
    if options.out:
        write_json(options.out, {"what": "evaluate", **asdict(m), **row})
    return 0 if row["status"] == "ok" else 1


def _lines(row: SpeedRow) -> list[SpeedRow]:
    """A line for each call, or one for what failed."""
    if row["status"] != "ok":
        return [{**row, "call": "-"}]
    plain, first = row["plain_per_s"], next(iter(row["calls"].values()))
    return [
        {
            "status": "ok",
            "call": call,
            **spent,
            "cost": spent["wall_s"] / first["wall_s"],
            # of evaluations that ask for no features there are none
            "passes_of_ceiling": spent["passes"] / plain / (spent["passes_s"] or spent["wall_s"]),
            "all_of_ceiling": spent["passes"] / plain / spent["wall_s"],
            "note": f"ceiling {plain:.4g} clips/s",
        }
        for call, spent in row["calls"].items()
    ]


def read(options: argparse.Namespace) -> ProbesMeasurement:
    """Raises Mistakes."""
    mistakes: list[Mistake] = []
    numbers = Numbers(mistakes)
    names = options.evaluations.split(",")
    for name in names:
        if name not in find.names("evaluation"):
            near = find.nearest(name, find.names("evaluation"))
            mistakes.append(Mistake(("--evaluations",), f"no {name!r}{near}"))
    device = read_device(options.device, mistakes)
    check_out(options.out, mistakes)
    threads = options.threads and numbers.whole("--threads", options.threads)
    measured = ProbesMeasurement(
        backbone=options.backbone,
        options=parse_settings(options.model, mistakes),
        evaluations=names,
        precision=options.precision,
        clips=numbers.whole("--clips", options.clips),
        batch=numbers.whole("--batch", options.batch),
        frames=numbers.whole("--frames", options.frames),
        size=numbers.whole("--size", options.size),
        threads=threads or torch.get_num_threads(),
        device=device,
        seconds=numbers.positive("--seconds", options.seconds),
    )
    if not mistakes:
        try:
            config = measured.config
            if reason := config.skip_reason():
                mistakes.append(Mistake(("--backbone",), reason))
            mistakes += [m for name in names for m in _unasked(name, config)]
        except Mistakes as error:
            mistakes += error.mistakes
    if mistakes:
        raise Mistakes(mistakes)
    return measured


def _unasked(name: str, config: RunConfig) -> list[Mistake]:
    """Why an evaluation says nothing of frozen features of random clips."""
    skip = find.optional("evaluation", name, "skip")
    options = find.load("evaluation", name).Config()
    reason = skip and skip(options, config.model_spec(), config.data_spec())
    return [Mistake(("--evaluations",), f"{name}: {reason}")] if reason else []


COLUMNS = (
    SpeedColumn("one call of", 42, lambda r: r["call"]),
    SpeedColumn("passes", 7, ok(lambda r: str(r["passes"]))),
    SpeedColumn("s", 7, ok(lambda r: f"{r['wall_s']:.4g}")),
    SpeedColumn("cost", 6, ok(lambda r: f"{r['cost']:.2f}x")),
    SpeedColumn("fitting s", 9, ok(lambda r: f"{r['wall_s'] - r['passes_s']:.3g}")),
    SpeedColumn("passes of ceiling", 17, ok(lambda r: f"{r['passes_of_ceiling']:.1%}")),
    SpeedColumn("all of ceiling", 14, ok(lambda r: f"{r['all_of_ceiling']:.1%}")),
    SpeedColumn("note", 22, lambda r: r["note"]),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--evaluations", default="video.arrow_of_time,video.frozen_probe", metavar="NAMES",
        help="the first alone, then all in one call (default: %(default)s)")  # fmt: skip
    add("--backbone", default="timesformer", choices=find.names("backbone"),
        help="the model, with random weights (default: %(default)s)")  # fmt: skip
    add("--model", action="append", default=[], metavar="KEY=VALUE",
        help="an option of the backbone")  # fmt: skip
    add("--precision", default="fp32", choices=tuple(PRECISIONS), help="default: %(default)s")
    add("--clips", default="64", metavar="N",
        help="to learn from, and as many to judge (default: %(default)s)")  # fmt: skip
    add("--batch", default="8", metavar="N", help="default: %(default)s")
    add("--frames", default="8", metavar="N", help="per clip (default: %(default)s)")
    add("--size", default="224", metavar="PIXELS", help="default: %(default)s")
    add("--threads", metavar="N", help="CPU threads (default: what torch takes)")
    add("--seconds", default="5", metavar="S",
        help="measure plain forward passes for so long, each time (default: %(default)s)")  # fmt: skip
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1 ...")
    add("--out", type=Path, metavar="FILE.json",
        help="write all numbers and what they were made with")  # fmt: skip
