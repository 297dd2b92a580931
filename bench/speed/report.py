"""`bench.speed report`: how long `python -m reports.build` takes for many runs, and how much memory.

Finished runs as they lie on disk, with made-up numbers: a sweep over backbone, method and lr, and the same
without lr, so that the paper's tables have cells too. The command is measured from outside, as a user waits for
it; the second time nothing has changed. docs/performance.md defines every column.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.config.mistakes import Mistake, Mistakes
from bench.shown.streams import complain
from bench.speed._measuring import GIB, Numbers, Show, SpeedColumn, SpeedRow, check_out
from bench.store.files import write_json
from bench.store.result_files import Kind, write_result
from bench.store.rundir import RunDir, manifest_path
from bench.train import environment

HELP = "the report of many runs: seconds and memory of a first build and of one with nothing to do"
DESCRIPTION = "Measure how long python -m reports.build takes for a folder of many finished runs."
BACKBONES = ("TimeSformer", "Motionformer", "X-ViT")
METHODS = ("baseline", "+ order", "+ debias", "+ flow", "+ TIME")
SEEDS = 5
PER_RATE = len(BACKBONES) * len(METHODS) * SEEDS
SHOWN = {"TimeSformer": 0.5, "Motionformer": 0.55, "X-ViT": 0.4}
"""About what a made-up number is."""
_MEASURED = """
import atexit, os, re, runpy, time
def tell():  # ru_maxrss would be the parent's, where that was larger
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    os.write(2, f"\\n{time.process_time()} {peak}".encode())
atexit.register(tell)
runpy.run_module("reports.build", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class ReportPlan:
    """A valid command."""

    runs: int
    out: Path | None


# -- runs ---


def make_runs(folder: Path, count: int) -> int:
    """So many finished runs of two sweeps, of about 200 numbers each; returns how many numbers."""
    cells = list(itertools.islice(_cells(), count))
    rows = 0
    for labels, seed in cells:
        rows += _make_run(RunDir(folder / _signature(labels, seed)), labels, seed)
    for sweep, axes in (
        ("ablation", {"backbone", "method"}),
        ("rates", {"backbone", "lr", "method"}),
    ):
        ours = [cell for cell in cells if set(cell[0]) == axes]
        _make_manifest(folder, sweep, sorted(axes), ours)
    return rows


def _cells() -> Iterator[tuple[dict[str, str], int]]:
    for rate in itertools.count():
        further = {"lr": f"{1e-5 * rate:.5f}"} if rate else {}
        for backbone, method, seed in itertools.product(BACKBONES, METHODS, range(SEEDS)):
            yield {"backbone": backbone, "method": method, **further}, seed


def _signature(labels: Mapping[str, str], seed: int) -> str:
    return hashlib.sha256(json.dumps([labels, seed]).encode()).hexdigest()[:16]


def _asked(name: str) -> str:
    return f"{name}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _make_manifest(folder: Path, sweep: str, axes: list[str], cells: list[Any]) -> None:
    names = ("video.order_probe", "video.shuffle_gap")
    about: dict[str, Any] = {
        "skip": None,
        "left_out": {},
        "stale": None,
        "data": "mini_ssv2",
        "data_seed": 0,
    }
    asked = {_asked(name): name for name in names}
    found = [
        {
            "labels": labels,
            "seed": seed,
            "signature": _signature(labels, seed),
            "evaluations": asked,
            **about,
        }
        for labels, seed in cells
    ]
    head = {"sweep": sweep, "scale": "mini", "title": sweep, "axes": axes, "overrides": {}}
    write_result(manifest_path(folder, f"{sweep}-mini"), Kind.MANIFEST, {**head, "cells": found})


def _make_run(run: RunDir, labels: Mapping[str, str], seed: int) -> int:
    digest = hashlib.sha256(run.signature.encode()).hexdigest()
    run.create({"objectives": {"classify": {}}, "seed": seed}, {}, digest)
    made_by = {
        "code": {"commit": "0" * 40, "dirty": None},
        "device": {"type": "cpu", "name": "made up", "threads": 1, "compiled": False, "world": 1},
    }
    training = {"signature": run.signature, "data": "mini_ssv2", "data_digest": "0" * 64, **made_by}
    write_result(run.result, Kind.TRAINING, training)
    numbers = list(_numbers(random.Random(f"{run.signature}"), SHOWN[labels["backbone"]]))
    made_from = {"data": "mini_ssv2", "data_digest": "0" * 64, "provenance": "made up", **made_by}
    for name in sorted({row["evaluation"] for row in numbers}):
        rows = [row for row in numbers if row["evaluation"] == name]
        result = run.evaluation(_asked(name)).result
        write_result(result, Kind.EVALUATION, {"evaluation": name, **made_from, "rows": rows})
    return len(numbers)


def _numbers(dice: random.Random, about: float) -> Iterator[dict[str, Any]]:
    classes = [f"class: {k}" for k in range(8)]
    of_clips = itertools.product(
        ("tune", "test"),
        ("original", "shuffled", "reversed", "single_frame", "gap"),
        ("all", "temporal", "static", *classes),
        ("top1", "top5"),
    )
    layers = [f"layer_{k:02d}" for k in range(4)]
    of_layers = itertools.product(
        ("test",), ("ordered", "shuffled"), layers, ("frame_accuracy", "chance")
    )
    for evaluation, places in (("video.shuffle_gap", of_clips), ("video.order_probe", of_layers)):
        for split, view, subset, metric in places:
            place = {"split": split, "view": view, "subset": subset, "metric": metric}
            value = min(1.0, max(0.0, about + dice.gauss(0, 0.02)))
            yield {"evaluation": evaluation, **place, "value": value, "n": 400, "n_failed": 0}


# -- the command ---


def measure(runs: Path, out: Path) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and peak resident bytes of one build."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", _MEASURED, "--runs", str(runs), "--out", str(out)]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"reports.build ended with status {done.returncode}: {done.stderr}")
    cpu, peak = done.stderr.split()[-2:]
    return seconds, float(cpu), int(peak) * 1024


