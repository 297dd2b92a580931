"""`bench.speed step`: how fast a training step is, beside the machine's matmul rate.

It measures the training step of `bench.train.loop` itself (`Optimisation.step`: copy to the device,
normalise, forward, backward, AdamW) on random clips that lie ready on the host, so neither decoding
nor augmentation is in it. Each measurement is a process of its own, so that its peak memory is its
own. docs/performance.md defines every column.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench import find
from bench.config.mistakes import Mistake, Mistakes
from bench.grid import yaml
from bench.speed._measuring import (
    GIB,
    PRECISIONS,
    Numbers,
    Show,
    SpeedColumn,
    SpeedRow,
    check_out,
    free_memory,
    in_fresh_process,
    known,
    ok,
    or_dash,
    read_device,
)
from bench.speed._training_step import MIN_STEPS, SETS, StepMeasurement, config_of
from bench.store.files import write_json
from bench.train import environment

HELP = "the training step: clips/s, memory, FLOPs, fraction of the machine's matmul rate"
DESCRIPTION = (
    "Measure the training step of bench.train.loop on random clips that lie ready on the host."
)
GROWTH = 1.03  # `best` goes on doubling while clips/s grows by this factor


def run_step(plan: StepPlan, show: Show) -> tuple[list[SpeedRow], dict[str, Any]]:
    """Measure everything asked for, a row at a time. Returns the rows and the ceilings by precision."""
    rows: list[SpeedRow] = []
    ceilings: dict[str, Any] = {}
    first = plan.groups[0]
    for precision in plan.precisions:
        show.doing(f"matmul ceiling {precision}")
        task = {
            "function": "bench.speed._training_step:answer_ceiling",
            "precision": precision,
            "device": first.device,
            "threads": first.threads,
            "seconds": min(first.seconds, 5.0),
        }
        ceilings[precision] = in_fresh_process(task, show.doing)
    _start(show, first, ceilings)
    for group in plan.groups:
        ceiling = ceilings[group.precision].get("flops_per_s")
        for row in _measure_batches(group, plan.batches, ceiling, show):
            rows.append(row)
            show.row(row)
            _write(plan, rows, ceilings)
    return rows, ceilings


def _measure_batches(
    group: StepMeasurement, batches: tuple[int | None, ...], ceiling: float | None, show: Show
) -> Iterator[SpeedRow]:
    """A row for each batch size; None stands for `best`."""
    for batch in batches:
        if batch is None:
            yield from _double(group, ceiling, show)
        else:
            yield _measure_row(replace(group, batch=batch), ceiling, show)


def _double(group: StepMeasurement, ceiling: float | None, show: Show) -> Iterator[SpeedRow]:
    """Rows of batch 1, 2, 4 ... until memory ends or clips/s no longer grows."""
    best, batch = 0.0, 1
    while True:
        row = _measure_row(replace(group, batch=batch), ceiling, show)
        enough = row["status"] != "ok" or row["clips_per_s"] < GROWTH * best
        if enough:
            row["note"] = row["note"] or f"no faster than batch {batch // 2}"
        else:
            best = row["clips_per_s"]
            free = free_memory()
            if not group.device.startswith("cuda") and free and 2 * row["peak_bytes"] > free:
                enough, row["note"] = True, f"batch {2 * batch} may not fit into the free memory"
        yield row
        if enough:
            return
        batch *= 2


def _measure_row(m: StepMeasurement, ceiling: float | None, show: Show) -> SpeedRow:
    show.doing(str(m))
    answer = in_fresh_process(
        {"function": "bench.speed._training_step:answer_step", **asdict(m)},
        lambda text: show.doing(f"{m}: {text}", minor=True),
    )
    row = {**asdict(m), "objectives": list(m.objectives), **answer, "fraction_of_ceiling": None}
    if row["status"] == "ok":
        row["ceiling_flops_per_s"] = max(ceiling or 0.0, row["ceiling_flops_per_s"])
        rate = row["model_flops_per_step"] / row["step_s"]["median"]
        row["fraction_of_ceiling"] = rate / row["ceiling_flops_per_s"]
    return row


def _write(plan: StepPlan, rows: list[SpeedRow], ceilings: dict[str, Any]) -> None:
    if plan.out is None:
        return
    described = [c["environment"] for c in ceilings.values() if c["status"] == "ok"]
    ceilings = {
        precision: {k: v for k, v in ceiling.items() if k != "environment"}
        for precision, ceiling in ceilings.items()
    }
    first = described[0] if described else {}
    write_json(plan.out, {"what": "step", "environment": first, "ceilings": ceilings, "rows": rows})


# -- showing ---


def _times(row: SpeedRow) -> str:
    s = row["step_s"]
    return f"{s['median']:.4g} ({s['min']:.4g} to {s['max']:.4g}, n {s['n']})"


COLUMNS = (
    SpeedColumn("backbone", 12, lambda r: r["backbone"]),
    SpeedColumn("prec.", 5, lambda r: r["precision"]),
    SpeedColumn("step", 5, lambda r: r["step"]),
    SpeedColumn("batch", 5, lambda r: str(r["batch"])),
    SpeedColumn("clips/s", 7, ok(lambda r: f"{r['clips_per_s']:.4g}")),
    SpeedColumn("s/step (min to max)", 34, ok(_times)),
    SpeedColumn("peak GiB", 8, ok(lambda r: f"{r['peak_bytes'] / GIB:.3g}")),
    SpeedColumn("fwd TFLOP/clip", 9, ok(lambda r: f"{r['forward_flops_per_clip'] / 1e12:.3g}")),
    SpeedColumn("model TFLOP/step", 10, ok(lambda r: f"{r['model_flops_per_step'] / 1e12:.3g}")),
    SpeedColumn("of ceiling", 7, ok(lambda r: or_dash(r["fraction_of_ceiling"], ".1%"))),
    SpeedColumn("syncs", 5, ok(lambda r: or_dash(r["host_syncs_per_step"], "d"))),
    SpeedColumn("note", 16, lambda r: r["note"]),
)


def _start(show: Show, first: StepMeasurement, ceilings: dict[str, SpeedRow]) -> None:
    """What holds for all rows, and the table's head."""
    good = [c for c in ceilings.values() if c["status"] == "ok"]
    name = good[0]["environment"]["device"]["name"] if good else first.device
    show.line(
        f"{name}, {first.threads} threads, torch {torch.__version__}; {first.frames} frames of "
        f"{first.size} x {first.size}{', compiled' if first.compile else ''}"
    )
    for precision, ceiling in ceilings.items():
        show.line(f"ceiling {precision}: {_ceiling_text(precision, ceiling, first.device)}")
    show.line(
        "peak: " + ("GPU tensors" if first.device.startswith("cuda") else "the whole process")
    )
    show.head()


def _ceiling_text(precision: str, ceiling: SpeedRow, device: str) -> str:
    if ceiling["status"] != "ok":
        return f"unknown ({ceiling['note']})"
    size = max(ceiling["flops_per_s_by_size"], key=ceiling["flops_per_s_by_size"].get)
    text = f"{ceiling['flops_per_s'] / 1e12:.3g} TFLOP/s, matmul of {size} x {size}"
    if precision == "fp32" and device.startswith("cuda"):
        exact = ceiling["fp32_matmul_precision"] == "highest"
        text += f", TF32 {'off' if exact else 'on'} ({ceiling['fp32_matmul_precision']})"
    return text


# -- the command line ---


@dataclass(frozen=True)
class StepPlan:
    """A valid command: a measurement for each backbone, precision and step (its batch not set yet),
    and the batch sizes.
    """

    groups: tuple[StepMeasurement, ...]
    batches: tuple[int | None, ...]  # None: best
    precisions: tuple[str, ...]
    out: Path | None


def read_step(options: argparse.Namespace) -> StepPlan:
    """Validate the command line. Raises Mistakes with all that is wrong with it."""
    mistakes: list[Mistake] = []
    number = Numbers(mistakes)
    device = read_device(options.device, mistakes)
    cuda = device.startswith("cuda")
    precisions = known("--precision", options.precision, tuple(PRECISIONS), mistakes)
    backbones = known("--backbone", options.backbone, find.names("backbone"), mistakes)
    sets = _sets(options.objectives, mistakes)
    asked = options.batch or ["best" if cuda else "1"]
    batches = [None if text == "best" else number.whole("--batch", text) for text in asked]
    shared = {
        "options": _model_options(options.model, mistakes),
        "frames": number.whole("--frames", options.frames),
        "size": number.whole("--size", options.size),
        "classes": number.whole("--classes", options.classes),
        "threads": number.whole("--threads", options.threads or str(torch.get_num_threads())),
        "steps": number.whole("--steps", options.steps) if options.steps else None,
        "seconds": number.positive("--seconds", options.seconds),
        "device": device,
        "compile": options.compile,
    }
    if options.compile and (problem := environment.compile_problem(torch.device(device))):
        mistakes.append(Mistake(("--compile",), problem))
    check_out(options.out, mistakes)
    groups = [
        StepMeasurement(backbone=b, precision=p, step=s, batch=1, **shared)
        for b in backbones
        for p in precisions
        for s in sets
    ]
    if not number.wrong:
        _check_combinations(groups, mistakes)
    if mistakes:
        raise Mistakes(mistakes)
    return StepPlan(tuple(groups), tuple(dict.fromkeys(batches)), tuple(precisions), options.out)