COLUMNS = (
    SpeedColumn("build", 6, lambda row: row["build"]),
    SpeedColumn("runs", 6, lambda row: str(row["runs"])),
    SpeedColumn("numbers", 9, lambda row: str(row["numbers"])),
    SpeedColumn("s", 7, lambda row: f"{row['seconds']:.1f}"),
    SpeedColumn("CPU s", 7, lambda row: f"{row['cpu_s']:.1f}"),
    SpeedColumn("peak GiB", 8, lambda row: f"{row['peak'] / GIB:.2f}"),
)


# -- the command line ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--runs", default="10000", metavar="N", help="finished runs (default: %(default)s)")
    add("--out", type=Path, metavar="FILE.json", help="write all rows and what they were made with")


EPILOG = """what the columns say (docs/performance.md has the full definitions):
  build      first: into an empty folder; second: the same again, nothing has changed
  numbers    rows of results, about 240 of each run
  s, CPU s   of the whole command, Python's start included
  peak GiB   the most that it had resident

examples:
  python -m bench.speed report
  python -m bench.speed report --runs 18

exit status: 0 measured, 1 the report could not be built, 2 bad input (nothing measured)"""


def read(options: argparse.Namespace) -> ReportPlan:
    """Validate the command line. Raises Mistakes with all that is wrong with it."""
    mistakes: list[Mistake] = []
    runs = Numbers(mistakes).whole("--runs", options.runs)
    check_out(options.out, mistakes)
    if mistakes:
        raise Mistakes(mistakes)
    return ReportPlan(runs, options.out)


def run(options: argparse.Namespace) -> int:
    """Exit status; raises Mistakes, before anything is measured, with all that is wrong."""
    asked = read(options)
    rows: list[SpeedRow] = []
    with Show(COLUMNS) as show, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        show.head()
        show.doing(f"making {asked.runs} runs")
        numbers = make_runs(folder / "runs", asked.runs)
        for build in ("first", "second"):
            show.doing(f"{build} build")
            try:
                seconds, cpu_s, peak = measure(folder / "runs", folder / "out")
            except RuntimeError as error:
                complain(error)
                return 1
            about = {"status": "ok", "build": build, "runs": asked.runs, "numbers": numbers}
            rows.append({**about, "seconds": seconds, "cpu_s": cpu_s, "peak": peak})
            show.row(rows[-1])
            if asked.out:
                made_with = environment.describe(torch.device("cpu"), threads=1)
                write_json(asked.out, {"environment": made_with, "rows": rows})
    return 0