def _sets(asked: list[str], mistakes: list[Mistake]) -> list[str]:
    known = find.names("objective")
    good = []
    for text in dict.fromkeys(asked or SETS):
        wrong = [name for name in text.split(",") if text not in SETS and name not in known]
        for name in wrong:
            hint = find.nearest(name, (*SETS, *known))
            mistakes.append(Mistake(("--objectives",), f"no {name!r}{hint}"))
        if not wrong:
            good.append(text)
    return good


def _model_options(settings: list[str], mistakes: list[Mistake]) -> dict[str, Any]:
    found = {}
    for text in settings:
        try:
            key, value = yaml.parse_setting(text)
            found[key] = value
        except ValueError:
            mistakes.append(Mistake(("--model",), f"write {text!r} as KEY=VALUE, e.g. depth=6"))
    return found


def _check_combinations(groups: list[StepMeasurement], mistakes: list[Mistake]) -> None:
    """The backbones' options, and sizes that do not go together."""
    for group in groups:
        try:
            if reason := config_of(group).skip_reason():
                mistakes.append(Mistake((), reason))
        except Mistakes as error:
            mistakes += [Mistake(("--model", *m.path), m.message) for m in error.mistakes]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--backbone", action="append", default=[], metavar="NAME",
        help=f"may be repeated; default all: {', '.join(find.names('backbone'))}")  # fmt: skip
    add("--precision", action="append", default=[], metavar="P",
        help="fp32 or bf16 (autocast); may be repeated; default both")  # fmt: skip
    add("--objectives", action="append", default=[], metavar="SET",
        help="plain (classify), TIME (with order, debias and flow), or names joined by commas; "
        "may be repeated; default plain and TIME")  # fmt: skip
    add("--batch", action="append", default=[], metavar="N",
        help="clips per step, or `best`: doubling until memory ends or clips/s no longer grows; "
        "may be repeated; default 1 on a CPU, best on a GPU")  # fmt: skip
    add("--frames", default="8", metavar="N", help="frames of a clip (default: %(default)s)")
    add("--size", default="224", metavar="N", help="pixels, side of a frame (default: %(default)s)")
    add("--classes", default="174", metavar="N", help="default: %(default)s, as in SSv2")
    add("--model", action="append", default=[], metavar="KEY=VALUE",
        help="an option of the backbones, e.g. depth=6; may be repeated; default ViT-B/16")  # fmt: skip
    add("--steps", metavar="N", help="time exactly so many steps")
    add("--seconds", default="20", metavar="S",
        help=f"else time steps for so long, at least {MIN_STEPS} (default: %(default)s)")  # fmt: skip
    add("--threads", metavar="N", help="CPU threads (default: what torch takes)")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1 ...")
    add("--compile", action="store_true", help="with torch.compile, as resources.compile=true")
    add("--out", type=Path, metavar="FILE.json", help="write all rows and what they were made with")


EPILOG = """what the columns say (docs/performance.md has the full definitions):
  clips/s       training clips per second; shuffled copies that an objective encodes do not count
  s/step        median, minimum and maximum of n steps, after warm-up
  peak GiB      of GPU tensors, or on a CPU of the whole process (Python and torch included)
  model TFLOP   3 x the forward pass of the step (1 forward, 2 backward), 2 per multiply-add;
                recomputed activations do not count
  of ceiling    model FLOPs per second / best rate of large matmuls on this machine, same threads
                and precision, measured before all rows and again after each
  syncs         how often a step makes the host wait for the GPU (should be 0)

examples:
  python -m bench.speed step                                     every backbone, both precisions, ViT-B/16
  python -m bench.speed step --backbone timesformer --precision bf16 --batch 8 --batch 16
  python -m bench.speed step --device cuda --out speed.json      the best batch for each
  python -m bench.speed step --compile                           the same with torch.compile
  python -m bench.speed step --model patch=8 --model dim=48 --model depth=3 --model heads=3 --size 24
                                                                 the size of --scale mini

exit status: 0 all measured or out of memory, 1 some rows failed, 2 bad input (nothing measured)"""


def run(options: argparse.Namespace) -> int:
    """Exit status; raises Mistakes, before anything is measured, with all that is wrong."""
    plan = read_step(options)
    with Show(COLUMNS) as show:
        rows, _ = run_step(plan, show)
    return 1 if any(row["status"] == "failed" for row in rows) else 0
